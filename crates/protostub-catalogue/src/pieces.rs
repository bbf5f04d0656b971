use std::mem;

use bytes::{Bytes, BytesMut};
use tokio::task::yield_now;

/// Minimum size of a chunk that is kept without a copy, in bytes. Smaller chunks are collected up
/// to this size.
const PIECE_BYTES: usize = 1 << 20;
/// Number of bytes that are hashed or copied in one turn of a thread. That takes less than 0.1 ms.
pub(crate) const TURN_BYTES: usize = 64 << 10;

/// The bytes of a document while it comes.
///
/// The bytes are kept in pieces. A single growing buffer would copy up to half of a large document
/// in one turn of a thread.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    complete: Vec<Bytes>,
    last: BytesMut,
    length: usize,
}

impl Pieces {
    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Returns `true` if no bytes were added.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a chunk at the end. A small chunk is copied.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        if chunk.len() >= PIECE_BYTES {
            self.complete_last();
            self.complete.push(chunk);
            return;
        }
        self.last.extend_from_slice(&chunk);
        if self.last.len() >= PIECE_BYTES {
            self.complete_last();
        }
    }

    fn complete_last(&mut self) {
        if !self.last.is_empty() {
            self.complete.push(mem::take(&mut self.last).freeze());
        }
    }

    /// Joins the pieces. A single piece is not copied. Yields to other tasks between copies.
    pub(crate) async fn join(mut self) -> Bytes {
        self.complete_last();
        if self.complete.len() < 2 {
            return self.complete.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.length);
        for piece in self.complete {
            for part in piece.chunks(TURN_BYTES) {
                joined.extend_from_slice(part);
                yield_now().await;
            }
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_of_any_size_join_in_their_order() {
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES).map(|n| (n % 251) as u8).collect();
        for sizes in [&[1, 7, 4096][..], &[PIECE_BYTES], &[3, 2 * PIECE_BYTES, 100_000], &[5 * PIECE_BYTES]] {
            let (mut pieces, mut rest) = (Pieces::default(), &bytes[..]);
            for size in sizes.iter().cycle() {
                let (chunk, behind) = rest.split_at((*size).min(rest.len()));
                pieces.push(Bytes::copy_from_slice(chunk));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            assert_eq!((pieces.len(), pieces.is_empty()), (bytes.len(), false));
            assert!(pieces.join().await == bytes, "{sizes:?}");
        }
        assert!(Pieces::default().join().await.is_empty());
    }

    #[tokio::test]
    async fn large_chunk_alone_is_not_copied() {
        let chunk = Bytes::from(vec![1; PIECE_BYTES]);
        let mut pieces = Pieces::default();
        pieces.push(chunk.clone());
        assert_eq!(pieces.join().await.as_ptr(), chunk.as_ptr());
    }
}
