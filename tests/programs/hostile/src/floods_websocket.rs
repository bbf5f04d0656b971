//! Opens a WebSocket, and sends large frames as long as the host takes any.

use crate::{
    Stub,
    rethink::protostub::websocket::{self, Frame, State},
};

pub fn attack(stub: &Stub) -> Option<String> {
    let _one_too_many = websocket::open(&format!("ws://{}/", stub.text("server")), &[], &[]);
    None
}

pub fn ready(_: &Stub, socket: u32) -> Option<String> {
    if !matches!(websocket::poll(socket), State::Open(_)) {
        return None;
    }
    let _too_large = websocket::send(socket, &[Frame::Binary(vec![0; (1 << 20) + 1])]);
    let frames = vec![Frame::Binary(vec![0; 1 << 16]); 16];
    // The handle is ready again once there is room.
    while let Ok(taken) = websocket::send(socket, &frames) {
        if usize::try_from(taken).is_ok_and(|taken| taken < frames.len()) {
            break;
        }
    }
    None
}
