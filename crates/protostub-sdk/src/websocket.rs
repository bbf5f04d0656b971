//! WebSocket connections (RFC 6455). The host does DNS, proxies, TLS and ping/pong. A stub may
//! connect to its own domain and to the hosts that the operator granted.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::FusedFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Message, Result,
    guest::Handle,
    host::{self, WebSocketState},
    message::text_of,
    request::RequestBuilder,
};

/// Number of frames to fetch from the host at a time.
const FETCH_FRAMES: u32 = 32;
/// Number of bytes to fetch from the host at a time, beyond the first frame.
const FETCH_BYTES: u32 = 256 * 1024;

/// Opens a connection to a `ws://` or `wss://` URL.
///
/// # Errors
/// As [`Connect::open`].
pub async fn connect(url: impl AsRef<str>) -> Result<WebSocket> {
    Connect::new(url).open().await
}

/// A WebSocket before it opens, with the content of its opening handshake.
pub type Connect = RequestBuilder<Upgrade>;

/// The part of an opening handshake in addition to its URL and headers: subprotocols. See
/// [`Connect`].
#[derive(Debug, Clone)]
pub struct Upgrade {
    protocols: Vec<String>,
}

impl Connect {
    /// Makes a request for this `ws://` or `wss://` URL.
    #[must_use]
    pub fn new(url: impl AsRef<str>) -> Self {
        Self::of_kind(url, Upgrade { protocols: Vec::new() })
    }

    /// Asks for one more subprotocol, in order of preference.
    #[must_use]
    pub fn protocol(mut self, name: impl Into<String>) -> Self {
        self.kind.protocols.push(name.into());
        self
    }

    /// Opens the connection. The timeout is 15 s.
    ///
    /// # Errors
    /// [`Error::Denied`] (no grant for this host and port); [`Error::Invalid`] (the URL or a
    /// header); [`Error::Limit`] (more than 16 connections); [`Error::Refused`] (the server
    /// answered with a status other than 101); [`Error::Io`] (the network, TLS).
    pub async fn open(self) -> Result<WebSocket> {
        let socket = Socket(Handle::new(host::websocket_open(&self.url, &self.kind.protocols, &self.headers)?));
        let handshake = socket
            .0
            .ask(|handle| match host::websocket_poll(handle) {
                WebSocketState::Connecting => Ok(None),
                WebSocketState::Open(handshake) => Ok(Some(handshake)),
                WebSocketState::Refused(handshake) => Err(Error::Refused(handshake.status)),
                WebSocketState::Closed(reason) => Err(Error::WebSocketClosed(reason)),
                WebSocketState::Failed(how) => Err(Error::Io(how)),
            })
            .await?;
        Ok(WebSocket { socket, handshake, fetched: RefCell::default() })
    }
}

/// An open connection. Dropped, it is closed with the code 1000.
///
/// Its functions take `&self`, so one task can send while another receives. While the stub does not
/// receive, the host stops reading from the server.
#[derive(Debug)]
pub struct WebSocket {
    socket: Socket,
    handshake: Handshake,
    fetched: RefCell<VecDeque<Frame>>,
}

#[derive(Debug)]
struct Socket(Handle);

impl Drop for Socket {
    fn drop(&mut self) {
        host::websocket_close(self.0.id(), 1000, "");
    }
}

impl WebSocket {
    /// Returns the server's answer to the opening handshake: its subprotocol and headers.
    #[must_use]
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Waits for the next frame. Frames that arrived before the server closed the connection are
    /// received first.
    ///
    /// The future can be raced: dropped, it loses nothing.
    ///
    /// # Errors
    /// [`Error::WebSocketClosed`], once the server closed the connection; [`Error::Io`], once it
    /// broke.
    pub fn next(&self) -> Next<'_> {
        Next { websocket: self, done: false }
    }

    /// Returns a frame that the host has handed over already, if there is one. A stub can complete
    /// a batch with it that began with [`Self::next`].
    #[must_use]
    pub fn try_next(&self) -> Option<Frame> {
        self.fetched.borrow_mut().pop_front()
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Result<Frame>> {
        if let Some(frame) = self.try_next() {
            return Poll::Ready(Ok(frame));
        }
        self.socket.0.poll(cx.waker(), |handle| match host::websocket_receive(handle, FETCH_FRAMES, FETCH_BYTES) {
            Ok(frames) => {
                let mut frames = VecDeque::from(frames);
                let first = frames.pop_front();
                *self.fetched.borrow_mut() = frames;
                Ok(first)
            }
            Err(error) => Err(self.explain(error)),
        })
    }

    /// Sends a frame. Returns once the host has taken it. At most 1 MiB of frames wait to be sent.
    ///
    /// # Errors
    /// [`Error::WebSocketClosed`]; [`Error::Io`], once the connection broke; [`Error::Limit`] (a
    /// frame over 1 MiB).
    pub async fn send(&self, frame: Frame) -> Result<()> {
        self.send_all([frame]).await
    }

    /// Sends a text.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_text(&self, text: impl Into<String>) -> Result<()> {
        self.send(Frame::Text(text.into())).await
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_binary(&self, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.send(Frame::Binary(bytes.into())).await
    }

    /// Sends a value as JSON text.
    ///
    /// # Errors
    /// As [`Self::send`]; [`Error::Invalid`], if the value has no JSON form.
    pub async fn send_json(&self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.send_text(serde_json::to_string(value)?).await
    }

    /// Sends frames in order: as [`Self::send`], in as few calls as possible.
    ///
    /// Do not race this future: dropped before it is ready, it may have sent some of the frames.
    ///
    /// # Errors
    /// As [`Self::send`]. Frames before the one that failed may have been sent.
    pub async fn send_all(&self, frames: impl IntoIterator<Item = Frame>) -> Result<()> {
        let mut frames: VecDeque<_> = frames.into_iter().collect();
        let sent = self.socket.0.ask(|handle| {
            // Frames that the host does not take wait for news. The host announces room only to a
            // stub that it refused for lack of room.
            while !frames.is_empty() {
                host::websocket_send(handle, &mut frames)?;
            }
            Ok(Some(()))
        });
        sent.await.map_err(|error| self.explain(error))
    }

    /// Replaces the host's plain error by one with the code and reason, or the cause, of the end.
    fn explain(&self, error: Error) -> Error {
        match (error, host::websocket_poll(self.socket.0.id())) {
            (Error::Closed, WebSocketState::Closed(reason)) => Error::WebSocketClosed(reason),
            (Error::Closed | Error::Io(_), WebSocketState::Failed(how)) => Error::Io(how),
            (error, _) => error,
        }
    }

    /// Closes the connection, after the frames sent before. `code` is 1000 or 3000–4999; the host
    /// sends any other code as 1000. It sends the first 123 bytes of `reason`.
    pub fn close(self, code: u16, reason: &str) {
        host::websocket_close(self.socket.0.id(), code, reason);
    }
}

/// The future of [`WebSocket::next`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Next<'a> {
    websocket: &'a WebSocket,
    done: bool,
}

impl Future for Next<'_> {
    type Output = Result<Frame>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.websocket.poll_next(cx);
        self.done = polled.is_ready();
        polled
    }
}

impl FusedFuture for Next<'_> {
    fn is_terminated(&self) -> bool {
        self.done
    }
}

/// A server's answer to the opening handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record, which never changes within a track")]
pub struct Handshake {
    /// The HTTP status: 101, unless the server refused.
    pub status: u16,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
}

/// A whole message of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Frame {
    /// UTF-8.
    Text(String),
    /// Any bytes.
    Binary(Vec<u8>),
}

impl Frame {
    /// Returns the text or the bytes, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Reads JSON, from text or from bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the frame is not JSON, or not of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_str(self.text()?)?)
    }

    /// Reads a reTHINK message: one, or one for each address of a `to` array. See
    /// [`Message::from_json`].
    ///
    /// # Errors
    /// [`Error::Invalid`], if the frame is not a message.
    pub fn messages(&self) -> Result<Vec<Message>> {
        Message::from_json(self.text()?)
    }

    fn text(&self) -> Result<&str> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Binary(bytes) => text_of(bytes),
        }
    }
}

/// The reason for the end of a WebSocket (RFC 6455 section 7.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record, which never changes within a track")]
pub struct CloseReason {
    /// The close code, or `None` if the connection ended without a close frame or with an empty
    /// one.
    pub code: Option<u16>,
    /// The server's reason, for people.
    pub reason: String,
}

impl CloseReason {
    /// Returns the meaning of the code. The words are those of RFC 6455 that reTHINK's message-node
    /// stubs give as the reason of `disconnected`.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self.code {
            Some(1000) => "Normal closure, meaning that the purpose for which the connection was established has been fulfilled.",
            Some(1001) => {
                "An endpoint is \"going away\", such as a server going down or a browser having navigated away from a page."
            }
            Some(1002) => "An endpoint is terminating the connection due to a protocol error",
            Some(1003) => {
                "An endpoint is terminating the connection because it has received a type of data it cannot accept (e.g., an endpoint that understands only text data MAY send this if it receives a binary message)."
            }
            Some(1004) => "Reserved. The specific meaning might be defined in the future.",
            None | Some(1005) => "No status code was actually present.",
            Some(1006) => "The connection was closed abnormally, e.g., without sending or receiving a Close control frame",
            Some(1007) => {
                "An endpoint is terminating the connection because it has received data within a message that was not consistent with the type of the message (e.g., non-UTF-8 [http://tools.ietf.org/html/rfc3629] data within a text message)."
            }
            Some(1008) => {
                "An endpoint is terminating the connection because it has received a message that \"violates its policy\". This reason is given either if there is no other sutible reason, or if there is a need to hide specific details about the policy."
            }
            Some(1009) => {
                "An endpoint is terminating the connection because it has received a message that is too big for it to process."
            }
            Some(1010) => {
                "An endpoint (client) is terminating the connection because it has expected the server to negotiate one or more extension, but the server didn't return them in the response message of the WebSocket handshake."
            }
            Some(1011) => {
                "A server is terminating the connection because it encountered an unexpected condition that prevented it from fulfilling the request."
            }
            Some(1015) => {
                "The connection was closed due to a failure to perform a TLS handshake (e.g., the server certificate can't be verified)."
            }
            Some(_) => "Unknown reason",
        }
    }
}

impl fmt::Display for CloseReason {
    /// Writes the meaning of the code, or the server's reason for a code of the server's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code @ 3000..) if self.reason.is_empty() => write!(f, "The server closed the connection with the code {code}."),
            Some(3000..) => f.write_str(&self.reason),
            _ => f.write_str(self.meaning()),
        }
    }
}
