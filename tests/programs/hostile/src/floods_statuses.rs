//! Comes and goes a thousand times.

use crate::{
    Stub,
    rethink::protostub::presence::{Status, publish},
    told,
};

pub fn attack(_: &Stub) -> Option<String> {
    let mut last = Ok(());
    for n in 0..1_000 {
        last = publish(if n % 2 == 0 { Status::InProgress } else { Status::Live }, Some(&"reasons ".repeat(1_000)));
    }
    Some(last.map_or_else(|error| told(&error), |()| "published".to_owned()))
}
