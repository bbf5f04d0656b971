//! The message bus of Protostub: routing, bounded inboxes, requests and their responses.

mod bus;
mod counts;
mod deadlines;
mod error;
mod inbox;
mod mailbox;
mod open_requests;
mod outcomes;
mod table;

pub use bus::{Bus, BusConfig, MAX_ID_BYTES, MAX_REQUEST_TIMEOUT, Origin, Route, Unroutable};
pub use counts::BusCounts;
pub use error::{AttachError, PostError, RequestError};
pub use inbox::Inbox;
pub use mailbox::{InboxLimits, Mailbox};
