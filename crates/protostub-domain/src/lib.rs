//! A domain for development, demos and tests: the other side of a runtime.
//!
//! * [`DomainServer`]: the well-known catalogue, from a folder of protocol stubs, and the message
//!   node, on one port
//! * [`MessageNode`]: sessions, address allocation, subscriptions, routing between clients, and the
//!   registry of the domain. It has the Vert.x and NoMatrix flavours of the reTHINK project, and
//!   the faults that tests need.
//! * [`Limits`]: limits on the requests of clients
//! * [`WebOrigin`]: web pages that may connect to the message node
//!
//! All state is in memory, clients are not authenticated, and connections are not encrypted. So the
//! server is not fit for the public Internet.

mod catalogue;
mod http;
mod limits;
mod node;
mod origin;
mod server;

pub use catalogue::StubProblem;
pub use limits::Limits;
pub use node::{Ending, Faults, MessageNode, NodeCounts, NodeSession};
pub use origin::{WebOrigin, WebOriginError};
pub use server::{CatalogueCounts, DomainServer, DomainServerBuilder, DomainServerError, Memory, Stopped};
