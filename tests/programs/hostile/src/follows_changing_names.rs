//! Connects again and again to its own server, by a name whose addresses change with each look-up:
//! once its server's among others', once only those of this machine's network.

use std::cell::Cell;

use crate::{
    Stub,
    rethink::protostub::{
        timers,
        websocket::{self, State},
    },
    told,
};

const ATTEMPTS: u32 = 16;

#[derive(Clone, Copy, Default)]
struct Attempts {
    refused: u32,
    at_its_server: u32,
}

thread_local! {
    static ATTEMPTED: Cell<Attempts> = const { Cell::new(Attempts { refused: 0, at_its_server: 0 }) };
}

pub fn attack(stub: &Stub) -> Option<String> {
    ATTEMPTED.set(Attempts::default());
    attempt(stub)
}

fn attempt(stub: &Stub) -> Option<String> {
    match websocket::open(stub.text("url"), &[], &[]) {
        Ok(_) => None,
        Err(error) if told(&error).contains("connect-attempts-per-second") => wait(),
        Err(error) => Some(told(&error)),
    }
}

/// Time until the next attempt.
fn wait() -> Option<String> {
    timers::after(100).err().map(|error| told(&error))
}

pub fn timer(stub: &Stub) -> Option<String> {
    attempt(stub)
}

pub fn ready(stub: &Stub, socket: u32) -> Option<String> {
    let mut attempts = ATTEMPTED.get();
    match websocket::poll(socket) {
        State::Connecting => return None,
        State::Failed(how) if how.contains("is refused: its address") => attempts.refused += 1,
        // The server cannot prove its name. This error shows that the stub reached the server.
        State::Failed(how) if how.contains("certificate") => attempts.at_its_server += 1,
        // The stub attacks again and again, and the host makes it wait.
        State::Failed(how) if how.contains("connect-attempts-per-second") => {
            websocket::close(socket, 1000, "");
            return wait();
        }
        State::Failed(how) => return Some(format!("dialled: {how}")),
        State::Open(_) | State::Refused(_) | State::Closed(_) => return Some("there is a connection".to_owned()),
    }
    websocket::close(socket, 1000, "");
    ATTEMPTED.set(attempts);
    let Attempts { refused, at_its_server } = attempts;
    if refused + at_its_server < ATTEMPTS {
        return attempt(stub);
    }
    Some(format!("{refused} were refused, {at_its_server} came to its own server"))
}
