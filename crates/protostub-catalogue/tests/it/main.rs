//! The catalogue against real servers on loopback.

mod committed;
mod copies;
mod downloads;
mod faults;
mod finding;
mod progress;
mod resumed;
mod sealed;
mod secure;
mod server;
mod sources;
mod stored;
mod trust;
mod trust_state;
