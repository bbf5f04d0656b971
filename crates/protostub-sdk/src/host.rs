//! The imports of the contract, as plain functions over the SDK's types. Inside a component they are the host's; elsewhere, in unit tests, the
//! fake host's ([`crate::testing`]).

use crate::{Message, Result};

#[cfg(target_family = "wasm")]
mod component;

#[cfg(target_family = "wasm")]
pub(crate) use component::*;

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::imports::*;

/// Posts one message.
pub(crate) fn post_one(message: Message) -> Result<()> {
    post(vec![message]).pop().unwrap_or(Ok(()))
}

/// A request of the `http` interface.
#[derive(Debug, Clone)]
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The head of a response of the `http` interface.
#[derive(Debug, Clone)]
pub(crate) struct HttpHead {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

/// What a TCP connection is.
#[derive(Debug, Clone)]
pub(crate) enum TcpState {
    Connecting,
    Open,
    Closed,
    Failed(String),
}

/// What a WebSocket is.
#[derive(Debug, Clone)]
pub(crate) enum WebSocketState {
    Connecting,
    Open(crate::websocket::Handshake),
    Refused(crate::websocket::Handshake),
    Closed(crate::websocket::CloseReason),
    Failed(String),
}
