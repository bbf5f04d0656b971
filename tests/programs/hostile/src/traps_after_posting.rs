//! Posts, and breaks in the same call: what it has posted stands.

use crate::{Stub, rethink::protostub::bus};

pub fn attack(stub: &Stub) -> Option<String> {
    let to = stub.waiting.as_ref().map_or("", |request| &request.from);
    let _ = bus::post(&[stub.message(&stub.url, to)]);
    panic!("after posting");
}
