use protostub_transport::WebSocketState;
use protostub_types::SafeText;

use crate::{
    contract::{
        types::Error,
        websocket::{self, CloseReason, Frame, Handshake},
    },
    recorder::Entry,
    state::StubState,
};

impl websocket::Host for StubState {
    fn open(&mut self, url: String, protocols: Vec<String>, mut headers: Vec<(String, String)>) -> Result<u32, Error> {
        let opened = self.authorize(&url, &mut headers).and_then(|authorization| {
            let handle = self.handles.next()?;
            self.connections.websocket_open(handle, &url, &protocols, &headers, authorization)?;
            Ok(handle)
        });
        self.count_connection_limit(&opened);
        self.record(&Entry::call("websocket.open").server(&url).opened(&opened));
        opened
    }

    fn poll(&mut self, socket: u32) -> websocket::State {
        self.record(&Entry::call("websocket.poll").handle(socket));
        match self.connections.websocket_poll(socket) {
            WebSocketState::Connecting => websocket::State::Connecting,
            WebSocketState::Open(handshake) => websocket::State::Open(handshake.into()),
            WebSocketState::Refused(handshake) => websocket::State::Refused(handshake.into()),
            WebSocketState::Closed(reason) => websocket::State::Closed(CloseReason { code: reason.code, reason: reason.reason }),
            WebSocketState::Failed(text) => websocket::State::Failed(SafeText::new(&text).to_string()),
        }
    }

    fn receive(&mut self, socket: u32, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>, Error> {
        let received = self.connections.websocket_receive(socket, max_frames, max_bytes).map_err(Error::from);
        let bytes = received.iter().flatten().map(protostub_transport::Frame::len).sum();
        self.record(&Entry::call("websocket.receive").handle(socket).bytes(bytes).result(&received));
        Ok(received?.into_iter().map(Frame::from).collect())
    }

    fn send(&mut self, socket: u32, frames: Vec<Frame>) -> Result<u32, Error> {
        let frames: Vec<_> = frames.into_iter().map(protostub_transport::Frame::from).collect();
        let bytes = frames.iter().map(protostub_transport::Frame::len).sum();
        let sent = self.connections.websocket_send(socket, frames).map_err(Error::from);
        if matches!(sent, Err(Error::Limit(_))) {
            self.count_limit("frame_bytes");
        }
        self.record(&Entry::call("websocket.send").handle(socket).bytes(bytes).result(&sent));
        sent
    }

    fn close(&mut self, socket: u32, code: u16, reason: String) {
        self.connections.websocket_close(socket, code, &reason);
        self.record(&Entry::call("websocket.close").handle(socket));
    }
}

impl From<protostub_transport::Handshake> for Handshake {
    fn from(handshake: protostub_transport::Handshake) -> Self {
        Self { status: handshake.status, protocol: handshake.protocol, headers: handshake.headers }
    }
}

impl From<protostub_transport::Frame> for Frame {
    fn from(frame: protostub_transport::Frame) -> Self {
        match frame {
            protostub_transport::Frame::Text(text) => Self::Text(text),
            protostub_transport::Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<Frame> for protostub_transport::Frame {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}
