//! Sends requests to its server, and reads no answer.

use crate::{Stub, rethink::protostub::http, told};

pub fn attack(stub: &Stub) -> Option<String> {
    let request = http::Request {
        method: "POST".to_owned(),
        url: format!("http://{}/", stub.text("server")),
        headers: Vec::new(),
        body: vec![b'x'; 1 << 16],
    };
    let mut last = Ok(0);
    for _ in 0..1_000 {
        last = http::send(&request);
    }
    Some(last.map_or_else(|error| told(&error), |_| "sent".to_owned()))
}
