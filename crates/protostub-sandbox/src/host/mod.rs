//! The functions that a stub may call: one module for each interface of the contract. No function
//! here waits, and every function is bounded. A stub's input is checked, and at worst the stub gets
//! an error.

mod bus;
mod configuration;
mod http;
mod identity;
pub(crate) mod log;
mod presence;
mod rate;
mod reference;
mod session;
mod tcp;
mod timers;
mod websocket;

use protostub_transport::TransportError;
use protostub_types::SafeText;
use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::{bus::Posting, identity::IdentityRequests, presence::Status, reference::CredentialUse, timers::Timers};
use crate::{
    contract::{self, types::Error},
    state::StubState,
};

/// Adds the contract's interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
    contract::Protostub::add_to_linker::<_, HasSelf<StubState>>(linker, |state| state)?;
    bus::add_to_linker(linker)
}

impl contract::types::Host for StubState {}

impl From<TransportError> for Error {
    /// Bounds and escapes the text, which may quote the stub or a server.
    fn from(error: TransportError) -> Self {
        let safe = |text: String| SafeText::new(&text).to_string();
        match error {
            TransportError::Denied(text) => Self::Denied(safe(text)),
            TransportError::Invalid(text) => Self::Invalid(safe(text)),
            TransportError::Busy => Self::Busy,
            TransportError::Closed => Self::Closed,
            TransportError::Limit(text) => Self::Limit(safe(text)),
            TransportError::Io(text) => Self::Io(safe(text)),
        }
    }
}

/// The handles of an instance: one sequence over all interfaces, without reuse.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    last: u32,
}

impl Handles {
    pub(crate) fn next(&mut self) -> Result<u32, Error> {
        self.last = self
            .last
            .checked_add(1)
            .ok_or_else(|| Error::Limit("all 4 294 967 295 handles of this instance were used".to_owned()))?;
        Ok(self.last)
    }
}
