//! Has a thousand reasons to be live. (Had it come and gone, it would stay gone where it was told so last before the limit.)

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
