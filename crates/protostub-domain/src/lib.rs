//! A domain for development, demos and tests: what a runtime needs on the other side.
//!
//! * [`DomainServer`]: the well-known catalogue, from a folder of protocol stubs, and the message node, on one port
//! * [`MessageNode`]: sessions, address allocation, subscriptions, routing between clients and the registry of the domain, in the Vert.x
//!   and NoMatrix flavours of the reTHINK project, with the faults that tests need
//! * [`Limits`]: how much of anything a client may ask for
//!
//! Everything is in memory, nobody is authenticated, and connections are not encrypted: it is no server for the public Internet.

mod catalogue;
mod http;
mod limits;
mod node;
mod server;

pub use catalogue::StubProblem;
pub use limits::Limits;
pub use node::{Ending, Faults, MessageNode, NodeCounts, NodeSession};
pub use server::{CatalogueCounts, DomainServer, DomainServerBuilder, DomainServerError, Memory, Stopped};
