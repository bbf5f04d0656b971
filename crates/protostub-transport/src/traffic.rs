//! Limits the bytes that the connections of one stub receive and send per second.

use std::{
    future::Future as _,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use protostub_egress::Connection;
use protostub_types::{TokenBucket, deadline};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep_until},
};

use crate::TransportLimits;

/// Charge for a ping or a pong. The host reads and answers these frames without the stub.
const CONTROL_FRAME_BYTES: usize = 1 << 10;
/// Maximum size of one write. A second's share is overdrawn by at most this size.
const WRITE_BYTES: usize = 64 << 10;

/// The traffic of all connections of a stub, in both directions.
#[derive(Debug)]
pub(crate) struct Traffic {
    incoming: Mutex<Flow>,
    outgoing: Mutex<Flow>,
}

#[derive(Debug)]
struct Flow {
    bucket: TokenBucket,
    /// Number of times that a connection had to wait.
    throttled: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Traffic {
    pub(crate) fn new(limits: &TransportLimits) -> Arc<Self> {
        let flow = |per_second| Mutex::new(Flow { bucket: TokenBucket::new(per_second, Instant::now()), throttled: 0 });
        Arc::new(Self { incoming: flow(limits.bytes_in_per_second), outgoing: flow(limits.bytes_out_per_second) })
    }

    fn flow(&self, direction: Direction) -> MutexGuard<'_, Flow> {
        let flow = match direction {
            Direction::In => &self.incoming,
            Direction::Out => &self.outgoing,
        };
        flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often a connection had to wait to receive and to send since the last call.
    pub(crate) fn take_throttled(&self) -> (u64, u64) {
        let take = |direction| mem::take(&mut self.flow(direction).throttled);
        (take(Direction::In), take(Direction::Out))
    }
}

/// The share of one connection in the traffic of one direction.
#[derive(Debug)]
pub(crate) struct Throttle {
    traffic: Arc<Traffic>,
    direction: Direction,
    /// The time until which the connection must wait. Created at the first wait.
    closed: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl Throttle {
    pub(crate) fn new(traffic: &Arc<Traffic>, direction: Direction) -> Self {
        Self { traffic: Arc::clone(traffic), direction, closed: None, waits: false }
    }

    /// Ready when bytes may flow.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let wait = {
                let mut flow = self.traffic.flow(self.direction);
                let wait = flow.bucket.wait(now);
                flow.throttled += u64::from(wait.is_some() && !self.waits);
                wait
            };
            self.waits = wait.is_some();
            let Some(wait) = wait else { return Poll::Ready(()) };
            let until = tokio::time::Instant::from_std(deadline(now, wait));
            let closed = self.closed.get_or_insert_with(|| Box::pin(sleep_until(until)));
            closed.as_mut().reset(until);
            if closed.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Charges bytes that have flowed.
    pub(crate) fn count(&self, bytes: usize) {
        self.traffic.flow(self.direction).bucket.take(u64::try_from(bytes).unwrap_or(u64::MAX), Instant::now());
    }
}

/// A connection that charges its bytes.
#[derive(Debug)]
pub(crate) struct MeteredStream {
    connection: Connection,
    incoming: Throttle,
    outgoing: Throttle,
}

impl MeteredStream {
    pub(crate) fn new(connection: Connection, traffic: &Arc<Traffic>) -> Self {
        Self { connection, incoming: Throttle::new(traffic, Direction::In), outgoing: Throttle::new(traffic, Direction::Out) }
    }

    pub(crate) fn into_inner(self) -> Connection {
        self.connection
    }

    /// Charges a received ping or pong.
    pub(crate) fn count_control_frame(&self) {
        self.incoming.count(CONTROL_FRAME_BYTES);
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.incoming.poll_ready(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        self.incoming.count(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.outgoing.poll_ready(cx));
        let written = ready!(Pin::new(&mut self.connection).poll_write(cx, &bytes[..bytes.len().min(WRITE_BYTES)]))?;
        self.outgoing.count(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
