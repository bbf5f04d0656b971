//! The connections of one protocol stub: WebSocket, HTTP and TCP, as
//! `wit/0.1/{websocket,http,tcp}.wit` promise them.
//!
//! ```text
//!   guest call ── websocket_send, tcp_receive, … ──►  Connections ◄── poll_ready ── the sandbox's
//!                  (never wait)                        │      ▲                     task, between
//!                                                      │      │                     guest calls,
//!                                                      ▼      │                     until pending
//!                                               sockets, timers (wake: queue their own entry)
//! ```
//!
//! [`Connections`] owns all sockets and spawns no task. A function that the stub calls polls its
//! socket once with the connection's own waker, and returns the available result.
//! [`Connections::poll_ready`] does the rest from the sandbox's task. Each connection has its own
//! waker, so a busy connection does not cost polls of the others.
//!
//! Back-pressure reaches the server: of the data that the stub does not fetch, at most one message
//! or piece is read. The data that waits to be sent is limited as well. [`TransportLimits`] has all
//! limits.
//!
//! All traffic leaves through `protostub-egress`, with the grants of the stub. This crate does not
//! use the component model or wasmtime.

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
