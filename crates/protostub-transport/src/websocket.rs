//! One WebSocket connection (RFC 6455): `wit/0.1/websocket.wit`.
//!
//! ```text
//!   Connecting ──► Open ──► Closed(code)      the server's close frame, the end without one, a message over the limit (1009)
//!        │           └────► Failed(how)       broken, or the server violated the protocol (1002, 1007 are sent)
//!        ├──► Refused(head)                   another status than 101
//!        └──► Failed(how)
//! ```
//!
//! The stream outlives `Open`: what is to be said at the end is said after the stub knows the result ([`WebSocketClosing`]).

mod handshake;
mod heartbeat;
mod outbox;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{Stream as _, future::BoxFuture};
use protostub_types::SafeText;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

pub use self::handshake::Handshake;
use self::{
    handshake::{Opened, Target},
    heartbeat::{Heartbeat, HeartbeatEvent, Stream},
    outbox::Outbox,
};
use crate::{
    Authorization, TransportError, TransportLimits,
    error::too_long,
    linger::Linger,
    readiness::{Interest, Readiness},
    route::Route,
};

/// How many messages without news for the stub (pings, or what comes after it closed) are read before others have their turn.
const QUIET_MESSAGES: usize = 64;
/// RFC 6455 section 5.5: a control frame's payload is at most 125 bytes, two of which are the code.
const REASON_BYTES: usize = 123;

/// One WebSocket message of the stub's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

impl Frame {
    /// Returns the size of the payload, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a size, of which nobody asks whether it is zero")]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// The end of a WebSocket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReason {
    /// The code of the close frame. `None` if the server sent no code, or no close frame.
    pub code: Option<u16>,
    /// The reason of the close frame.
    pub reason: String,
}

/// The state of a WebSocket as the stub sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum WebSocketState {
    /// The opening handshake is not done.
    Connecting,
    /// The server accepted the connection.
    Open(Handshake),
    /// The server answered with another status than 101.
    Refused(Handshake),
    /// The server closed the connection.
    Closed(CloseReason),
    /// The connection broke, for this reason.
    Failed(String),
}

/// A connection of the stub. Everything that takes a context polls the socket once with it and never waits.
pub(crate) struct WebSocket {
    pub(crate) readiness: Readiness,
    state: WebSocketState,
    /// Where it goes, for the texts of errors: `wss://sp1.example:443`.
    target: String,
    opening: Option<BoxFuture<'static, Result<Opened, String>>>,
    stream: Option<Stream>,
    /// As long as it is open.
    heartbeat: Option<Heartbeat>,
    closing: Option<WebSocketClosing>,
    /// The one frame that was read before the stub asked, or did not fit what it asked for.
    held: Option<Frame>,
    pub(crate) outbox: Outbox,
    /// The stub was told that there is no room, and is to hear when there is.
    wants_room: bool,
    /// Writing failed. What the server sent before is still read: its close frame may tell why.
    write_error: Option<String>,
    limits: TransportLimits,
}

/// What is left to do with a stream whose state is settled.
struct WebSocketClosing {
    /// Where to wait for the other side to end the connection. A server's unread bytes would reset it, and our close frame with it.
    drain: Drain,
    linger: Linger,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Read frames until the closing handshake is done.
    Handshake,
    /// The frames cannot be read any more: end our half, and read bytes.
    Bytes,
}

impl WebSocket {
    /// Checks what can be checked at once, and prepares the connection; it starts when it is first driven.
    pub(crate) fn open(
        route: &Route,
        limits: &TransportLimits,
        url: &str,
        protocols: &[String],
        headers: &[(String, String)],
        authorization: Option<Authorization>,
    ) -> Result<Self, TransportError> {
        let target = Target::parse(url, limits)?;
        target.check(&route.grants)?;
        let request = target.request(protocols, headers, limits)?;
        let name = target.to_string();
        let opening = handshake::open(route.clone(), limits.clone(), target, request, authorization);
        Ok(Self {
            readiness: Readiness::default(),
            state: WebSocketState::Connecting,
            target: name,
            opening: Some(Box::pin(opening)),
            stream: None,
            heartbeat: None,
            closing: None,
            held: None,
            outbox: Outbox::default(),
            wants_room: false,
            write_error: None,
            limits: limits.clone(),
        })
    }

    pub(crate) fn poll(&mut self) -> WebSocketState {
        self.readiness.clear(Interest::State);
        self.state.clone()
    }

    pub(crate) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Result<Vec<Frame>, TransportError> {
        self.readiness.clear(Interest::Read);
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
            WebSocketState::Connecting | WebSocketState::Open(_) => Ok(frames),
            WebSocketState::Refused(_) | WebSocketState::Closed(_) => Err(TransportError::Closed),
            WebSocketState::Failed(how) => Err(TransportError::Io(how.clone())),
        }
    }

    pub(crate) fn send(&mut self, cx: &mut Context<'_>, frames: Vec<Frame>) -> Result<u32, TransportError> {
        self.readiness.clear(Interest::Write);
        match &self.state {
            WebSocketState::Open(_) => {}
            WebSocketState::Connecting => return Err(TransportError::Busy),
            WebSocketState::Refused(_) | WebSocketState::Closed(_) => return Err(TransportError::Closed),
            WebSocketState::Failed(how) => return Err(TransportError::Io(how.clone())),
        }
        if let Some(how) = &self.write_error {
            return Err(TransportError::Io(how.clone()));
        }
        if let Some(frame) = frames.iter().find(|frame| frame.len() > self.limits.frame_bytes) {
            return Err(TransportError::too_long("a frame", frame.len(), self.limits.frame_bytes));
        }

        let (count, mut taken) = (frames.len(), 0);
        let mut frames = frames.into_iter();
        loop {
            while self.outbox.bytes() < self.limits.websocket_write_bytes
                && let Some(frame) = frames.next()
            {
                self.outbox.push(frame.into());
                taken += 1;
            }
            let waiting = self.outbox.bytes();
            self.write(cx);
            if let Some(how) = &self.write_error {
                return Err(TransportError::Io(how.clone()));
            }
            if taken == count || self.outbox.bytes() == waiting {
                break;
            }
        }
        // Sending nothing does not withdraw the wish for room.
        self.wants_room = taken < count || (count == 0 && self.wants_room);
        if taken == 0 && count > 0 {
            return Err(TransportError::Busy);
        }
        Ok(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Begins to end the connection; nobody asks for it any more.
    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        self.opening = None;
        self.held = None;
        if matches!(self.state, WebSocketState::Open(_)) {
            self.outbox.push(close_frame(code, reason));
            self.end(Drain::Handshake);
        }
        self.state = WebSocketState::Closed(CloseReason::default());
    }

    /// Limits the closing to the time that the peer has for its answer.
    pub(crate) fn shorten_linger(&mut self, cx: &mut Context<'_>) {
        if let Some(closing) = &mut self.closing {
            closing.linger.shorten(cx);
        }
    }

    /// Does what can be done without waiting. Ready: there is nothing more to do with the connection.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(opening) = &mut self.opening {
            let opened = ready!(opening.as_mut().poll(cx));
            self.opening = None;
            self.state = match opened {
                Ok(Opened::Open(stream, handshake)) => {
                    self.stream = Some(*stream);
                    self.heartbeat = Some(Heartbeat::new(self.limits.ping_interval));
                    WebSocketState::Open(handshake)
                }
                Ok(Opened::Refused(handshake)) => WebSocketState::Refused(handshake),
                Err(how) => WebSocketState::Failed(how),
            };
            self.readiness.set(Interest::State);
        }
        if self.closing.is_none() {
            // Reading first: a server that closed has often said why, and writing would only say that it did.
            self.read_ahead(cx);
            self.check_heartbeat(cx);
            if self.write_error.is_none() {
                self.write(cx);
            }
            if self.write_error.is_some() {
                self.read_ahead(cx);
            }
            if self.wants_room && self.outbox.bytes() <= self.limits.websocket_write_bytes / 2 {
                self.wants_room = false;
                self.readiness.set(Interest::Write);
            }
        }
        if self.closing.is_some() && self.finish(cx).is_pending() {
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
            self.readiness.set(Interest::Read);
        }
    }

    /// The next frame for the stub. None: there is none now, or the connection ended; then the state says so.
    fn next_frame(&mut self, cx: &mut Context<'_>) -> Option<Frame> {
        if let Some(frame) = self.held.take() {
            return Some(frame);
        }
        if !matches!(self.state, WebSocketState::Open(_)) {
            return None;
        }
        for _ in 0..QUIET_MESSAGES {
            match Pin::new(self.stream.as_mut()?).poll_next(cx) {
                Poll::Ready(Some(Ok(Message::Text(text)))) => return Some(Frame::Text(text.as_str().to_owned())),
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => return Some(Frame::Binary(bytes.into())),
                // Reading on sends the pong.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {
                    self.stream.as_ref()?.get_ref().count_control_frame();
                }
                Poll::Ready(Some(Ok(Message::Close(frame)))) => {
                    self.set_final_state(WebSocketState::Closed(close_reason(frame)));
                    self.end(Drain::Handshake);
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
                        self.set_final_state(WebSocketState::Failed(how));
                    }
                    return None;
                }
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Gives the connection its last state.
    fn set_final_state(&mut self, state: WebSocketState) {
        self.outbox = Outbox::default();
        self.wants_room = false;
        self.heartbeat = None;
        self.state = state;
        self.readiness.set(Interest::State);
    }

    /// What waits is sent still, and the other side waited for.
    fn end(&mut self, drain: Drain) {
        self.heartbeat = None;
        self.closing = Some(WebSocketClosing { drain, linger: Linger::new(&self.limits) });
    }

    fn ended_without_close(&mut self) {
        self.stream = None;
        let state = match self.write_error.take() {
            Some(how) => WebSocketState::Failed(how),
            None => WebSocketState::Closed(CloseReason {
                code: None,
                reason: "the server ended the connection without a close frame".to_owned(),
            }),
        };
        self.set_final_state(state);
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
                let how = format!("the connection to {} broke: {}", self.target, SafeText::chain(error));
                return self.set_final_state(WebSocketState::Failed(how));
            }
        };
        let close = close_frame(code, &text);
        self.set_final_state(match code {
            CloseCode::Size => WebSocketState::Closed(CloseReason { code: Some(code.into()), reason: text }),
            code => WebSocketState::Failed(format!("{} broke the protocol, and was closed with {code}: {text}", self.target)),
        });
        self.outbox.push(close);
        self.end(Drain::Bytes);
    }

    /// Pings a server that says nothing, and gives up one that says nothing to that either. While the stub does not receive, nothing is heard,
    /// and while something waits to be sent, TCP itself finds out.
    fn check_heartbeat(&mut self, cx: &mut Context<'_>) {
        let (Some(heartbeat), Some(stream)) = (&mut self.heartbeat, &mut self.stream) else { return };
        let deaf = self.held.is_some() || self.outbox.bytes() > 0;
        match heartbeat.poll_event(cx, || stream.get_mut().take_activity() || deaf) {
            Poll::Pending => {}
            Poll::Ready(HeartbeatEvent::PingDue) => self.outbox.push(Message::Ping(bytes::Bytes::new())),
            Poll::Ready(HeartbeatEvent::TimedOut) => {
                self.stream = None;
                let interval = self.limits.ping_interval;
                self.set_final_state(WebSocketState::Failed(format!(
                    "{} said nothing for {:?}, and did not answer a ping",
                    self.target,
                    2 * interval
                )));
            }
        }
    }

    /// Writes out what waits, as far as the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(Err(error)) = self.outbox.poll_flush(stream, cx) {
            self.outbox = Outbox::default();
            self.write_error = Some(format!("sending to {} failed: {}", self.target, SafeText::chain(&error)));
        }
    }

    /// Ends the connection. Ready, and without a stream, when that is done or took too long.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(closing), Some(stream)) = (&mut self.closing, &mut self.stream) else { return Poll::Ready(()) };
        if closing.linger.poll_elapsed(cx).is_pending() {
            let waiting = self.outbox.bytes();
            let done = closing.poll(stream, &mut self.outbox, cx).is_ready();
            if !done && self.outbox.bytes() < waiting {
                closing.linger.progress(cx);
            }
            if !done {
                return Poll::Pending;
            }
        }
        self.closing = None;
        self.stream = None;
        Poll::Ready(())
    }
}

impl WebSocketClosing {
    /// Ready when the connection can be dropped.
    fn poll(&mut self, stream: &mut Stream, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<()> {
        let flushed = outbox.poll_flush(stream, cx);
        match self.drain {
            Drain::Handshake => {
                if let Poll::Ready(Err(_)) = flushed {
                    // What the server said last may still be there, and have to be answered.
                    *outbox = Outbox::default();
                }
                // Also while something waits: a server that waits for us to read would never take it.
                for _ in 0..QUIET_MESSAGES {
                    match ready!(Pin::new(&mut *stream).poll_next(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
            }
            Drain::Bytes => {
                let connection = stream.get_mut();
                if ready!(flushed).is_err() || ready!(Pin::new(&mut *connection).poll_shutdown(cx)).is_err() {
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

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text.into()),
            Frame::Binary(bytes) => Self::Binary(bytes.into()),
        }
    }
}

fn close_frame(code: CloseCode, reason: &str) -> Message {
    let reason = Utf8Bytes::from(&reason[..reason.floor_char_boundary(REASON_BYTES)]);
    Message::Close(Some(CloseFrame { code, reason }))
}

/// The codes that a stub may send (RFC 6455 section 7.4, as browsers have it); others become 1000.
pub(crate) fn allowed_close_code(code: u16) -> CloseCode {
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
