//! Opens a WebSocket, and sends large frames for as long as any are taken.

use crate::{
    Stub,
    rethink::protostub::websocket::{self, Frame, State},
    told,
};

pub fn attack(stub: &Stub) -> Option<String> {
    match websocket::open(&format!("ws://{}/", stub.text("server")), &[], &[]) {
        Ok(_) => None,
        Err(error) => Some(told(&error)),
    }
}

pub fn ready(socket: u32) -> Option<String> {
    match websocket::poll(socket) {
        State::Connecting => return None,
        State::Open(_) => {}
        State::Refused(handshake) => return Some(format!("refused: {}", handshake.status)),
        State::Closed(reason) => return Some(format!("closed: {:?}", reason.code)),
        State::Failed(text) => return Some(format!("failed: {text}")),
    }
    let _too_large = websocket::send(socket, &[Frame::Binary(vec![0; (1 << 20) + 1])]);
    let frames = vec![Frame::Binary(vec![0; 1 << 16]); 16];
    // Once there is room again, it is ready again.
    while let Ok(taken) = websocket::send(socket, &frames) {
        if usize::try_from(taken).is_ok_and(|taken| taken < frames.len()) {
            break;
        }
    }
    None
}
