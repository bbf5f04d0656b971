//! Registration at a domain's own Registry.

mod handle;
mod task;

pub use handle::{HypertyDescriptor, Registration};

pub(crate) use handle::RegistrationHandle;
pub(crate) use task::RegistrationRequest;
