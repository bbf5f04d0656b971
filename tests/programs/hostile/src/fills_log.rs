//! Logs long lines, and fewer of them than a second may have: a log that fills up in days.

use crate::{Stub, rethink::protostub::log};

pub fn attack(_: &Stub) -> Option<String> {
    let line = "all work and no play ".repeat(390);
    for _ in 0..80 {
        log::write(log::Level::Info, &line);
    }
    Some("all lines are logged".to_owned())
}
