//! Connects to ports of this machine, by names of its own domain that resolve to it. The answers
//! reveal the services that run here.

use std::cell::Cell;

use crate::{
    Stub,
    rethink::protostub::websocket::{self, State},
    told,
};

thread_local! {
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// The port of a running service, and the ports that every domain may use.
fn urls(stub: &Stub) -> Vec<String> {
    let (host, port) = stub.text("server").rsplit_once(':').unwrap_or_default();
    let hosts = [host.to_owned(), format!("service.{host}")];
    hosts.iter().flat_map(|host| [port, "443", "8883", "5223"].map(|port| format!("wss://{host}:{port}/"))).collect()
}

pub fn attack(stub: &Stub) -> Option<String> {
    NEXT.set(0);
    connect(stub)
}

fn connect(stub: &Stub) -> Option<String> {
    let urls = urls(stub);
    while let Some(url) = urls.get(NEXT.get()) {
        match websocket::open(url, &[], &[]) {
            Ok(_) => return None,
            Err(crate::Error::Denied(_)) => NEXT.set(NEXT.get() + 1),
            Err(error) if is_limited(&told(&error)) => NEXT.set(NEXT.get() + 1),
            Err(error) => return Some(format!("{url}: {}", told(&error))),
        }
    }
    Some(format!("all were refused: {}", urls.len()))
}

/// The limit of attempts stops a long scan too.
fn is_limited(how: &str) -> bool {
    how.contains("connect-attempts-per-second")
}

pub fn ready(stub: &Stub, socket: u32) -> Option<String> {
    let how = match websocket::poll(socket) {
        State::Connecting => return None,
        State::Failed(how) => how,
        State::Open(_) | State::Refused(_) | State::Closed(_) => "there is a connection".to_owned(),
    };
    websocket::close(socket, 1000, "");
    if !how.contains("is refused: its address 127.0.0.1 is loopback") && !is_limited(&how) {
        return Some(format!("dialled: {how}"));
    }
    NEXT.set(NEXT.get() + 1);
    connect(stub)
}
