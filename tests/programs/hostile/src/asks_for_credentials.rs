//! Asks for credentials, other domains' too, as often as it can.

use crate::{Stub, rethink::protostub::identity, told};

pub fn attack(_: &Stub) -> Option<String> {
    let mut last = Ok(0);
    for n in 0..1_000 {
        last = identity::request(Some(&format!("bank.example {n}")));
    }
    Some(last.map_or_else(|error| told(&error), |_| "asked".to_owned()))
}
