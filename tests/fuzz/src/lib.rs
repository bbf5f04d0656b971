//! The inputs of the fuzzers: one function for each target. `tests/it/fuzz.rs` includes the same
//! files, and replays the corpus with them.

#[cfg(feature = "sandbox")]
mod consumers;
#[cfg(feature = "sandbox")]
pub mod generate;
#[cfg(feature = "sandbox")]
mod sandbox;
mod text;

#[cfg(feature = "sandbox")]
pub use consumers::{consumer, control};
#[cfg(feature = "sandbox")]
pub use sandbox::{component, host_calls, settings};
pub use text::{address, descriptor, http, jws, message, policy};
