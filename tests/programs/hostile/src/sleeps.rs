//! Waits without end, and computes nothing: `wasi:clocks` and `wasi:io/poll` do that for it.

use std::{thread, time::Duration};

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    thread::sleep(Duration::from_secs(1 << 30));
    Some("the stub woke".to_owned())
}
