//! The protocol stub of MQTT brokers: MQTT 5 and 3.1.1, over TCP and WebSocket.
//!
//! ```text
//! bus ──► connection: publish, subscribe ──► wire: packets ──► transport ──► broker
//! bus ◄── connection: who subscribed     ◄── wire          ◄── transport ◄── broker
//! ```
//!
//! * [`session`]: the state that outlives a connection
//! * [`topic`]: topics, and their addresses on the bus
//! * [`config`]: the configuration from the descriptor and the operator

mod config;
mod connection;
mod session;
mod topic;
mod transport;
mod wire;

use std::{cell::RefCell, rc::Rc};

use protostub_sdk::{Ignored, Result, Stub, keep_connected};

use config::Config;
use session::Session;

/// The session belongs to the instance, not to one connection.
async fn main(stub: Stub, config: Config) -> Result<()> {
    let session = Rc::new(RefCell::new(Session::load(&config)));
    let config = Rc::new(config);
    keep_connected(stub, move |stub, _: Ignored| {
        let (config, session) = (Rc::clone(&config), Rc::clone(&session));
        async move { connection::run(&stub, &config, &session).await }
    })
    .await
}

protostub_sdk::export!(main: main);

#[cfg(test)]
mod tests;
