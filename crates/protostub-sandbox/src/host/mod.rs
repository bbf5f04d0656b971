//! What a stub may call: one module for each interface of the contract. No function here waits for anybody, and every one is bounded: what a stub sends
//! is checked, and at worst it gets an error.

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
mod text;
mod timers;
mod websocket;

use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::{
    bus::Posting, identity::IdentityRequests, presence::Status, text::printable, text::readable, timers::Timers,
};
use crate::{
    contract::{self, types::Error},
    state::StubState,
    transport,
};

/// Adds the contract's interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
    contract::Protostub::add_to_linker::<_, HasSelf<StubState>>(linker, |state| state)?;
    bus::add_to_linker(linker)
}

impl contract::types::Host for StubState {}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Self {
        match error {
            transport::Error::Denied(text) => Self::Denied(text),
            transport::Error::Invalid(text) => Self::Invalid(text),
            transport::Error::Busy => Self::Busy,
            transport::Error::Closed => Self::Closed,
            transport::Error::Limit(text) => Self::Limit(text),
            transport::Error::Io(text) => Self::Io(text),
        }
    }
}

/// The handles of an instance: one sequence over all interfaces, none used twice.
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
