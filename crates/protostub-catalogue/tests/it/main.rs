//! The catalogue against real servers on loopback.

mod faults;
mod finding;
mod progress;
mod secure;
mod server;
mod sources;
mod stored;
