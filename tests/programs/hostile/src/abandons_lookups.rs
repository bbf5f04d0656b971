//! Connects to names below its own domain that the name service never answers, and abandons them
//! for others again and again. The last attempt uses a known name.

use std::cell::RefCell;

use crate::{
    Stub,
    rethink::protostub::{
        timers,
        websocket::{self, State},
    },
    told,
};

const ROUNDS: u32 = 10;
/// Milliseconds for each round, until the maximum number of look-ups is under way.
const ROUND: u64 = 30;
/// One connection is left for the last attempt.
const PARALLEL: u32 = 15;

#[derive(Default)]
struct Lookups {
    round: u32,
    open: Vec<u32>,
    last: Option<u32>,
}

thread_local! {
    static LOOKUPS: RefCell<Lookups> = RefCell::default();
}

pub fn attack(stub: &Stub) -> Option<String> {
    LOOKUPS.take();
    timer(stub)
}

pub fn timer(stub: &Stub) -> Option<String> {
    LOOKUPS.with_borrow_mut(|lookups| {
        for socket in lookups.open.drain(..) {
            websocket::close(socket, 1000, "");
        }
        let (scheme, domain) = stub.text("url").split_once("://")?;
        if lookups.round == ROUNDS {
            let last = websocket::open(&format!("{scheme}://last.{domain}"), &[], &[]);
            return match last {
                Ok(socket) => {
                    lookups.last = Some(socket);
                    None
                }
                Err(error) if told(&error).contains("connect-attempts-per-second") => wait(1_000),
                Err(error) => Some(told(&error)),
            };
        }
        let round = lookups.round;
        for n in 0..PARALLEL {
            match websocket::open(&format!("{scheme}://r{round}n{n}.{domain}"), &[], &[]) {
                Ok(socket) => lookups.open.push(socket),
                Err(_) => break,
            }
        }
        lookups.round += 1;
        wait(ROUND)
    })
}

fn wait(milliseconds: u64) -> Option<String> {
    timers::after(milliseconds).err().map(|error| told(&error))
}

pub fn ready(_: &Stub, socket: u32) -> Option<String> {
    if LOOKUPS.with_borrow(|lookups| lookups.last != Some(socket)) {
        return None;
    }
    let how = match websocket::poll(socket) {
        State::Connecting => return None,
        State::Failed(how) if how.contains("connect-attempts-per-second") => {
            websocket::close(socket, 1000, "");
            return wait(1_000);
        }
        State::Failed(how) => how,
        State::Open(_) | State::Refused(_) | State::Closed(_) => "there is a connection".to_owned(),
    };
    websocket::close(socket, 1000, "");
    Some(how)
}
