//! Logs and prints long lines with control sequences of terminals, on all outputs.

use crate::{Stub, rethink::protostub::log};

pub fn attack(_: &Stub) -> Option<String> {
    let line = "\u{1b}[2J\u{7}all work and no play ".repeat(200);
    for _ in 0..100 {
        log::write(log::Level::Error, &line);
        println!("{line}");
        eprintln!("{line}");
    }
    Some("all lines are logged".to_owned())
}
