//! Writes control sequences of terminals, and characters that make a line look like another one, to
//! every output.

use crate::{
    Stub,
    rethink::protostub::{
        log,
        presence::{Status, publish},
    },
};

/// A text with two lines, a colour, and characters that reverse, hide and join their neighbours.
const TEXT: &str =
    "no such room\r\nERROR all is \u{202e}tsol\u{202c} \u{1b}[31m\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}\u{9b}2J";

pub fn attack(_: &Stub) -> Option<String> {
    log::write(log::Level::Error, TEXT);
    println!("{TEXT}");
    eprintln!("{TEXT}");
    let _ = publish(Status::Live, Some(TEXT));
    panic!("{TEXT}");
}
