//! The connections of one stub: WebSocket, HTTP and TCP, as `wit/0.1/{websocket,http,tcp}.wit` promise them. Names no wasmtime.
//!
//! ```text
//!   guest call ── websocket_send, tcp_receive, … ──►  Connections ◄── poll_ready ── the sandbox's task, between guest calls
//!                  (never wait)                        │      ▲                       until it is pending
//!                                                      ▼      │ wakes: queues only its own entry
//!                                                   sockets, timers
//! ```
//!
//! [`Connections`] owns all of it and spawns nothing. A function that the stub calls polls its
//! socket once with the connection's own waker and returns what there is; whatever is left to do, [`Connections::poll_ready`] does from
//! the sandbox's task. Each connection has a waker of its own ([`readiness`]), so a busy one does not cost a poll of the others.
//!
//! Nothing is read from a connection whose data the stub does not fetch, beyond the one message (or piece) by which it is known that there is
//! something: back-pressure reaches the server. What waits to be sent is bounded as well; all bounds are in [`TransportLimits`].
//!
//! Everything leaves by way of `protostub-egress`, with the grants of the stub.

mod error;
mod headers;
mod http;
mod idle;
mod limits;
mod linger;
mod readiness;
mod tcp;
mod traffic;
mod websocket;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ::http::HeaderValue;
use futures_util::future::BoxFuture;
use protostub_egress::{Egress, Grants, Http1, Protection, Quota};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use url::Origin;

pub(crate) use self::{
    error::Error,
    http::{Head, Request},
    limits::TransportLimits,
    tcp::TcpState,
    websocket::{CloseReason, Frame, Handshake, WebSocketState},
};
use self::{
    idle::IdleConnections,
    readiness::{Owner, QueueEntry, Readiness, ReadyQueue},
    traffic::{MeteredStream, Traffic},
};

/// The value of the header `authorization` that the host puts into a request, once it has it; or why there is none.
pub(crate) type Authorization = BoxFuture<'static, Result<HeaderValue, String>>;

/// All connections of one stub. Belongs to the store's data; only the sandbox's task touches it.
pub(crate) struct Connections {
    route: Route,
    limits: TransportLimits,
    /// HTTP connections between two exchanges.
    idle: IdleConnections,
    /// By handle. Includes those that the stub closed and that still linger.
    connections: HashMap<u32, Connection>,
    /// The handles of the connections that linger, oldest first.
    closing: VecDeque<u32>,
    queue: Arc<ReadyQueue>,
}

/// How a stub's connections leave.
#[derive(Clone)]
struct Route {
    egress: Egress,
    quota: Quota,
    grants: Grants,
    traffic: Arc<Traffic>,
}

struct Connection {
    transport: Transport,
    /// The stub has closed it: it can no longer ask for it, and hears nothing of it.
    closing: bool,
    entry: Arc<QueueEntry>,
    /// `entry` as a waker.
    waker: Waker,
}

enum Transport {
    WebSocket(Box<websocket::WebSocket>),
    Http(Box<http::Exchange>),
    Tcp(Box<tcp::Tcp>),
}

impl Transport {
    /// Does what can be done now without waiting. Ready: there is nothing more to do, whatever happens.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::WebSocket(socket) => socket.drive(cx),
            Self::Http(exchange) => exchange.drive(cx),
            Self::Tcp(connection) => connection.drive(cx),
        }
    }

    fn readiness(&mut self) -> &mut Readiness {
        match self {
            Self::WebSocket(socket) => &mut socket.readiness,
            Self::Http(exchange) => &mut exchange.readiness,
            Self::Tcp(connection) => &mut connection.readiness,
        }
    }
}

impl Connections {
    /// No connection yet; those to come use `egress` with the stub's `grants`, and are charged
    /// to its `quota`.
    pub(crate) fn new(egress: Egress, quota: Quota, grants: Grants, limits: TransportLimits) -> Self {
        let queue = Arc::default();
        Self {
            route: Route { egress, quota, grants, traffic: Traffic::new(&limits) },
            limits,
            idle: IdleConnections::new(&queue),
            connections: HashMap::new(),
            closing: VecDeque::new(),
            queue,
        }
    }

    /// The next handle that the stub is owed a `ready` event for. To be called from one task, between guest calls, until it is pending; the task is
    /// woken when it is to be called again. It also sends what waits, answers pings, and finishes what the stub closed.
    ///
    /// Never waits, does a bounded piece of work, and names each handle once for each change since the stub last asked.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        if self.connections.is_empty() && self.idle.len() == 0 {
            return Poll::Pending;
        }
        self.queue.register(cx.waker());
        // What wakes itself meanwhile (it has more to do than its share) has its turn after the task has yielded.
        for _ in 0..self.queue.len() {
            match self.queue.pop() {
                Some(Owner::Handle(handle)) if self.drive(handle) => return Poll::Ready(handle),
                Some(Owner::Handle(_)) => {}
                Some(Owner::Idle) => self.idle.drive(),
                None => break,
            }
        }
        if self.queue.len() > 0 {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Ready when no closed connection lingers any more: after [`Self::close_all`] no later than [`TransportLimits::close_timeout`].
    /// For the end of the sandbox, instead of [`Self::poll_ready`].
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_ready(cx).is_ready() {}
        if self.closing.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Closes everything that the stub left open: WebSockets with 1001 (going away), TCP connections after what was sent; HTTP exchanges are
    /// cancelled. What is closed already, too, now has no more time than for the other side's answer.
    pub(crate) fn close_all(&mut self) {
        self.idle.close_all();
        let open: Vec<u32> =
            self.connections.iter().filter(|(_, connection)| !connection.closing).map(|(handle, _)| *handle).collect();
        for handle in open {
            self.http_cancel(handle);
            self.tcp_close(handle);
            self.websocket_close_with(handle, CloseCode::Away, "the stub was stopped");
        }
        for connection in self.connections.values_mut() {
            let cx = &mut Context::from_waker(&connection.waker);
            match &mut connection.transport {
                Transport::WebSocket(socket) => socket.shorten_linger(cx),
                Transport::Http(_) => {}
                Transport::Tcp(connection) => connection.shorten_linger(cx),
            }
        }
    }

    /// How many connections and exchanges the stub has open.
    pub(crate) fn open_count(&self) -> usize {
        self.connections.len() - self.closing.len()
    }

    /// Whether there is no room for one more.
    pub(crate) fn is_full(&self) -> bool {
        self.open_count() >= self.limits.connections
    }

    /// How often a connection had to wait to receive, and to send, since this was asked last: others had used up what a second has.
    pub(crate) fn take_throttled(&self) -> (u64, u64) {
        self.route.traffic.take_throttled()
    }

    /// The limits of the quota that refused a connection since this was asked last, and how often.
    pub(crate) fn take_refused(&self) -> [(&'static str, u64); 3] {
        self.route.quota.take_refusals()
    }

    /// Drives one connection; whether the stub is to be told of it.
    fn drive(&mut self, handle: u32) -> bool {
        let Some(connection) = self.connections.get_mut(&handle) else { return false };
        let finished = connection.transport.drive(&mut Context::from_waker(&connection.waker)).is_ready();
        if let Transport::Http(exchange) = &mut connection.transport {
            let idle = exchange.take_idle();
            self.keep_idle(idle);
        }
        let Some(connection) = self.connections.get_mut(&handle) else { return false };
        if !connection.closing {
            let announced = connection.transport.readiness().take_event();
            if announced {
                // The event of another interest may be due.
                connection.entry.enqueue();
            }
            return announced;
        }
        if finished {
            self.connections.remove(&handle);
            self.closing.retain(|closing| *closing != handle);
        }
        false
    }

    /// Keeps the connection of a finished exchange, if the stub has a place left.
    fn keep_idle(&mut self, idle: Option<(Origin, Http1<MeteredStream>)>) {
        let Some((origin, http)) = idle else { return };
        self.idle.insert(origin, http);
        self.evict_idle(0);
    }

    /// Closes idle connections until there are places for `more` connections.
    fn evict_idle(&mut self, more: usize) {
        while self.idle.len() > 0 && self.open_count() + self.idle.len() + more > self.limits.connections {
            self.idle.close_oldest();
        }
    }

    /// Checks the number of open connections.
    fn check_connection_limit(&self) -> Result<(), Error> {
        let open = self.open_count();
        if open < self.limits.connections {
            return Ok(());
        }
        Err(Error::Limit(format!(
            "{open} connections are open, and the limit is {}: close or cancel one first",
            self.limits.connections
        )))
    }

    /// Checks the quota for one more connection, so that the stub learns of it at once.
    fn check_quota(&mut self) -> Result<(), Error> {
        let quota = &self.route.quota;
        while self.idle.len() > 0 && quota.check().is_err_and(|limit| limit.setting() != "connect_attempts_per_second") {
            self.idle.close_oldest();
        }
        quota.check().map_err(|limit| {
            quota.note(limit);
            Error::Limit(limit.to_string())
        })
    }

    fn insert(&mut self, handle: u32, transport: Transport) {
        self.evict_idle(1);
        let entry = QueueEntry::new(Owner::Handle(handle), &self.queue);
        let waker = Waker::from(Arc::clone(&entry));
        // Connecting begins with the first poll.
        entry.enqueue();
        self.connections.insert(handle, Connection { transport, closing: false, entry, waker });
    }

    /// Does something with a connection that the stub still has, and has it looked at again afterwards.
    fn with<R>(&mut self, handle: u32, act: impl FnOnce(&mut Transport, &mut Context<'_>) -> Option<R>) -> Option<R> {
        let connection = self.connections.get_mut(&handle).filter(|connection| !connection.closing)?;
        let result = act(&mut connection.transport, &mut Context::from_waker(&connection.waker));
        connection.entry.enqueue();
        result
    }

    /// Ends a handle for the stub; `begin` starts what is left to do with the connection.
    fn close(&mut self, handle: u32, begin: impl FnOnce(&mut Transport)) {
        let Some(connection) = self.connections.get_mut(&handle).filter(|connection| !connection.closing) else { return };
        connection.closing = true;
        begin(&mut connection.transport);
        self.closing.push_back(handle);
        // At once: what fits into the socket's buffer leaves even if nobody polls any more.
        self.drive(handle);
        if self.closing.len() > self.limits.connections
            && let Some(oldest) = self.closing.pop_front()
        {
            self.connections.remove(&oldest);
        }
    }

    fn is(&self, handle: u32, kind: fn(&Transport) -> bool) -> bool {
        self.connections.get(&handle).is_some_and(|connection| !connection.closing && kind(&connection.transport))
    }
}

/// `websocket` of the contract.
impl Connections {
    /// Opens a WebSocket under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract; the handle then names nothing.
    pub(crate) fn websocket_open(
        &mut self,
        handle: u32,
        url: &str,
        protocols: &[String],
        headers: &[(String, String)],
        authorization: Option<Authorization>,
    ) -> Result<(), Error> {
        self.check_connection_limit()?;
        self.check_quota()?;
        let socket = websocket::WebSocket::open(&self.route, &self.limits, url, protocols, headers, authorization)?;
        self.insert(handle, Transport::WebSocket(Box::new(socket)));
        Ok(())
    }

    /// What the connection is; an unknown one is closed without a code.
    pub(crate) fn websocket_poll(&mut self, handle: u32) -> WebSocketState {
        self.websocket(handle, |socket, _| socket.poll()).unwrap_or_else(|| WebSocketState::Closed(CloseReason::default()))
    }

    /// The next frames, at least one if there is one; empty: nothing yet. A count or size of zero counts as one.
    ///
    /// # Errors
    /// `closed`, `io`.
    pub(crate) fn websocket_receive(&mut self, handle: u32, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>, Error> {
        self.websocket(handle, |socket, cx| socket.receive(cx, to_usize(max_frames), to_usize(max_bytes))).ok_or(Error::Closed)?
    }

    /// Takes frames to send, and says how many.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`; `limit`, for any frame that is too large, and then none is taken.
    pub(crate) fn websocket_send(&mut self, handle: u32, frames: Vec<Frame>) -> Result<u32, Error> {
        self.websocket(handle, |socket, cx| socket.send(cx, frames)).ok_or(Error::Closed)?
    }

    /// Starts the closing handshake and ends the handle. A code that is not a stub's to send is sent as 1000.
    pub(crate) fn websocket_close(&mut self, handle: u32, code: u16, reason: &str) {
        self.websocket_close_with(handle, websocket::allowed_close_code(code), reason);
    }

    fn websocket_close_with(&mut self, handle: u32, code: CloseCode, reason: &str) {
        if self.is(handle, |transport| matches!(transport, Transport::WebSocket(_))) {
            self.close(handle, |transport| {
                if let Transport::WebSocket(socket) = transport {
                    socket.close(code, reason);
                }
            });
        }
    }

    fn websocket<R>(&mut self, handle: u32, act: impl FnOnce(&mut websocket::WebSocket, &mut Context<'_>) -> R) -> Option<R> {
        self.with(handle, |transport, cx| if let Transport::WebSocket(socket) = transport { Some(act(socket, cx)) } else { None })
    }
}

/// `http` of the contract.
impl Connections {
    /// Sends a request under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract; the handle then names nothing.
    pub(crate) fn http_send(&mut self, handle: u32, request: Request, authorization: Option<Authorization>) -> Result<(), Error> {
        self.check_connection_limit()?;
        let sending = http::Sending::new(&self.route, &self.limits, request, authorization)?;
        let idle = self.idle.take(&sending.origin());
        if idle.is_none() {
            self.check_quota()?;
        }
        self.insert(handle, Transport::Http(Box::new(sending.over(idle))));
        Ok(())
    }

    /// The head of the response; none: not there yet.
    ///
    /// # Errors
    /// `io`, `closed`.
    pub(crate) fn http_poll(&mut self, handle: u32) -> Result<Option<Head>, Error> {
        self.exchange(handle, |exchange, _| exchange.poll()).ok_or(Error::Closed)?
    }

    /// The next bytes of the body; empty: nothing yet; none: that was all, and the handle is closed. A size of zero counts as one.
    ///
    /// # Errors
    /// `io`, `closed`, `busy`.
    pub(crate) fn http_receive(&mut self, handle: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        let received = self.exchange(handle, |exchange, cx| exchange.receive(cx, to_usize(max_bytes))).ok_or(Error::Closed)??;
        if received.is_none()
            && let Some(Connection { transport: Transport::Http(mut exchange), .. }) = self.connections.remove(&handle)
        {
            self.keep_idle(exchange.take_idle());
        }
        Ok(received)
    }

    /// Ends the exchange and the handle.
    pub(crate) fn http_cancel(&mut self, handle: u32) {
        if self.is(handle, |transport| matches!(transport, Transport::Http(_))) {
            self.connections.remove(&handle);
        }
    }

    fn exchange<R>(&mut self, handle: u32, act: impl FnOnce(&mut http::Exchange, &mut Context<'_>) -> R) -> Option<R> {
        self.with(handle, |transport, cx| if let Transport::Http(exchange) = transport { Some(act(exchange, cx)) } else { None })
    }
}

/// `tcp` of the contract.
impl Connections {
    /// Opens a connection under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract; the handle then names nothing.
    pub(crate) fn tcp_open(&mut self, handle: u32, host: &str, port: u16, protection: Protection) -> Result<(), Error> {
        self.check_connection_limit()?;
        self.check_quota()?;
        let connection = tcp::Tcp::open(&self.route, &self.limits, host, port, protection)?;
        self.insert(handle, Transport::Tcp(Box::new(connection)));
        Ok(())
    }

    /// Begins TLS on an open plain connection.
    ///
    /// # Errors
    /// `denied`, `invalid`, `busy`, `closed`, `io`.
    pub(crate) fn tcp_start_tls(&mut self, handle: u32, server_name: &str) -> Result<(), Error> {
        self.tcp(handle, |connection, cx| connection.start_tls(cx, server_name)).ok_or(Error::Closed)?
    }

    /// What the connection is; an unknown one is closed.
    pub(crate) fn tcp_poll(&mut self, handle: u32) -> TcpState {
        self.tcp(handle, |connection, _| connection.poll()).unwrap_or(TcpState::Closed)
    }

    /// The next bytes; empty: nothing yet; none: the other side ended its half. A size of zero counts as one.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`.
    pub(crate) fn tcp_receive(&mut self, handle: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        self.tcp(handle, |connection, cx| connection.receive(cx, to_usize(max_bytes))).ok_or(Error::Closed)?
    }

    /// Takes bytes to send, and says how many.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`.
    pub(crate) fn tcp_send(&mut self, handle: u32, bytes: &[u8]) -> Result<u32, Error> {
        self.tcp(handle, |connection, cx| connection.send(cx, bytes)).ok_or(Error::Closed)?
    }

    /// Ends the connection, after what was sent, and the handle.
    pub(crate) fn tcp_close(&mut self, handle: u32) {
        if self.is(handle, |transport| matches!(transport, Transport::Tcp(_))) {
            self.close(handle, |transport| {
                if let Transport::Tcp(connection) = transport {
                    connection.close();
                }
            });
        }
    }

    fn tcp<R>(&mut self, handle: u32, act: impl FnOnce(&mut tcp::Tcp, &mut Context<'_>) -> R) -> Option<R> {
        self.with(
            handle,
            |transport, cx| if let Transport::Tcp(connection) = transport { Some(act(connection, cx)) } else { None },
        )
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.open_count())
            .field("closing", &self.closing.len())
            .field("idle", &self.idle.len())
            .finish_non_exhaustive()
    }
}

/// A count of the contract; at least one, since with nothing to be had a stub could not tell "nothing yet" from "nothing asked for".
fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests;
