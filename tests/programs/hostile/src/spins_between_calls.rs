//! Calls the host without end. No single call takes long.

use crate::{Stub, rethink::protostub::timers};

pub fn attack(_: &Stub) -> Option<String> {
    loop {
        timers::cancel(0);
    }
}
