//! Breaks with what it was given in its hands.

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    panic!("in handle");
}
