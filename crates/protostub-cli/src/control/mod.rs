//! The control socket: how `protostub deploy`, `list`, `send` and the like talk to a runtime that `protostub run` runs.
//!
//! * [`protocol`]: what is said, one JSON object a line; the README documents it for scripts
//! * [`actions`]: what each request does to a runtime, wherever that runs
//! * [`context`]: what the clients of one runtime share
//! * [`server`]: in `run`, answers the clients of the socket
//! * [`client`]: in the other commands, asks
//! * [`socket`]: where the socket is, and whose

#![cfg_attr(not(unix), allow(dead_code, reason = "only a server needs it"))]

pub(crate) mod actions;
pub(crate) mod context;
pub(crate) mod protocol;

#[cfg(unix)]
pub(crate) mod client;
#[cfg(unix)]
pub(crate) mod server;
#[cfg(unix)]
pub(crate) mod socket;

#[cfg(not(unix))]
mod unsupported;
#[cfg(not(unix))]
pub(crate) use unsupported::{client, server, socket};
