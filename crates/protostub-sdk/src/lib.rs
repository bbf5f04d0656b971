//! SDK.

mod connection;
mod error;
mod event;
mod guest;
mod host;
pub mod http;
pub mod identity;
mod logging;
mod message;
pub mod session;
mod stub;
pub mod tcp;
pub mod time;
pub mod websocket;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod export;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use connection::keep_connected;
pub use error::{Error, Result};
pub use event::{Credential, CredentialKind, DisconnectReason, Event, Status};
pub use futures_util::{join, pin_mut, select, select_biased};
pub use log;
pub use message::{Body, Message, MessageId, MessageType};
pub use serde::de::IgnoredAny as Ignored;
pub use stub::{NextEvent, NextMessage, Stub};
