//! One TCP connection, plain or over TLS: `wit/0.1/tcp.wit`.
//!
//! ```text
//!   Connecting ──► Open ──► Closed (the other side ended its half; sending goes on)
//!        ▲  │       │ └───► Failed(how)
//!        │  └───────┼─────► Failed(how)
//!        └──────────┘ start_tls
//! ```

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use futures_util::future::BoxFuture;
use protostub_egress::{Connection, Protection};
use protostub_types::SafeText;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::{
    TransportError, TransportLimits,
    linger::Linger,
    readiness::{Interest, Readiness},
    route::Route,
    traffic::MeteredStream,
};

/// Maximum number of bytes of one read from the socket, and of those read before the stub asks.
const READ_BYTES: usize = 16 << 10;
/// Maximum number of reads in one turn after the stub closed the connection. Other connections then
/// get their turn.
const QUIET_READS: usize = 16;
/// RFC 1035 section 2.3.4 allows 255 bytes, which are 253 as text.
const HOST_BYTES: usize = 253;

/// The state of a TCP connection as the stub sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum TcpState {
    /// The connection, or TLS over it, is not established.
    Connecting,
    /// Both sides can send.
    Open,
    /// The peer ended its half. The stub can still send.
    Closed,
    /// The connection broke. The text has the reason.
    Failed(String),
}

/// A TCP connection of the stub. Every method with a context polls the socket once with it and
/// never waits.
pub(crate) struct Tcp {
    pub(crate) readiness: Readiness,
    state: TcpState,
    route: Route,
    /// The host and port for error texts: `sp1.example:5222`.
    target: String,
    port: u16,
    protection: Protection,
    /// The opening of TCP and TLS, or the later start of TLS on a plain connection.
    opening: Option<BoxFuture<'static, Result<Connection, String>>>,
    stream: Option<MeteredStream>,
    closing: Option<TcpClosing>,
    /// Bytes that the host read before the stub asked.
    held: BytesMut,
    outbox: BytesMut,
    /// Bytes that left the outbox may still be in the TLS layer.
    unflushed: bool,
    /// The last send took fewer bytes than all, or TLS has to wait. The stub is owed an event when
    /// at most this many bytes wait to be sent.
    wants_room: Option<usize>,
    /// Error of a failed write. Bytes that the other side sent before are still read.
    write_error: Option<String>,
    limits: TransportLimits,
}

/// The remaining work on a connection that the stub closed.
struct TcpClosing {
    shut_down: bool,
    linger: Linger,
}

impl Tcp {
    /// Runs the checks that need no network, and prepares the connection. The first drive starts
    /// connecting.
    pub(crate) fn open(
        route: &Route,
        limits: &TransportLimits,
        host: &str,
        port: u16,
        protection: Protection,
    ) -> Result<Self, TransportError> {
        check_host(host)?;
        if port == 0 {
            return Err(TransportError::Invalid("port 0 is not a valid port".to_owned()));
        }
        route.grants.check(host, port, protection).map_err(|refused| TransportError::Denied(refused.to_string()))?;

        let target = format!("{host}:{port}");
        let (name, host, open_timeout) = (target.clone(), host.to_owned(), limits.open_timeout);
        let opening = {
            let Route { egress, quota, grants, .. } = route.clone();
            async move {
                match tokio::time::timeout(open_timeout, egress.connect(&grants, &quota, &host, port, protection, &[])).await {
                    Ok(result) => result.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("connecting to {name} took longer than {open_timeout:?}")),
                }
            }
        };
        Ok(Self {
            readiness: Readiness::default(),
            state: TcpState::Connecting,
            route: route.clone(),
            target,
            port,
            protection,
            opening: Some(Box::pin(opening)),
            stream: None,
            closing: None,
            held: BytesMut::new(),
            outbox: BytesMut::new(),
            unflushed: false,
            wants_room: None,
            write_error: None,
            limits: limits.clone(),
        })
    }

    pub(crate) fn start_tls(&mut self, cx: &mut Context<'_>, server_name: &str) -> Result<(), TransportError> {
        check_host(server_name)?;
        self.route
            .grants
            .check(server_name, self.port, Protection::Tls)
            .map_err(|refused| TransportError::Denied(refused.to_string()))?;
        match &self.state {
            TcpState::Open => {}
            TcpState::Connecting => return Err(TransportError::Busy),
            TcpState::Closed => return Err(TransportError::Closed),
            TcpState::Failed(how) => return Err(TransportError::Io(how.clone())),
        }
        if self.protection == Protection::Tls {
            return Err(TransportError::Invalid(format!("the connection to {} already uses TLS", self.target)));
        }
        self.write(cx);
        if let Some(how) = &self.write_error {
            return Err(TransportError::Io(how.clone()));
        }
        if self.waits() {
            self.wants_room = Some(0);
            return Err(TransportError::Busy);
        }
        self.read_ahead(cx);
        if !self.held.is_empty() {
            // Bytes that an attacker injected before the handshake must not pass as protected by
            // TLS (CVE-2011-0411 and similar).
            let how = format!("{} sent {} bytes that the stub did not receive before TLS", self.target, self.held.len());
            self.held.clear();
            self.fail(how.clone());
            return Err(TransportError::Io(how));
        }
        match (&self.state, self.stream.take()) {
            (TcpState::Open, Some(stream)) => {
                let Route { egress, quota, grants, .. } = self.route.clone();
                let open_timeout = self.limits.open_timeout;
                let (name, server_name) = (self.target.clone(), server_name.to_owned());
                self.opening = Some(Box::pin(async move {
                    match tokio::time::timeout(open_timeout, egress.start_tls(&grants, &quota, stream.into_inner(), &server_name))
                        .await
                    {
                        Ok(result) => result.map_err(|error| error.to_string()),
                        Err(_) => Err(format!("starting TLS with {name} took longer than {open_timeout:?}")),
                    }
                }));
                self.state = TcpState::Connecting;
                self.protection = Protection::Tls;
                Ok(())
            }
            (TcpState::Failed(how), _) => Err(TransportError::Io(how.clone())),
            _ => Err(TransportError::Closed),
        }
    }

    pub(crate) fn poll(&mut self) -> TcpState {
        self.readiness.clear(Interest::State);
        self.state.clone()
    }

    pub(crate) fn receive(&mut self, cx: &mut Context<'_>, max_bytes: usize) -> Result<Option<Vec<u8>>, TransportError> {
        self.readiness.clear(Interest::Read);
        if self.state == TcpState::Connecting {
            return Err(TransportError::Busy);
        }
        let max_bytes = max_bytes.min(self.limits.receive_bytes);
        while self.held.len() < max_bytes && self.read(cx) {}
        if !self.held.is_empty() {
            let size = self.held.len().min(max_bytes);
            return Ok(Some(self.held.split_to(size).into()));
        }
        match &self.state {
            TcpState::Connecting => Err(TransportError::Busy),
            TcpState::Open => Ok(Some(Vec::new())),
            TcpState::Closed => Ok(None),
            TcpState::Failed(how) => Err(TransportError::Io(how.clone())),
        }
    }

    pub(crate) fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<u32, TransportError> {
        self.readiness.clear(Interest::Write);
        match &self.state {
            TcpState::Open | TcpState::Closed => {}
            TcpState::Connecting => return Err(TransportError::Busy),
            TcpState::Failed(how) => return Err(TransportError::Io(how.clone())),
        }
        let mut rest = bytes;
        loop {
            let (now, later) = rest.split_at(rest.len().min(self.limits.tcp_write_bytes.saturating_sub(self.waiting_bytes())));
            self.outbox.extend_from_slice(now);
            rest = later;
            let waiting = self.outbox.len();
            self.write(cx);
            if let Some(how) = &self.write_error {
                return Err(TransportError::Io(how.clone()));
            }
            if rest.is_empty() || self.outbox.len() == waiting {
                break;
            }
        }
        if bytes.is_empty() {
            // An empty send keeps the pending wish for room.
            return Ok(0);
        }
        self.wants_room = (!rest.is_empty()).then_some(self.limits.tcp_write_bytes / 2);
        if rest.len() == bytes.len() {
            return Err(TransportError::Busy);
        }
        Ok(u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX))
    }

    /// Begins to close the connection. The stub no longer has access to it.
    pub(crate) fn close(&mut self) {
        self.opening = None;
        self.held = BytesMut::new();
        self.closing = Some(TcpClosing { shut_down: false, linger: Linger::new(&self.limits) });
    }

    /// Limits the rest of the closing to the peer's time to answer.
    pub(crate) fn shorten_linger(&mut self, cx: &mut Context<'_>) {
        if let Some(closing) = &mut self.closing {
            closing.linger.shorten(cx);
        }
    }

    /// Does all work that is possible without waiting. Ready when no work is left on the
    /// connection.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.is_some() {
            ready!(self.finish(cx));
            self.stream = None;
            return Poll::Ready(());
        }
        if let Some(opening) = &mut self.opening {
            let opened = ready!(opening.as_mut().poll(cx));
            self.opening = None;
            match opened {
                Ok(stream) => {
                    self.stream = Some(MeteredStream::new(stream, &self.route.traffic));
                    self.state = TcpState::Open;
                }
                Err(how) => self.state = TcpState::Failed(how),
            }
            self.readiness.set(Interest::State);
        }
        // Reads first: a failing write must not lose bytes that the other side sent before it ended
        // the connection.
        self.read_ahead(cx);
        if self.write_error.is_none() {
            self.write(cx);
        }
        if self.write_error.is_some() {
            self.read_ahead(cx);
        }
        if self.wants_room.is_some_and(|room| self.outbox.len() <= room && !(room == 0 && self.waits())) {
            self.wants_room = None;
            self.readiness.set(Interest::Write);
        }
        if self.stream.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads once, unless the stub has yet to fetch bytes.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if self.held.is_empty() {
            self.read(cx);
        }
        if !self.held.is_empty() {
            self.readiness.set(Interest::Read);
        }
    }

    /// Reads into `held`. Returns `true` if bytes came. Otherwise the state shows whether the
    /// connection has ended.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.state != TcpState::Open {
            return false;
        }
        let Some(stream) = &mut self.stream else { return false };
        // Reads to the stack first, so an idle connection holds no buffer in memory.
        let mut scratch = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.held.extend_from_slice(buffer.filled());
                true
            }
            Poll::Ready(Ok(())) => {
                self.state = TcpState::Closed;
                self.readiness.set(Interest::State);
                self.readiness.set(Interest::Read);
                if let Some(how) = self.write_error.clone() {
                    self.fail(how);
                }
                false
            }
            Poll::Ready(Err(error)) => {
                let how = match error.kind() {
                    io::ErrorKind::UnexpectedEof => "TLS ended without `close_notify`, so data may be missing".to_owned(),
                    _ => SafeText::chain(&error).to_string(),
                };
                self.fail(format!("the connection to {} broke: {how}", self.target));
                false
            }
            Poll::Pending => {
                if let Some(how) = self.write_error.clone() {
                    self.fail(how);
                }
                false
            }
        }
    }

    fn fail(&mut self, how: String) {
        self.stream = None;
        self.outbox = BytesMut::new();
        self.unflushed = false;
        self.wants_room = None;
        self.state = TcpState::Failed(how);
        self.readiness.set(Interest::State);
        self.readiness.set(Interest::Read);
    }

    /// Number of bytes that count towards the limit.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Returns `true` if bytes are still to be sent.
    fn waits(&self) -> bool {
        !self.outbox.is_empty() || self.unflushed
    }

    /// Writes the waiting bytes, as far as the socket accepts them.
    fn write(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            self.outbox = BytesMut::new();
            self.unflushed = false;
            let how = format!("sending to {} failed: {}", self.target, SafeText::chain(&error));
            // After the other side's end, the host no longer reads, so only this write can detect
            // the failure.
            if self.state == TcpState::Closed {
                self.fail(how.clone());
            }
            self.write_error = Some(how);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        while !self.outbox.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.outbox))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the waiting bytes, ends our half, and reads until the other side ends its half. Unread
    /// bytes would reset the connection and lose the bytes that were sent last.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(closing) = &mut self.closing else { return Poll::Ready(()) };
        if closing.linger.poll_elapsed(cx).is_ready() {
            return Poll::Ready(());
        }
        let waiting = self.outbox.len();
        let flushed = self.poll_flush(cx);
        let (Some(closing), Some(stream)) = (&mut self.closing, &mut self.stream) else { return Poll::Ready(()) };
        if self.outbox.len() < waiting {
            closing.linger.progress(cx);
        }
        if ready!(flushed).is_err() {
            return Poll::Ready(());
        }
        if !closing.shut_down {
            if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            closing.shut_down = true;
        }
        if self.state == TcpState::Closed {
            return Poll::Ready(());
        }
        for _ in 0..QUIET_READS {
            let mut scratch = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn check_host(host: &str) -> Result<(), TransportError> {
    if host.is_empty() || host.len() > HOST_BYTES {
        return Err(TransportError::Invalid(format!(
            "the host has {} bytes; the allowed length is 1 to {HOST_BYTES} bytes",
            host.len()
        )));
    }
    if let Some(wrong) =
        host.chars().find(|character| character.is_control() || character.is_whitespace() || "/@?#%".contains(*character))
    {
        return Err(TransportError::Invalid(format!(
            "a host name or address cannot contain `{}`",
            SafeText::quote(wrong.encode_utf8(&mut [0; 4]))
        )));
    }
    Ok(())
}
