//! Posts to the address that asked it, as many and as large messages as it can.

use crate::{
    Stub,
    rethink::protostub::{bus, types::Body},
    told,
};

pub fn attack(stub: &Stub) -> Option<String> {
    let to = stub.waiting.as_ref().map_or("", |request| &request.from);
    let small = stub.message(&stub.url, to);
    let mut large = small.clone();
    large.body = Some(Body::Bytes(vec![b'x'; (1 << 20) + 1]));
    let mut last = bus::post(&[large]).pop();
    for _ in 0..3 {
        last = bus::post(&vec![small.clone(); 1_000]).pop();
    }
    Some(last.map_or_else(String::new, |result| result.map_or_else(|error| told(&error), |()| "accepted".to_owned())))
}
