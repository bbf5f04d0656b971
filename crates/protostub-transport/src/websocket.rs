//! One WebSocket connection (RFC 6455): `wit/0.1/websocket.wit`.
//!
//! ```text
//!   Connecting ──► Open ──► Closed(code)      the server's close frame, the end without a close
//!        │           │                        frame, a message over the limit (1009)
//!        │           └────► Failed(how)       broken, or the server violated the protocol (1002
//!        │                                    or 1007 is sent)
//!        ├──► Refused(head)                   a status other than 101
//!        └──► Failed(how)
//! ```
//!
//! The stream outlives `Open`: the final messages are sent after the stub knows the result
//! ([`WebSocketClosing`]).

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

/// Maximum number of messages that are read in one turn without news for the stub. These are pings,
/// and all messages after the stub closed the connection. Other connections then get their turn.
const QUIET_MESSAGES: usize = 64;
/// RFC 6455 section 5.5: a control frame's payload has at most 125 bytes, of which two are the
/// code.
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
    /// The connection broke. The text has the reason.
    Failed(String),
}

/// A WebSocket connection of the stub. Every method with a context polls the socket once with it
/// and never waits.
pub(crate) struct WebSocket {
    pub(crate) readiness: Readiness,
    state: WebSocketState,
    /// The scheme, host and port for error texts: `wss://sp1.example:443`.
    target: String,
    opening: Option<BoxFuture<'static, Result<Opened, String>>>,
    stream: Option<Stream>,
    /// `Some` while the connection is open.
    heartbeat: Option<Heartbeat>,
    closing: Option<WebSocketClosing>,
    /// A frame that the host read before the stub asked, or that exceeded the stub's requested
    /// size.
    held: Option<Frame>,
    pub(crate) outbox: Outbox,
    /// The last send took fewer frames than all. The stub is owed an event when there is room.
    wants_room: bool,
    /// Error of a failed write. Frames that the server sent before are still read, since its close
    /// frame may have the reason.
    write_error: Option<String>,
    limits: TransportLimits,
}

/// The remaining work on a stream whose state is final.
struct WebSocketClosing {
    /// The way to wait until the other side ends the connection. Unread bytes of the server would
    /// reset the connection, and our close frame would be lost.
    drain: Drain,
    linger: Linger,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// Reads frames until the closing handshake is done.
    Handshake,
    /// Ends our half and reads raw bytes, since the frames are no longer readable.
    Bytes,
}

impl WebSocket {
    /// Runs the checks that need no network, and prepares the connection. The first drive starts
    /// connecting.
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
        // An empty send keeps the pending wish for room.
        self.wants_room = taken < count || (count == 0 && self.wants_room);
        if taken == 0 && count > 0 {
            return Err(TransportError::Busy);
        }
        Ok(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Begins to close the connection. The stub no longer has access to it.
    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        self.opening = None;
        self.held = None;
        if matches!(self.state, WebSocketState::Open(_)) {
            self.outbox.push(close_frame(code, reason));
            self.end(Drain::Handshake);
        }
        self.state = WebSocketState::Closed(CloseReason::default());
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
            // Reads first: a server's close frame often has the reason, while a failing write only
            // shows that the server closed the connection.
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

    /// Reads one frame, unless the stub has yet to fetch one.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if self.held.is_none() {
            self.held = self.next_frame(cx);
        }
        if self.held.is_some() {
            self.readiness.set(Interest::Read);
        }
    }

    /// Returns the next frame for the stub. `None` if no frame has arrived, or the connection has
    /// ended. The state then has the result.
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
                // The next read also sends the pong.
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

    /// Sets the final state of the connection.
    fn set_final_state(&mut self, state: WebSocketState) {
        self.outbox = Outbox::default();
        self.wants_room = false;
        self.heartbeat = None;
        self.state = state;
        self.readiness.set(Interest::State);
    }

    /// Begins the closing: sends the remaining messages and waits for the other side.
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
            // TLS ended without `close_notify`. The missing close frame already leaves open whether
            // data was lost.
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
            code => WebSocketState::Failed(format!(
                "{} violated the WebSocket protocol and was closed with {code}: {text}",
                self.target
            )),
        });
        self.outbox.push(close);
        self.end(Drain::Bytes);
    }

    /// Pings a silent server, and gives up a server that does not answer the ping. The server does
    /// not count as silent while the stub does not receive, since the host then reads nothing. The
    /// same holds while messages wait to be sent, since TCP itself then detects a dead server.
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
                    "{} was silent for {:?} and did not answer a ping",
                    self.target,
                    2 * interval
                )));
            }
        }
    }

    /// Writes the waiting messages, as far as the socket accepts them.
    fn write(&mut self, cx: &mut Context<'_>) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(Err(error)) = self.outbox.poll_flush(stream, cx) {
            self.outbox = Outbox::default();
            self.write_error = Some(format!("sending to {} failed: {}", self.target, SafeText::chain(&error)));
        }
    }

    /// Ends the connection. Ready, and without a stream, when the closing is done or timed out.
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
                    // The server's last frames may still be readable and need an answer.
                    *outbox = Outbox::default();
                }
                // Reads even while messages wait: a server that waits for us to read would never
                // accept them.
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

/// Returns the code if a stub may send it (RFC 6455 section 7.4, as in browsers). Other codes
/// become 1000.
pub(crate) fn allowed_close_code(code: u16) -> CloseCode {
    match code {
        3000..=4999 => code.into(),
        _ => CloseCode::Normal,
    }
}

fn close_reason(frame: Option<CloseFrame>) -> CloseReason {
    frame.map_or_else(CloseReason::default, |frame| CloseReason {
        code: match frame.code.into() {
            // These two codes mean "no code" and "no close frame". They never occur on the wire.
            1005 | 1006 => None,
            code => Some(code),
        },
        reason: frame.reason.as_str().to_owned(),
    })
}
