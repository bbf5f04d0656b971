//! Computes without end.

use std::hint::black_box;

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    loop {
        black_box(());
    }
}
