//! Publishes `live` with a thousand reasons. (Alternating statuses would leave the stub
//! disconnected for observers if the limit cut off the last `live`.)

use crate::{
    Stub,
    rethink::protostub::presence::{Status, publish},
    told,
};

pub fn attack(_: &Stub) -> Option<String> {
    let mut last = Ok(());
    for n in 0..1_000 {
        last = publish(Status::Live, Some(&format!("{n} {}", "reasons ".repeat(1_000))));
    }
    Some(last.map_or_else(|error| told(&error), |()| "published".to_owned()))
}
