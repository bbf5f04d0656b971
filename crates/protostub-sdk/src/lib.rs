//! The SDK for authors of protocol stubs: the contract of Protostub (`wit/0.1`) as async Rust.
//!
//! A protocol stub connects the message bus of a runtime to the back-end of one domain. It is a
//! WebAssembly component, made of one async function. The SDK calls the function whenever a
//! connection to the back-end is wanted:
//!
//! ```
//! use protostub_sdk::{Result, Stub, select, websocket};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Config {
//!     url: String,
//! }
//!
//! async fn run(stub: Stub, config: Config) -> Result<()> {
//!     let socket = websocket::connect(&config.url).await?;
//!     stub.live();
//!     loop {
//!         select! {
//!             message = stub.next_message() => socket.send_text(message?.to_json()?).await?,
//!             frame = socket.next() => for message in frame?.messages()? { stub.post(message)? },
//!         }
//!     }
//! }
//!
//! protostub_sdk::export!(run);
//! # fn main() {}
//! ```
//!
//! That is a whole stub. The SDK publishes its status (`in-progress`, `live`, `disconnected`),
//! reconnects after a delay when the network broke, and closes the connection when the host asks it
//! to: see [`keep_connected`]. The configuration comes from the domain's descriptor and the
//! operator. A configuration that does not fit ends the deployment, with the path of the fault
//! (`$.url`).
//!
//! # Build
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//!
//! ```sh
//! cargo build --release --target wasm32-wasip2
//! ```
//!
//! # Contents
//!
//! * [`Stub`]: the bus and the stub's status; [`Message`]: a message of the bus, and its JSON form
//! * [`websocket`], [`http`], [`tcp`]: connections to the stub's own domain, and to the hosts that
//!   the operator granted. Dropped, they are closed
//! * [`time`]: waiting, deadlines, and [`time::Backoff`]
//! * [`spawn`]: tasks of the stub's own, next to its function
//! * [`identity`]: the domain's credentials; [`session`]: a memory that outlives restarts
//! * [`subscribers`], [`pending`]: tables of the subscribers of each topic, and of requests without
//!   an answer of the server
//! * [`log`]: its macros write to the host's log, and so do prints and panic messages. Write no
//!   secrets
//! * `testing`: a fake host, for unit tests that run natively in `cargo test` (a component does not
//!   contain it)
//!
//! # Execution
//!
//! A component has one thread and cannot wait. The host calls it with a batch of events, an
//! executor runs every task until it is stalled, and the call returns. It follows that
//!
//! * an `await` costs only memory, and `std::thread::sleep` is impossible: use [`time::sleep`];
//! * a loop that computes for longer than the host allows (1 s by default) ends the instance:
//!   `await` a future now and then;
//! * futures of other crates work, as long as they wait for futures of this one;
//! * concurrency is [`select!`], [`join!`], or any other combinator of [`futures`]. The futures of
//!   this crate that are made to be raced, such as [`Stub::next_message`], lose nothing when they
//!   are dropped.
//!
//! While messages wait that the stub does not take, the SDK pauses the bus. While frames and bytes
//! wait, the host stops reading. No queue grows without bound.
//!
//! # Memory
//!
//! A stub has the allocator of its target, or one of its own, unless its `Cargo.toml` asks for the
//! SDK's:
//!
//! ```toml
//! protostub-sdk = { path = "…", features = ["allocator"] }
//! ```
//!
//! A stub allocates and frees a few texts of the same sizes for each message. The SDK's allocator
//! takes a few instructions for each, and the target's some hundred. An idle stub has three pages
//! of memory of its own instead of nine. The feature sets `#[global_allocator]` of the component:
//! a stub that sets another one leaves the feature off. Unit tests, which run natively, keep their
//! allocator.
//!
//! # More control
//!
//! `export!(main: main)` calls an async function once, for the whole life of an instance. The
//! function connects and disconnects itself:
//!
//! ```
//! use protostub_sdk::{Event, Result, Status, Stub};
//!
//! async fn main_function(stub: Stub, _: protostub_sdk::Ignored) -> Result<()> {
//!     loop {
//!         match stub.next_event().await {
//!             Event::Connect(_) => stub.publish(Status::Live, None)?,
//!             Event::Disconnect(_) => stub.publish(Status::Disconnected, None)?,
//!             Event::Message(message) => {
//!                 stub.post(message.error_response(501, "nothing is implemented"))?;
//!             }
//!         }
//!     }
//! }
//!
//! protostub_sdk::export!(main: main_function);
//! # fn main() {}
//! ```

mod connection;
mod error;
mod event;
mod guest;
#[cfg(any(test, all(target_family = "wasm", feature = "allocator")))]
mod heap;
mod host;
pub mod http;
pub mod identity;
mod logging;
mod message;
pub mod pending;
mod request;
pub mod session;
mod stub;
pub mod subscribers;
mod task;
pub mod tcp;
pub mod time;
pub mod websocket;
mod wire;

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
/// The combinators of the `futures` crate, for futures, streams and sinks.
pub use futures_util as futures;
pub use futures_util::{join, select, select_biased};
pub use log;
pub use message::{Body, Message, MessageId, MessageType};
/// A configuration that the stub does not read: any is accepted.
pub use serde::de::IgnoredAny as Ignored;
pub use stub::{NextEvent, NextMessage, Stub};
pub use task::{JoinHandle, spawn};
