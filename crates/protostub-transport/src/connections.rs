//! All connections of one stub, by handle.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use protostub_egress::{Egress, Grants, Http1, Protection, Quota};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use url::Origin;

use crate::{
    Authorization, CloseReason, Frame, Head, Request, TcpState, TransportError, TransportLimits, WebSocketState,
    http::{Exchange, Sending},
    idle::IdleConnections,
    readiness::{Owner, QueueEntry, Readiness, ReadyQueue},
    route::Route,
    tcp::Tcp,
    traffic::{MeteredStream, Traffic},
    websocket::{WebSocket, allowed_close_code},
};

/// All connections of one stub. Only the sandbox's task uses them.
pub struct Connections {
    route: Route,
    limits: TransportLimits,
    /// HTTP connections between two exchanges.
    idle: IdleConnections,
    /// Connections by handle. Includes those that the stub closed and that still linger.
    connections: HashMap<u32, Connection>,
    /// The handles of lingering connections, oldest first.
    closing: VecDeque<u32>,
    queue: Arc<ReadyQueue>,
}

struct Connection {
    transport: Transport,
    /// The stub has closed the connection: it can no longer use the handle, and gets no more
    /// events.
    closing: bool,
    entry: Arc<QueueEntry>,
    /// `entry` as a waker.
    waker: Waker,
}

enum Transport {
    WebSocket(Box<WebSocket>),
    Http(Box<Exchange>),
    Tcp(Box<Tcp>),
}

impl Transport {
    /// Does all work that is possible without waiting. Ready when no work is left, independent of
    /// later events.
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
    /// Creates the set without a connection. Connections use `egress` with the stub's `grants`, and
    /// are charged to its `quota`.
    #[must_use]
    pub fn new(egress: Egress, quota: Quota, grants: Grants, limits: TransportLimits) -> Self {
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

    /// Returns the next handle for which the stub is owed a `ready` event. Also sends waiting data,
    /// answers pings, and finishes connections that the stub closed.
    ///
    /// One task must call this method between guest calls until the result is pending. The task is
    /// woken when it must call again. The method never waits, and does a bounded amount of work. It
    /// returns each handle once for each change since the stub last asked.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        if self.connections.is_empty() && self.idle.len() == 0 {
            return Poll::Pending;
        }
        self.queue.register(cx.waker());
        // A connection that has more work than its share wakes itself. It gets its turn after the
        // task has yielded.
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

    /// Ready when no closed connection lingers. After [`Self::close_all`], this takes at most
    /// [`TransportLimits::close_timeout`]. Use it at the end of the sandbox, instead of
    /// [`Self::poll_ready`].
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_ready(cx).is_ready() {}
        if self.closing.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Closes everything that the stub left open: WebSockets with 1001 (going away), and TCP
    /// connections after their sent data. Cancels HTTP exchanges. Connections that are already
    /// closing also get no more time than for the other side's answer.
    pub fn close_all(&mut self) {
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

    /// Returns the number of connections and exchanges that the stub has open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.connections.len() - self.closing.len()
    }

    /// Returns `true` if the stub cannot open another connection.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open_count() >= self.limits.connections
    }

    /// Returns how often a connection had to wait to receive and to send since the last call,
    /// because the connections had used up the bytes of a second.
    pub fn take_throttled(&self) -> (u64, u64) {
        self.route.traffic.take_throttled()
    }

    /// Returns the settings of the quota's limits, each with the number of connections that it
    /// refused since the last call.
    pub fn take_refused(&self) -> [(&'static str, u64); 3] {
        self.route.quota.take_refusals()
    }

    /// Drives one connection. Returns `true` if the stub is owed an event.
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

    /// Checks the limit of open connections.
    fn check_connection_limit(&self) -> Result<(), TransportError> {
        let open = self.open_count();
        if open < self.limits.connections {
            return Ok(());
        }
        Err(TransportError::Limit(format!(
            "{open} connections are open, and the limit is {}: close or cancel one first",
            self.limits.connections
        )))
    }

    /// Checks the quota for one more connection, so that the stub gets the error at once.
    fn check_quota(&mut self) -> Result<(), TransportError> {
        let quota = &self.route.quota;
        while self.idle.len() > 0 && quota.check().is_err_and(|limit| limit.setting() != "connect_attempts_per_second") {
            self.idle.close_oldest();
        }
        quota.check().map_err(|limit| {
            quota.note(limit);
            TransportError::Limit(limit.to_string())
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

    /// Runs `act` on a connection that the stub has open, and queues the connection for the next
    /// poll.
    fn with<R>(&mut self, handle: u32, act: impl FnOnce(&mut Transport, &mut Context<'_>) -> Option<R>) -> Option<R> {
        let connection = self.connections.get_mut(&handle).filter(|connection| !connection.closing)?;
        let result = act(&mut connection.transport, &mut Context::from_waker(&connection.waker));
        connection.entry.enqueue();
        result
    }

    /// Closes a handle for the stub. `begin` starts the remaining work on the connection.
    fn close(&mut self, handle: u32, begin: impl FnOnce(&mut Transport)) {
        let Some(connection) = self.connections.get_mut(&handle).filter(|connection| !connection.closing) else { return };
        connection.closing = true;
        begin(&mut connection.transport);
        self.closing.push_back(handle);
        // Drives at once: data that fits into the socket's buffer leaves even if no further poll
        // follows.
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

/// The contract's interface `websocket`.
impl Connections {
    /// Opens a WebSocket under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract. The handle then refers to no connection.
    pub fn websocket_open(
        &mut self,
        handle: u32,
        url: &str,
        protocols: &[String],
        headers: &[(String, String)],
        authorization: Option<Authorization>,
    ) -> Result<(), TransportError> {
        self.check_connection_limit()?;
        self.check_quota()?;
        let socket = WebSocket::open(&self.route, &self.limits, url, protocols, headers, authorization)?;
        self.insert(handle, Transport::WebSocket(Box::new(socket)));
        Ok(())
    }

    /// Returns the state of a WebSocket. An unknown handle counts as closed without a code.
    pub fn websocket_poll(&mut self, handle: u32) -> WebSocketState {
        self.websocket(handle, |socket, _| socket.poll()).unwrap_or_else(|| WebSocketState::Closed(CloseReason::default()))
    }

    /// Takes the next frames. The result is empty only if there is no frame yet. A count or size of
    /// zero means one.
    ///
    /// # Errors
    /// `closed`, `io`.
    pub fn websocket_receive(&mut self, handle: u32, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>, TransportError> {
        self.websocket(handle, |socket, cx| socket.receive(cx, to_usize(max_frames), to_usize(max_bytes)))
            .ok_or(TransportError::Closed)?
    }

    /// Sends frames. Returns the number of accepted frames.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`; `limit` if any frame is too large. Then no frame is accepted.
    pub fn websocket_send(&mut self, handle: u32, frames: Vec<Frame>) -> Result<u32, TransportError> {
        self.websocket(handle, |socket, cx| socket.send(cx, frames)).ok_or(TransportError::Closed)?
    }

    /// Starts the closing handshake and ends the handle. A code that a stub must not send becomes
    /// 1000.
    pub fn websocket_close(&mut self, handle: u32, code: u16, reason: &str) {
        self.websocket_close_with(handle, allowed_close_code(code), reason);
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

    fn websocket<R>(&mut self, handle: u32, act: impl FnOnce(&mut WebSocket, &mut Context<'_>) -> R) -> Option<R> {
        self.with(handle, |transport, cx| if let Transport::WebSocket(socket) = transport { Some(act(socket, cx)) } else { None })
    }
}

/// The contract's interface `http`.
impl Connections {
    /// Sends a request under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract. The handle then refers to no connection.
    pub fn http_send(
        &mut self,
        handle: u32,
        request: Request,
        authorization: Option<Authorization>,
    ) -> Result<(), TransportError> {
        self.check_connection_limit()?;
        let sending = Sending::new(&self.route, &self.limits, request, authorization)?;
        let idle = self.idle.take(&sending.origin());
        if idle.is_none() {
            self.check_quota()?;
        }
        self.insert(handle, Transport::Http(Box::new(sending.over(idle))));
        Ok(())
    }

    /// Returns the head of the response, or `None` if the head has not arrived yet.
    ///
    /// # Errors
    /// `io`, `closed`.
    pub fn http_poll(&mut self, handle: u32) -> Result<Option<Head>, TransportError> {
        self.exchange(handle, |exchange, _| exchange.poll()).ok_or(TransportError::Closed)?
    }

    /// Takes the next bytes of the body. The result is empty if there are none yet. Returns `None`
    /// at the end of the body, which closes the handle. A size of zero means one.
    ///
    /// # Errors
    /// `io`, `closed`, `busy`.
    pub fn http_receive(&mut self, handle: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, TransportError> {
        let received =
            self.exchange(handle, |exchange, cx| exchange.receive(cx, to_usize(max_bytes))).ok_or(TransportError::Closed)??;
        if received.is_none()
            && let Some(Connection { transport: Transport::Http(mut exchange), .. }) = self.connections.remove(&handle)
        {
            self.keep_idle(exchange.take_idle());
        }
        Ok(received)
    }

    /// Ends the exchange and the handle.
    pub fn http_cancel(&mut self, handle: u32) {
        if self.is(handle, |transport| matches!(transport, Transport::Http(_))) {
            self.connections.remove(&handle);
        }
    }

    fn exchange<R>(&mut self, handle: u32, act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> R) -> Option<R> {
        self.with(handle, |transport, cx| if let Transport::Http(exchange) = transport { Some(act(exchange, cx)) } else { None })
    }
}

/// The contract's interface `tcp`.
impl Connections {
    /// Opens a connection under a handle that was never used before.
    ///
    /// # Errors
    /// `denied`, `invalid`, `limit`, as in the contract. The handle then refers to no connection.
    pub fn tcp_open(&mut self, handle: u32, host: &str, port: u16, protection: Protection) -> Result<(), TransportError> {
        self.check_connection_limit()?;
        self.check_quota()?;
        let connection = Tcp::open(&self.route, &self.limits, host, port, protection)?;
        self.insert(handle, Transport::Tcp(Box::new(connection)));
        Ok(())
    }

    /// Begins TLS on an open plain connection.
    ///
    /// # Errors
    /// `denied`, `invalid`, `busy`, `closed`, `io`.
    pub fn tcp_start_tls(&mut self, handle: u32, server_name: &str) -> Result<(), TransportError> {
        self.tcp(handle, |connection, cx| connection.start_tls(cx, server_name)).ok_or(TransportError::Closed)?
    }

    /// Returns the state of a TCP connection. An unknown handle counts as closed.
    pub fn tcp_poll(&mut self, handle: u32) -> TcpState {
        self.tcp(handle, |connection, _| connection.poll()).unwrap_or(TcpState::Closed)
    }

    /// Takes the next bytes. The result is empty if there are none yet. Returns `None` if the peer
    /// ended its half. A size of zero means one.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`.
    pub fn tcp_receive(&mut self, handle: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, TransportError> {
        self.tcp(handle, |connection, cx| connection.receive(cx, to_usize(max_bytes))).ok_or(TransportError::Closed)?
    }

    /// Sends bytes. Returns the number of accepted bytes.
    ///
    /// # Errors
    /// `busy`, `closed`, `io`.
    pub fn tcp_send(&mut self, handle: u32, bytes: &[u8]) -> Result<u32, TransportError> {
        self.tcp(handle, |connection, cx| connection.send(cx, bytes)).ok_or(TransportError::Closed)?
    }

    /// Closes the connection after its sent data, and ends the handle.
    pub fn tcp_close(&mut self, handle: u32) {
        if self.is(handle, |transport| matches!(transport, Transport::Tcp(_))) {
            self.close(handle, |transport| {
                if let Transport::Tcp(connection) = transport {
                    connection.close();
                }
            });
        }
    }

    fn tcp<R>(&mut self, handle: u32, act: impl FnOnce(&mut Tcp, &mut Context<'_>) -> R) -> Option<R> {
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

/// Converts a count of the contract to at least one. With zero, a stub could not distinguish
/// "nothing yet" from "nothing requested".
fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests;
