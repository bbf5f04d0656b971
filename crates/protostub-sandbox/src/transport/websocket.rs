//! One WebSocket connection (RFC 6455): `wit/0.1/websocket.wit`.
//!
//! ```text
//!   Connecting ──► Open ──► Closed(code)      the server's close frame, the end without one, a message over the limit (1009)
//!        │           └────► Failed(how)       broken, or the server violated the protocol (1002, 1007 are sent)
//!        ├──► Refused(head)                   another status than 101
//!        └──► Failed(how)
//! ```
//!
//! The stream outlives `Open`: what is to be said at the end is said after the stub knows the result ([`Ending`]).

use std::{
    collections::{HashSet, VecDeque},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, Stream, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Uri, header};
use protostub_egress::{Connection, Egress, Grants, Protection};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Error as WsError, Message, Utf8Bytes,
        error::{CapacityError, ProtocolError},
        handshake::client::generate_key,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use url::Url;

use super::{
    Error, TransportLimits,
    error::{chain, too_long},
    farewell::Farewell,
    headers,
    news::{News, Topic},
};

/// How much is read from the socket at once, and how large the buffer of an idle connection is.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// How much is given to the WebSocket layer before it has written out what it has. It holds this and one message more.
const WRITE_AHEAD_BYTES: usize = 32 << 10;
/// What a waiting frame counts beside its payload: its place in the queue and its header. Without it, empty frames would cost nothing.
const FRAME_OVERHEAD_BYTES: usize = 64;
/// How many messages without news for the stub (pings, or what comes after it closed) are read before others have their turn.
const QUIET_MESSAGES: usize = 64;
/// RFC 6455 section 5.5: a control frame's payload is at most 125 bytes, two of which are the code.
const REASON_BYTES: usize = 123;

/// What the server answered to the opening handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) status: u16,
    pub(crate) protocol: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

/// One message of the stub's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

impl Frame {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// How a connection ended. No code: the server gave none, or ended it without a close frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

/// What the connection is for the stub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Open(Handshake),
    Refused(Handshake),
    Closed(CloseReason),
    Failed(String),
}

/// A connection of the stub. Everything that takes a context polls the socket once with it and never waits.
pub(super) struct WebSocket {
    pub(super) news: News,
    state: State,
    /// Where it goes, for the texts of errors: `wss://sp1.example:443`.
    target: String,
    opening: Option<BoxFuture<'static, Result<Opened, String>>>,
    stream: Option<WebSocketStream<Connection>>,
    ending: Option<Ending>,
    /// The one frame that was read before the stub asked, or did not fit what it asked for.
    held: Option<Frame>,
    pub(super) outbox: Outbox,
    /// The stub was told that there is no room, and is to hear when there is.
    wants_room: bool,
    /// Writing failed. What the server sent before is still read: its close frame may tell why.
    write_error: Option<String>,
    limits: TransportLimits,
}

/// How the opening ended, if not by a failure.
enum Opened {
    Open(Box<WebSocketStream<Connection>>, Handshake),
    Refused(Handshake),
}

/// What is left to do with a stream whose state is settled.
struct Ending {
    /// The close frame that is sent after what waits; none: sent, or the WebSocket layer answers the server's.
    close: Option<CloseFrame>,
    /// Where to wait for the other side to end the connection. A server's unread bytes would reset it, and our close frame with it.
    drain: Drain,
    farewell: Farewell,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Read frames until the closing handshake is done.
    Handshake,
    /// The frames cannot be read any more: end our half, and read bytes.
    Bytes,
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Given to the WebSocket layer since it was last empty.
    unflushed_bytes: usize,
}

impl WebSocket {
    /// Checks what can be checked at once, and prepares the connection; it starts when it is first driven.
    pub(super) fn open(
        egress: &Egress,
        grants: &Grants,
        limits: &TransportLimits,
        url: &str,
        protocols: &[String],
        headers: &[(String, String)],
    ) -> Result<Self, Error> {
        let target = Target::parse(url, limits)?;
        let protection = if target.tls { Protection::Tls } else { Protection::Plain };
        grants.check(&target.host, target.port, protection).map_err(|refused| Error::Denied(refused.to_string()))?;
        let request = target.request(protocols, headers, limits)?;

        let name = target.to_string();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_AHEAD_BYTES)
            .write_buffer_size(WRITE_AHEAD_BYTES)
            .max_write_buffer_size(WRITE_AHEAD_BYTES + limits.frame_bytes + (4 << 10))
            .max_message_size(Some(limits.frame_bytes))
            .max_frame_size(Some(limits.frame_bytes));
        let (egress, grants) = (egress.clone(), grants.clone());
        let (header_bytes, open_timeout) = (limits.handshake_header_bytes, limits.open_timeout);
        let opening = async move {
            let connect = async {
                let alpn: &[&[u8]] = if target.tls { &[b"http/1.1"] } else { &[] };
                let connect = egress.connect(&grants, &target.host, target.port, target.tls, alpn);
                let connection = connect.await.map_err(|error| error.to_string())?;
                let handshake = handshake(connection, request, config, header_bytes);
                handshake.await.map_err(|how| format!("the WebSocket handshake with {target} failed: {how}"))
            };
            match tokio::time::timeout(open_timeout, connect).await {
                Ok(result) => result,
                Err(_) => Err(format!("opening {target} took longer than {open_timeout:?}")),
            }
        };
        Ok(Self {
            news: News::default(),
            state: State::Connecting,
            target: name,
            opening: Some(Box::pin(opening)),
            stream: None,
            ending: None,
            held: None,
            outbox: Outbox::default(),
            wants_room: false,
            write_error: None,
            limits: limits.clone(),
        })
    }

    pub(super) fn poll(&mut self) -> State {
        self.news.asked(Topic::State);
        self.state.clone()
    }

    pub(super) fn receive(&mut self, cx: &mut Context<'_>, max_frames: usize, max_bytes: usize) -> Result<Vec<Frame>, Error> {
        self.news.asked(Topic::Read);
        let (max_frames, max_bytes) = (max_frames.min(self.limits.receive_frames), max_bytes.min(self.limits.receive_bytes));
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while frames.len() < max_frames {
            let Some(frame) = self.next_frame(cx) else { break };
            if !frames.is_empty() && bytes + frame.len() > max_bytes {
                self.held = Some(frame);
                break;
            }
            bytes += frame.len();
            frames.push(frame);
        }
        if !frames.is_empty() {
            return Ok(frames);
        }
        match &self.state {
            State::Connecting | State::Open(_) => Ok(frames),
            State::Refused(_) | State::Closed(_) => Err(Error::Closed),
            State::Failed(how) => Err(Error::Io(how.clone())),
        }
    }

    pub(super) fn send(&mut self, cx: &mut Context<'_>, frames: Vec<Frame>) -> Result<u32, Error> {
        self.news.asked(Topic::Write);
        match &self.state {
            State::Open(_) => {}
            State::Connecting => return Err(Error::Busy),
            State::Refused(_) | State::Closed(_) => return Err(Error::Closed),
            State::Failed(how) => return Err(Error::Io(how.clone())),
        }
        if let Some(how) = &self.write_error {
            return Err(Error::Io(how.clone()));
        }
        if let Some(frame) = frames.iter().find(|frame| frame.len() > self.limits.frame_bytes) {
            return Err(Error::too_long("a frame", frame.len(), self.limits.frame_bytes));
        }

        let (count, mut taken) = (frames.len(), 0);
        let mut frames = frames.into_iter();
        loop {
            while self.outbox.bytes() < self.limits.websocket_write_bytes
                && let Some(frame) = frames.next()
            {
                self.outbox.push(frame);
                taken += 1;
            }
            let waiting = self.outbox.bytes();
            self.write(cx);
            if let Some(how) = &self.write_error {
                return Err(Error::Io(how.clone()));
            }
            if taken == count || self.outbox.bytes() == waiting {
                break;
            }
        }
        // Sending nothing does not withdraw the wish for room.
        self.wants_room = taken < count || (count == 0 && self.wants_room);
        if taken == 0 && count > 0 {
            return Err(Error::Busy);
        }
        Ok(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Begins to end the connection; nobody asks for it any more.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        self.opening = None;
        self.held = None;
        if matches!(self.state, State::Open(_)) {
            let reason = Utf8Bytes::from(&reason[..reason.floor_char_boundary(REASON_BYTES)]);
            self.end(Some(CloseFrame { code, reason }), Drain::Handshake);
        }
        self.state = State::Closed(CloseReason::default());
    }

    /// Says good-bye in no more time than the other side has for its answer.
    pub(super) fn hurry(&mut self, cx: &mut Context<'_>) {
        if let Some(ending) = &mut self.ending {
            ending.farewell.hurry(cx);
        }
    }

    /// Does what can be done without waiting. Ready: there is nothing more to do with the connection.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(opening) = &mut self.opening {
            let opened = ready!(opening.as_mut().poll(cx));
            self.opening = None;
            self.state = match opened {
                Ok(Opened::Open(stream, handshake)) => {
                    self.stream = Some(*stream);
                    State::Open(handshake)
                }
                Ok(Opened::Refused(handshake)) => State::Refused(handshake),
                Err(how) => State::Failed(how),
            };
            self.news.set(Topic::State);
        }
        if self.ending.is_none() {
            // Reading first: a server that closed has often said why, and writing would only say that it did.
            self.read_ahead(cx);
            if self.write_error.is_none() {
                self.write(cx);
            }
            if self.write_error.is_some() {
                self.read_ahead(cx);
            }
            if self.wants_room && self.outbox.bytes() <= self.limits.websocket_write_bytes / 2 {
                self.wants_room = false;
                self.news.set(Topic::Write);
            }
        }
        if self.ending.is_some() && self.finish(cx).is_pending() {
            return Poll::Pending;
        }
        if self.stream.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads one frame, unless there is one that the stub has not fetched.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if self.held.is_none() {
            self.held = self.next_frame(cx);
        }
        if self.held.is_some() {
            self.news.set(Topic::Read);
        }
    }

    /// The next frame for the stub. None: there is none now, or the connection ended; then the state says so.
    fn next_frame(&mut self, cx: &mut Context<'_>) -> Option<Frame> {
        if let Some(frame) = self.held.take() {
            return Some(frame);
        }
        if !matches!(self.state, State::Open(_)) {
            return None;
        }
        for _ in 0..QUIET_MESSAGES {
            match Pin::new(self.stream.as_mut()?).poll_next(cx) {
                Poll::Ready(Some(Ok(Message::Text(text)))) => return Some(Frame::Text(text.as_str().to_owned())),
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => return Some(Frame::Binary(bytes.into())),
                // Reading on sends the pong.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                Poll::Ready(Some(Ok(Message::Close(frame)))) => {
                    self.end(None, Drain::Handshake);
                    self.settle(State::Closed(close_reason(frame)));
                    return None;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.read_failed(&error);
                    return None;
                }
                Poll::Ready(None) => {
                    self.ended_without_close();
                    return None;
                }
                Poll::Pending => {
                    if let Some(how) = self.write_error.take() {
                        self.stream = None;
                        self.settle(State::Failed(how));
                    }
                    return None;
                }
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Gives the connection its last state.
    fn settle(&mut self, state: State) {
        self.outbox = Outbox::default();
        self.wants_room = false;
        self.state = state;
        self.news.set(Topic::State);
    }

    fn end(&mut self, close: Option<CloseFrame>, drain: Drain) {
        self.ending = Some(Ending { close, drain, farewell: Farewell::new(&self.limits) });
    }

    fn ended_without_close(&mut self) {
        self.stream = None;
        let state = match self.write_error.take() {
            Some(how) => State::Failed(how),
            None => State::Closed(CloseReason {
                code: None,
                reason: "the server ended the connection without a close frame".to_owned(),
            }),
        };
        self.settle(state);
    }

    /// RFC 6455 section 7.1.7: fails the connection, with a close frame if there is a code for it.
    fn read_failed(&mut self, error: &WsError) {
        let (code, text) = match error {
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return self.ended_without_close(),
            // TLS without `close_notify`: nothing is lost that the end without a close frame did not put in doubt already.
            WsError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => return self.ended_without_close(),
            WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                (CloseCode::Size, too_long("a message", *size, *max_size))
            }
            WsError::Protocol(error) => (CloseCode::Protocol, error.to_string()),
            WsError::Utf8(_) => (CloseCode::Invalid, "a text message is not UTF-8".to_owned()),
            error => {
                self.stream = None;
                let how = format!("the connection to {} broke: {}", self.target, chain(error));
                return self.settle(State::Failed(how));
            }
        };
        self.end(
            Some(CloseFrame { code, reason: Utf8Bytes::from(&text[..text.floor_char_boundary(REASON_BYTES)]) }),
            Drain::Bytes,
        );
        self.settle(match code {
            CloseCode::Size => State::Closed(CloseReason { code: Some(code.into()), reason: text }),
            code => State::Failed(format!("{} broke the protocol, and was closed with {code}: {text}", self.target)),
        });
    }

    /// Writes out what waits, as far as the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(Err(error)) = self.outbox.poll_flush(stream, cx) {
            self.outbox = Outbox::default();
            self.write_error = Some(format!("sending to {} failed: {}", self.target, chain(&error)));
        }
    }

    /// Says good-bye; ready, and without a stream, when that is done or took too long.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(ending), Some(stream)) = (&mut self.ending, &mut self.stream) else { return Poll::Ready(()) };
        if ending.farewell.poll_over(cx).is_pending() {
            let waiting = self.outbox.bytes();
            let done = ending.poll(stream, &mut self.outbox, cx).is_ready();
            if !done && self.outbox.bytes() < waiting {
                ending.farewell.progress(cx);
            }
            if !done {
                return Poll::Pending;
            }
        }
        self.ending = None;
        self.stream = None;
        Poll::Ready(())
    }
}

impl Ending {
    /// Ready when the connection can be dropped.
    fn poll(&mut self, stream: &mut WebSocketStream<Connection>, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(outbox.poll_flush(stream, cx)).is_err() {
            return Poll::Ready(());
        }
        if let Some(close) = self.close.take() {
            if Pin::new(&mut *stream).start_send(Message::Close(Some(close))).is_err() {
                return Poll::Ready(());
            }
            outbox.unflushed_bytes += FRAME_OVERHEAD_BYTES + REASON_BYTES;
            if ready!(outbox.poll_flush(stream, cx)).is_err() {
                return Poll::Ready(());
            }
        }
        match self.drain {
            Drain::Handshake => {
                for _ in 0..QUIET_MESSAGES {
                    match ready!(Pin::new(&mut *stream).poll_next(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
            }
            Drain::Bytes => {
                let connection = stream.get_mut();
                if ready!(Pin::new(&mut *connection).poll_shutdown(cx)).is_err() {
                    return Poll::Ready(());
                }
                for _ in 0..QUIET_MESSAGES {
                    let mut scratch = [0; 4 << 10];
                    let mut buffer = ReadBuf::new(&mut scratch);
                    match ready!(Pin::new(&mut *connection).poll_read(cx, &mut buffer)) {
                        Ok(()) if !buffer.filled().is_empty() => {}
                        Ok(()) | Err(_) => return Poll::Ready(()),
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Outbox {
    /// What counts against the limit.
    pub(super) fn bytes(&self) -> usize {
        self.queued_bytes + self.unflushed_bytes
    }

    fn push(&mut self, frame: Frame) {
        self.queued_bytes += frame.len() + FRAME_OVERHEAD_BYTES;
        self.queue.push_back(match frame {
            Frame::Text(text) => Message::Text(text.into()),
            Frame::Binary(bytes) => Message::Binary(Bytes::from(bytes)),
        });
    }

    /// Moves frames into the WebSocket layer and from there into the socket; ready when nothing waits any more.
    fn poll_flush(&mut self, stream: &mut WebSocketStream<Connection>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        loop {
            while self.unflushed_bytes < WRITE_AHEAD_BYTES
                && let Some(message) = self.queue.pop_front()
            {
                let bytes = message.len() + FRAME_OVERHEAD_BYTES;
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

/// Where a URL leads.
struct Target {
    url: Url,
    tls: bool,
    /// As a URL has it: an IPv6 address stands in brackets.
    host: String,
    port: u16,
}

impl Target {
    fn parse(url: &str, limits: &TransportLimits) -> Result<Self, Error> {
        let invalid = |why: &str| Error::Invalid(format!("the URL of a WebSocket {why}"));
        if url.len() > limits.url_bytes {
            return Err(Error::too_long("a URL", url.len(), limits.url_bytes));
        }
        let url = Url::parse(url).map_err(|error| invalid(&format!("cannot be read: {error}")))?;
        let tls = match url.scheme() {
            "wss" => true,
            "ws" => false,
            scheme => return Err(invalid(&format!("begins with `ws:` or `wss:`, not with `{scheme}:`"))),
        };
        if url.fragment().is_some() {
            return Err(invalid("has no fragment (RFC 6455 section 3)"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("has no user or password: send the header `authorization`"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("has a host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| invalid("has a port"))?;
        Ok(Self { url, tls, host, port })
    }

    /// The opening handshake's request (RFC 6455 section 4.1).
    fn request(
        &self,
        protocols: &[String],
        fields: &[(String, String)],
        limits: &TransportLimits,
    ) -> Result<http::Request<()>, Error> {
        let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("the URL of a WebSocket cannot be sent: {error}"));
        let uri: Uri = self.url.as_str().parse().map_err(|error: http::uri::InvalidUri| invalid(&error))?;
        let mut headers: HeaderMap = headers::parse(fields, limits.request_header_bytes)?;
        if let Some(name) = headers.keys().find(|name| name.as_str().starts_with("sec-websocket-")) {
            return Err(Error::Invalid(format!("`{name}` is invalid: this header is set by the host alone")));
        }
        if let Some(protocols) = join_protocols(protocols, limits)? {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        }
        let host = match self.url.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        };
        headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| invalid(&error))?);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&generate_key()).map_err(|error| invalid(&error))?);
        let mut request = http::Request::new(());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Scheme, host and port: the path may hold what does not belong into an error.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", self.url.scheme(), self.host, self.port)
    }
}

/// `Sec-WebSocket-Protocol`: tokens, each once (RFC 6455 section 4.1, item 10).
fn join_protocols(protocols: &[String], limits: &TransportLimits) -> Result<Option<HeaderValue>, Error> {
    if protocols.is_empty() {
        return Ok(None);
    }
    let size = protocols.iter().map(|protocol| protocol.len() + 2).sum();
    if size > limits.request_header_bytes {
        return Err(Error::too_long("a list of subprotocols", size, limits.request_header_bytes));
    }
    let mut seen = HashSet::with_capacity(protocols.len());
    for protocol in protocols {
        let is_token = !protocol.is_empty()
            && protocol.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte));
        if !is_token || !seen.insert(protocol) {
            let what = if is_token { "named twice" } else { "no token (RFC 9110 section 5.6.2)" };
            return Err(Error::Invalid(format!("the subprotocol `{}` is {what}", protocol.escape_debug())));
        }
    }
    let value = HeaderValue::from_str(&protocols.join(", "));
    value.map(Some).map_err(|_| Error::Invalid("the subprotocols cannot be sent".to_owned()))
}

/// The opening handshake, over a connection that is there.
async fn handshake(
    connection: Connection,
    request: http::Request<()>,
    config: WebSocketConfig,
    header_bytes: usize,
) -> Result<Opened, String> {
    let describe = |head: &tungstenite::handshake::client::Response| {
        let headers =
            headers::list(head.headers(), header_bytes).map_err(|size| too_long("a handshake's head", size, header_bytes))?;
        let protocol = headers.iter().find(|(name, _)| name == "sec-websocket-protocol").map(|(_, value)| value.clone());
        Ok::<_, String>(Handshake { status: head.status().as_u16(), protocol, headers })
    };
    match client_async_with_config(request, connection, Some(config)).await {
        Ok((stream, head)) => {
            // Section 4.1, item 5: none was offered. tungstenite does not look.
            if head.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
                return Err("the server uses a WebSocket extension that was not offered".to_owned());
            }
            Ok(Opened::Open(Box::new(stream), describe(&head)?))
        }
        Err(WsError::Http(head)) => Ok(Opened::Refused(describe(&head)?)),
        Err(WsError::AttackAttempt) => {
            Err("the head of the server's answer is too large, or comes in too small pieces".to_owned())
        }
        Err(error) => Err(chain(&error)),
    }
}

/// The codes that a stub may send (RFC 6455 section 7.4, as browsers have it); others become 1000.
pub(super) fn stub_code(code: u16) -> CloseCode {
    match code {
        3000..=4999 => code.into(),
        _ => CloseCode::Normal,
    }
}

fn close_reason(frame: Option<CloseFrame>) -> CloseReason {
    frame.map_or_else(CloseReason::default, |frame| CloseReason {
        code: match frame.code.into() {
            // "No code" and "no close frame" as codes: never on the wire.
            1005 | 1006 => None,
            code => Some(code),
        },
        reason: frame.reason.as_str().to_owned(),
    })
}
