//! Calls the host without end: no call of it takes long.

use crate::{Stub, rethink::protostub::timers};

pub fn attack(_: &Stub) -> Option<String> {
    loop {
        timers::cancel(0);
    }
}
