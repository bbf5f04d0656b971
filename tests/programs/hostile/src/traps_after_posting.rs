//! Posts, and traps in the same call. The posted message stays valid.

use crate::{Stub, rethink::protostub::bus};

pub fn attack(stub: &Stub) -> Option<String> {
    let to = stub.waiting.as_ref().map_or("", |request| &request.from);
    let _ = bus::post(&[stub.message(&stub.url, to)]);
    panic!("after posting");
}
