//! Traps in `handle`, while it holds the events.

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    panic!("in handle");
}
