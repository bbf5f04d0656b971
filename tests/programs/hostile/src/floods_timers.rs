//! Sets timers, all for the same moment, as many as it can.

use crate::{Stub, rethink::protostub::timers, told};

pub fn attack(_: &Stub) -> Option<String> {
    let mut last = Ok(0);
    for _ in 0..10_000 {
        last = timers::after(1_000);
    }
    Some(last.map_or_else(|error| told(&error), |_| "set".to_owned()))
}
