//! Messages that wait to be sent on a WebSocket connection.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::Sink as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::heartbeat::Stream;

/// Maximum number of bytes in the WebSocket layer before it must write them out. The layer holds
/// these and one more message.
pub(super) const WRITE_AHEAD_BYTES: usize = 32 << 10;
/// Charge for a waiting message in addition to its payload: its place in the queue and its header.
/// Without the charge, empty messages would be free.
const OVERHEAD_BYTES: usize = 64;

/// Messages that wait to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Bytes given to the WebSocket layer since it was last empty.
    unflushed_bytes: usize,
}

impl Outbox {
    /// Number of bytes that count towards the limit.
    pub(crate) fn bytes(&self) -> usize {
        self.queued_bytes + self.unflushed_bytes
    }

    pub(super) fn push(&mut self, message: Message) {
        self.queued_bytes += message.len() + OVERHEAD_BYTES;
        self.queue.push_back(message);
    }

    /// Moves messages into the WebSocket layer and from there into the socket. Ready when no
    /// message waits.
    pub(super) fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        loop {
            while self.unflushed_bytes < WRITE_AHEAD_BYTES
                && let Some(message) = self.queue.pop_front()
            {
                let bytes = message.len() + OVERHEAD_BYTES;
                self.queued_bytes -= bytes;
                self.unflushed_bytes += bytes;
                Pin::new(&mut *stream).start_send(message)?;
            }
            if self.unflushed_bytes == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            self.unflushed_bytes = 0;
        }
    }
}
