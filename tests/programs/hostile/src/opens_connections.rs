//! Opens connections, thousands of each kind.

use crate::{
    Stub,
    rethink::protostub::{http, tcp, websocket},
    told,
};

pub fn attack(stub: &Stub) -> Option<String> {
    let server = stub.text("server");
    let (host, port) = server.rsplit_once(':').unwrap_or((server, "0"));
    let port = port.parse().unwrap_or_default();
    let get = http::Request { method: "GET".to_owned(), url: format!("http://{server}/"), headers: Vec::new(), body: Vec::new() };
    let mut last = Ok(0);
    for n in 0..3_000 {
        last = match n % 3 {
            0 => tcp::open(host, port, false),
            1 => websocket::open(&format!("ws://{server}/"), &[], &[]),
            _ => http::send(&get),
        };
    }
    Some(last.map_or_else(|error| told(&error), |_| "opened".to_owned()))
}
