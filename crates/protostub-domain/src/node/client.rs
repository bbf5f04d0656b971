//! The sending side of one client's connection. All senders of messages to the client share it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::{mpsc, watch};

/// How a client's connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// Closes the TCP connection without a WebSocket close frame: a client sees code 1006.
    Lost,
    /// Sends a close frame without a code: a client sees code 1005. Queued messages are written
    /// before.
    Closed,
    /// Sends a close frame with this code (RFC 6455 section 7.4). Queued messages are written
    /// before.
    ClosedWith {
        /// 1000 for a normal closure, 1001 for a server that goes away, …
        code: u16,
        /// At most 123 bytes.
        reason: String,
    },
}

impl Ending {
    pub(crate) fn with(code: u16, reason: &str) -> Self {
        Self::ClosedWith { code, reason: reason.to_owned() }
    }
}

/// A queue to one client, with limits on messages and bytes.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    queue: mpsc::Sender<Utf8Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    ending: Arc<watch::Sender<Option<Ending>>>,
}

/// The receiving side of a [`Client`].
pub(crate) struct Queue {
    messages: mpsc::Receiver<Utf8Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Client {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> (Self, Queue) {
        let (queue, messages) = mpsc::channel(max_messages.max(1));
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        (
            Self { queue, queued_bytes: Arc::clone(&queued_bytes), max_bytes, ending: Arc::new(watch::Sender::new(None)) },
            Queue { messages, queued_bytes },
        )
    }

    /// Queues a message. Returns `true` if there was room, and the connection is not about to end.
    pub(crate) fn push(&self, text: Utf8Bytes) -> bool {
        let bytes = text.as_str().len();
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.max_bytes || self.ending.borrow().is_some() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let taken = self.queue.try_send(text).is_ok();
        if !taken {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Ends the connection. Only the first call counts.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(ending);
            first
        });
    }

    /// Waits until the connection has to end, and returns how.
    pub(crate) async fn ended(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        let ended = ending.wait_for(Option::is_some).await.ok().and_then(|ending| ending.clone());
        // `self` holds the sender, so the wait ends with a value.
        ended.unwrap_or(Ending::Lost)
    }

    /// Returns `true` if the queue is half full. The node reads no further messages of such a
    /// client.
    pub(crate) fn is_congested(&self) -> bool {
        self.queue.capacity() < self.queue.max_capacity() / 2 || self.queued_bytes.load(Ordering::Relaxed) > self.max_bytes / 2
    }
}

impl Queue {
    pub(crate) async fn next(&mut self) -> Option<Utf8Bytes> {
        let text = self.messages.recv().await?;
        self.queued_bytes.fetch_sub(text.as_str().len(), Ordering::Relaxed);
        Some(text)
    }

    /// Returns the messages that were queued before the ending.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = Utf8Bytes> + '_ {
        std::iter::from_fn(|| self.messages.try_recv().ok())
    }
}
