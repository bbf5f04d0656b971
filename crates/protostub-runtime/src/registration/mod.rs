//! Registration at a domain's own Registry.

mod task;

pub use task::{HypertyDescriptor, Registration};

pub(crate) use task::{RegistrationHandle, RegistrationRequest};
