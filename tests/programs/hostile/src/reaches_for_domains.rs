//! Has the host contact this machine, private networks and metadata services: by posting to
//! addresses there, by `loadStub`, and by connecting.

use crate::{
    Stub,
    rethink::protostub::{
        bus, http, tcp,
        types::{Body, MessageType},
        websocket,
    },
    told,
};

const PLACES: [&str; 14] = [
    "127.0.0.1:9",
    "localhost:9",
    "[::1]:9",
    "0.0.0.0:9",
    "10.0.0.1",
    "192.168.0.1",
    "172.16.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "metadata.google.internal",
    "bank.example",
];

pub fn attack(stub: &Stub) -> Option<String> {
    let mut done = Vec::new();
    let mut refused = 0;
    let mut note = |what: String, result: Result<(), crate::Error>| match result {
        Err(error) if told(&error).starts_with("denied") || told(&error).starts_with("invalid") => refused += 1,
        _ => done.push(what),
    };
    for place in PLACES {
        let post = bus::post(&[stub.message(&stub.url, &format!("hyperty://{place}/alice"))]).pop();
        note(format!("post to {place}"), post.unwrap_or(Ok(())));
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{place}/latest/meta-data/");
            let request = http::Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() };
            note(format!("{scheme} to {place}"), http::send(&request).map(drop));
        }
        let with_host = [("host".to_owned(), "bank.example".to_owned())];
        note(format!("websocket to {place}"), websocket::open(&format!("wss://{place}/"), &[], &with_host).map(drop));
        let host = place.trim_end_matches(":9");
        note(format!("tcp to {place}"), tcp::open(host, 22, false).map(drop));
        note(format!("tls to {place}"), tcp::open(host, 443, true).map(drop));
    }
    // The Runtime UA's answer arrives as a response, and no stub is deployed.
    let mut load = stub.message(&stub.url, &format!("{}/ua", stub.text("runtimeURL")));
    load.type_ = MessageType::Execute;
    load.body = Some(Body::Json(r#"{"method":"loadStub","params":["127.0.0.1:9"]}"#.to_owned()));
    let _ = bus::post(&[load]);
    Some(if done.is_empty() { format!("all {refused} were refused") } else { format!("accepted: {done:?}") })
}
