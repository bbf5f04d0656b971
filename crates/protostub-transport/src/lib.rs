//! The connections of one protocol stub: WebSocket, HTTP and TCP, as
//! `wit/0.1/{websocket,http,tcp}.wit` promise them.
//!
//! ```text
//!   guest call ── websocket_send, tcp_receive, … ──►  Connections ◄── poll_ready ── the sandbox's task, between guest calls
//!                  (never wait)                        │      ▲                       until it is pending
//!                                                      ▼      │ wakes: queues only its own entry
//!                                                   sockets, timers
//! ```
//!
//! [`Connections`] owns all of it and spawns nothing. A function that the stub calls polls its
//! socket once with the connection's own waker, and returns what there is.
//! [`Connections::poll_ready`] does the rest from the sandbox's task. Each connection has a waker of
//! its own, so a busy one does not cost a poll of the others.
//!
//! Back-pressure reaches the server: of data that the stub does not fetch, at most one message or
//! piece is read. The data that waits to be sent is bounded as well. [`TransportLimits`] has all
//! bounds.
//!
//! Everything leaves through `protostub-egress`, with the grants of the stub. This crate knows
//! nothing of the component model, and names no wasmtime.

mod connections;
mod error;
mod limits;

mod http;
mod tcp;
mod websocket;

mod headers;
mod idle;
mod linger;
mod readiness;
mod route;
mod traffic;

pub use self::http::{Head, Request};
pub use connections::Connections;
pub use error::TransportError;
pub use limits::TransportLimits;
pub use route::Authorization;
pub use tcp::TcpState;
pub use websocket::{CloseReason, Frame, Handshake, WebSocketState};
