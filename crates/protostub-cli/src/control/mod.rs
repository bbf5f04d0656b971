//! The control socket: the way from `protostub deploy`, `list`, `send` and other commands to a
//! runtime that `protostub run` runs.
//!
//! * [`protocol`]: requests and responses, one JSON object per line. The README documents them for
//!   scripts.
//! * [`actions`]: the effect of each request on a runtime, in `run` or in a command's own runtime.
//! * [`context`]: state that the clients of one runtime share.
//! * [`server`]: in `run`, answers the clients of the socket.
//! * [`hangup`]: the end of a client of the server.
//! * [`client`]: in the other commands, sends requests.
//! * [`socket`]: the place and the ownership of the socket.

#![cfg_attr(not(unix), allow(dead_code, reason = "only a server needs it"))]

pub(crate) mod actions;
pub(crate) mod context;
pub(crate) mod protocol;

#[cfg(unix)]
pub(crate) mod client;
#[cfg(unix)]
mod hangup;
#[cfg(unix)]
pub(crate) mod server;
#[cfg(unix)]
pub(crate) mod socket;

#[cfg(not(unix))]
mod unsupported;
#[cfg(not(unix))]
pub(crate) use unsupported::{client, server, socket};
