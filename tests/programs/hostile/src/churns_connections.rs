//! Connects to one port after the other of its own domain, and closes each connection: a port scan.

use std::cell::Cell;

use crate::{
    Stub,
    rethink::protostub::tcp::{self, State},
    told,
};

/// Connections at a time, below the limit.
const PARALLEL: u32 = 8;
/// Connections in all, above the limit for a minute.
const ATTEMPTS: u32 = 3_000;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

pub fn attack(stub: &Stub) -> Option<String> {
    LEFT.set(ATTEMPTS);
    (0..PARALLEL).find_map(|_| attempt(stub))
}

fn attempt(stub: &Stub) -> Option<String> {
    let (host, port) = stub.text("server").rsplit_once(':')?;
    let ports = [port.parse().ok()?, 443, 8883, 5223];
    let left = LEFT.get();
    LEFT.set(left.checked_sub(1)?);
    let port = ports[usize::try_from(left).ok()? % ports.len()];
    let opened = tcp::open(host, port, false);
    (left == 1).then(|| {
        format!(
            "the stub connected {ATTEMPTS} times, the last time: {}",
            opened.map_or_else(|error| told(&error), |_| "yes".to_owned())
        )
    })
}

pub fn ready(stub: &Stub, connection: u32) -> Option<String> {
    if matches!(tcp::poll(connection), State::Connecting) {
        return None;
    }
    tcp::close(connection);
    attempt(stub)
}
