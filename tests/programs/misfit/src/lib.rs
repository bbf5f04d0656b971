//! A stub with one fault: the fault that the conformance case with the id `fault` of its
//! configuration finds. Without `fault`, it is a good stub.
//!
//! * [`node`]: the stub of a message node, for a `url` that begins with `ws://`
//! * [`lines`]: the stub of a server that says `hello` and sends each line back, for a `url` that
//!   begins with `tcp://`

mod config;
mod lines;
mod node;

use std::{cell::Cell, mem, time::Duration};

use protostub_sdk::{Result, Stub, keep_connected, spawn, time, websocket};

use config::Config;

thread_local! {
    /// `true` once the stub has disconnected on request.
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

async fn main_function(stub: Stub, config: Config) -> Result<()> {
    spawn(between_connections(config));
    keep_connected(stub, run).await
}

async fn run(stub: Stub, config: Config) -> Result<()> {
    match config.url.strip_prefix("tcp://") {
        Some(server) => lines::run(&stub, &config, server).await,
        None => node::run(&stub, &config).await,
    }
}

/// Does the work that goes on between connections too.
async fn between_connections(config: Config) {
    if config.is("stub/ready/idle") {
        loop {
            time::sleep(Duration::from_millis(1)).await;
        }
    }
    if config.is("stub/disconnect/stays") {
        while !TOLD.get() {
            time::sleep(Duration::from_millis(300)).await;
        }
        // Waits until the stub's own connection is closed.
        time::sleep(Duration::from_secs(1)).await;
        mem::forget(websocket::connect(&config.url).await);
    }
}

protostub_sdk::export!(main: main_function);
