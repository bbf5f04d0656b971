//! The runtime's own listeners on the bus.

pub(crate) mod registry;
