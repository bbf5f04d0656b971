//! The imports of the contract, as plain functions over the SDK's types. Inside a component the
//! host provides them. In unit tests, which run natively, the fake host does ([`crate::testing`]).

#[cfg(target_family = "wasm")]
mod component;

#[cfg(target_family = "wasm")]
pub(crate) use component::*;

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::imports::*;

/// Number of bytes that go into one call of the host, unless a single item is larger. The host ends
/// an instance that hands over a few times as much at once.
#[cfg(any(target_family = "wasm", test))]
const CALL_BYTES: usize = 1 << 20;

/// Returns the number of items for the next call of the host: as many as have [`CALL_BYTES`]
/// together, and at least one.
#[cfg(any(target_family = "wasm", test))]
fn next_call(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fit = |size: &usize| {
        bytes = bytes.saturating_add(*size);
        bytes <= CALL_BYTES
    };
    sizes.into_iter().take_while(fit).count().max(1)
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

/// The state of a TCP connection.
#[derive(Debug, Clone)]
pub(crate) enum TcpState {
    Connecting,
    Open,
    Closed,
    Failed(String),
}

/// The state of a WebSocket.
#[derive(Debug, Clone)]
pub(crate) enum WebSocketState {
    Connecting,
    Open(crate::websocket::Handshake),
    Refused(crate::websocket::Handshake),
    Closed(crate::websocket::CloseReason),
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::{CALL_BYTES, next_call};

    #[test]
    fn host_call_is_bounded_and_has_at_least_one_item() {
        assert_eq!(next_call([1; 1_000]), 1_000);
        assert_eq!(next_call([CALL_BYTES / 2; 8]), 2);
        assert_eq!(next_call([CALL_BYTES, 1]), 1);
        assert_eq!(next_call([2 * CALL_BYTES, 1]), 1);
        assert_eq!(next_call([1, usize::MAX, usize::MAX]), 1);
    }
}
