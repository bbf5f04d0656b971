use std::collections::VecDeque;

use serde_json::Value;

use super::{Host, run, world::with};
use crate::{
    Error, Result,
    host::WebSocketState,
    websocket::{CloseReason, Frame, Handshake},
};

/// The server's side of a WebSocket that the stub opened.
#[derive(Debug)]
pub struct ServerSocket {
    handle: u32,
}

#[derive(Debug)]
pub(super) struct FakeSocket {
    url: String,
    protocols: Vec<String>,
    headers: Vec<(String, String)>,
    pub(super) state: WebSocketState,
    to_stub: VecDeque<Frame>,
    from_stub: Vec<Frame>,
    /// Number of frames that the host takes before it reports that there is no room.
    room: Option<usize>,
    pub(super) closed_by_stub: Option<(u16, String)>,
}

impl FakeSocket {
    pub(super) fn new(url: &str, protocols: &[String], headers: &[(String, String)]) -> Self {
        Self {
            url: url.to_owned(),
            protocols: protocols.to_owned(),
            headers: headers.to_owned(),
            state: WebSocketState::Connecting,
            to_stub: VecDeque::new(),
            from_stub: Vec::new(),
            room: None,
            closed_by_stub: None,
        }
    }

    /// Returns the reason why the socket can neither send nor receive.
    fn end(&self) -> Error {
        match (&self.state, &self.closed_by_stub) {
            (WebSocketState::Failed(how), None) => Error::Io(how.clone()),
            _ => Error::Closed,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, WebSocketState::Open(_)) && self.closed_by_stub.is_none()
    }

    pub(super) fn receive(&mut self, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>> {
        if self.closed_by_stub.is_some() || self.to_stub.is_empty() && !self.is_open() {
            return Err(self.end());
        }
        let (mut frames, mut left) = (Vec::new(), max_bytes as usize);
        while let Some(frame) = self.to_stub.front()
            && frames.len() < max_frames as usize
            && (frames.is_empty() || frame.as_bytes().len() <= left)
        {
            left = left.saturating_sub(frame.as_bytes().len());
            frames.extend(self.to_stub.pop_front());
        }
        Ok(frames)
    }

    pub(super) fn send(&mut self, frames: &mut VecDeque<Frame>) -> Result<()> {
        if matches!(self.state, WebSocketState::Connecting) {
            return Err(Error::Busy);
        }
        if !self.is_open() {
            return Err(self.end());
        }
        let taken = frames.len().min(self.room.unwrap_or(usize::MAX));
        if taken == 0 && !frames.is_empty() {
            return Err(Error::Busy);
        }
        self.room = self.room.map(|room| room - taken);
        self.from_stub.extend(frames.drain(..taken));
        Ok(())
    }
}

impl Host {
    /// Returns the next WebSocket that the stub has opened.
    ///
    /// # Panics
    /// If the stub has opened no further WebSocket.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented, for tests")]
    pub fn websocket(&self) -> ServerSocket {
        self.next_websocket().expect("the stub has opened no WebSocket")
    }

    /// Returns the next WebSocket that the stub has opened, or `None`.
    #[must_use]
    pub fn next_websocket(&self) -> Option<ServerSocket> {
        with(|world| {
            let index = world.fresh.iter().position(|handle| world.sockets.contains_key(handle))?;
            world.fresh.remove(index).map(|handle| ServerSocket { handle })
        })
    }
}

impl ServerSocket {
    fn with<T>(&self, use_it: impl FnOnce(&mut FakeSocket) -> T) -> T {
        with(|world| use_it(world.sockets.get_mut(&self.handle).unwrap_or_else(|| panic!("the socket's `Host` is gone"))))
    }

    fn change(&self, change: impl FnOnce(&mut FakeSocket)) {
        self.with(change);
        with(|world| world.news(self.handle));
        run();
    }

    /// Returns the URL that the stub asked for.
    #[must_use]
    pub fn url(&self) -> String {
        self.with(|socket| socket.url.clone())
    }

    /// Returns the subprotocols that the stub asked for.
    #[must_use]
    pub fn protocols(&self) -> Vec<String> {
        self.with(|socket| socket.protocols.clone())
    }

    /// Returns the value of a header of the stub's opening handshake.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let is_it = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.with(|socket| socket.headers.iter().find(is_it).map(|(_, value)| value.clone()))
    }

    /// Answers the opening handshake with 101.
    pub fn accept(&self) {
        self.accept_with(None);
    }

    /// Answers the opening handshake with 101 and a subprotocol.
    pub fn accept_with(&self, protocol: Option<&str>) {
        let handshake = Handshake { status: 101, protocol: protocol.map(str::to_owned), headers: Vec::new() };
        self.change(|socket| socket.state = WebSocketState::Open(handshake));
    }

    /// Answers the opening handshake with another status.
    pub fn refuse(&self, status: u16) {
        self.change(|socket| socket.state = WebSocketState::Refused(Handshake { status, ..Handshake::default() }));
    }

    /// Sends a frame.
    pub fn send(&self, frame: Frame) {
        self.change(|socket| socket.to_stub.push_back(frame));
    }

    /// Sends frames that arrive all at once.
    pub fn send_all(&self, frames: impl IntoIterator<Item = Frame>) {
        self.change(|socket| socket.to_stub.extend(frames));
    }

    /// Sends a text.
    pub fn send_text(&self, text: impl Into<String>) {
        self.send(Frame::Text(text.into()));
    }

    /// Sends a value as JSON text.
    pub fn send_json(&self, value: &Value) {
        self.send_text(value.to_string());
    }

    /// Takes the frames that the stub sent since the last call.
    #[must_use]
    pub fn received(&self) -> Vec<Frame> {
        self.with(|socket| std::mem::take(&mut socket.from_stub))
    }

    /// Takes the frames that the stub sent since the last call, as JSON.
    ///
    /// # Panics
    /// If a frame is not JSON.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented, for tests")]
    pub fn received_json(&self) -> Vec<Value> {
        self.received().iter().map(|frame| frame.json().expect("a frame of JSON")).collect()
    }

    /// Has the host take this many frames and no more from now on; `None` is any number.
    pub fn set_room(&self, frames: Option<usize>) {
        self.change(|socket| socket.room = frames);
    }

    /// Closes the connection. Without a code, the close frame is empty.
    pub fn close(&self, code: Option<u16>, reason: &str) {
        self.change(|socket| socket.state = WebSocketState::Closed(CloseReason { code, reason: reason.to_owned() }));
    }

    /// Breaks the connection, or has it fail to open.
    pub fn fail(&self, how: &str) {
        self.change(|socket| socket.state = WebSocketState::Failed(how.to_owned()));
    }

    /// Returns the code and the reason with which the stub closed the connection, if it did.
    #[must_use]
    pub fn closed_by_stub(&self) -> Option<(u16, String)> {
        self.with(|socket| socket.closed_by_stub.clone())
    }
}
