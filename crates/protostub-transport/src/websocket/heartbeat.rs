//! Detects WebSocket servers that are gone.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tokio_tungstenite::WebSocketStream;

use crate::traffic::MeteredStream;

/// The WebSocket over a connection that detects silence.
pub(super) type Stream = WebSocketStream<ReadMonitor>;

/// A connection that records whether bytes came. Parts of a message count too: a large message may
/// take longer than the time for a pong.
#[derive(Debug)]
pub(crate) struct ReadMonitor {
    connection: MeteredStream,
    has_read: bool,
}

impl ReadMonitor {
    pub(super) fn new(connection: MeteredStream) -> Self {
        Self { connection, has_read: false }
    }

    /// Charges a received ping or pong.
    pub(crate) fn count_control_frame(&self) {
        self.connection.count_control_frame();
    }

    /// Returns `true` if bytes were read since the last call.
    pub(super) fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.has_read)
    }
}

impl AsyncRead for ReadMonitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        self.has_read |= buffer.filled().len() > before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadMonitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

/// The timer of an open connection. After a silent interval, a ping is due. After a second one, the
/// connection has timed out.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    /// A ping was sent, and no bytes have come since.
    pinged: bool,
}

/// The result of a silent interval.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeartbeatEvent {
    /// The server was silent for an interval.
    PingDue,
    /// The server did not answer the ping within another interval.
    TimedOut,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, timer: Box::pin(sleep(interval)), pinged: false }
    }

    /// Ready at the end of a silent interval. Calls `sign_of_life` at the end of each interval,
    /// which returns `true` if bytes came or could not have been read.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>, sign_of_life: impl FnOnce() -> bool) -> Poll<HeartbeatEvent> {
        ready!(self.timer.as_mut().poll(cx));
        self.timer.as_mut().reset(Instant::now() + self.interval);
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        let silent = !sign_of_life();
        let pinged = std::mem::replace(&mut self.pinged, silent);
        match (silent, pinged) {
            (false, _) => Poll::Pending,
            (true, false) => Poll::Ready(HeartbeatEvent::PingDue),
            (true, true) => Poll::Ready(HeartbeatEvent::TimedOut),
        }
    }
}
