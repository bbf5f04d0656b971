//! Panics with a message of megabytes.

use crate::Stub;

pub fn attack(_: &Stub) -> Option<String> {
    panic!("{}", "\u{1b}[31mwords, words, words\n".repeat(50_000));
}
