//! The accomplice of a hostile server: connects to the server as often as `times` of its
//! configuration says, and reads all bytes, without end.

use std::cell::RefCell;

use crate::{
    Stub,
    rethink::protostub::{
        http,
        websocket::{self, State},
    },
    told,
};

pub fn attack(stub: &Stub) -> Option<String> {
    let times = stub.configuration["times"].as_u64().unwrap_or(1);
    (0..times).find_map(|_| open(stub.text("url")))
}

thread_local! {
    static OPEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

fn open(url: &str) -> Option<String> {
    let opened = if url.starts_with("ws") {
        websocket::open(url, &[], &[])
    } else {
        let request = http::Request { method: "GET".to_owned(), url: url.to_owned(), headers: Vec::new(), body: Vec::new() };
        http::send(&request)
    };
    OPEN.with_borrow_mut(|open| open.extend(opened.as_ref().ok()));
    opened.err().map(|error| told(&error))
}

pub fn ready(_: &Stub, handle: u32) -> Option<String> {
    if !OPEN.with_borrow(|open| open.contains(&handle)) {
        return None;
    }
    let end = read(handle)?;
    // Handles that stay open would use up all connections after a few broken servers.
    websocket::close(handle, 1000, "");
    http::cancel(handle);
    OPEN.with_borrow_mut(|open| open.retain(|other| *other != handle));
    OPEN.with_borrow(Vec::is_empty).then_some(end)
}

fn read(handle: u32) -> Option<String> {
    match http::poll(handle) {
        Ok(None) => return None,
        Ok(Some(head)) => return http_body(handle, head.status),
        // The handle is of another interface.
        Err(crate::Error::Closed) => {}
        Err(error) => return Some(told(&error)),
    }
    match websocket::poll(handle) {
        State::Connecting => return None,
        State::Open(_) => {}
        end => return Some(told_state(&end)),
    }
    loop {
        match websocket::receive(handle, 64, 1 << 20) {
            Ok(frames) if frames.is_empty() => return None,
            Ok(_) => {}
            // The connection was closed since the stub asked for its state. The state has the
            // reason.
            Err(crate::Error::Closed) => return Some(told_state(&websocket::poll(handle))),
            Err(error) => return Some(told(&error)),
        }
    }
}

/// Writes the state of a connection as the harness compares it.
fn told_state(state: &State) -> String {
    match state {
        State::Connecting => "connecting".to_owned(),
        State::Open(_) => "open".to_owned(),
        State::Refused(handshake) => format!("refused: {}", handshake.status),
        State::Closed(reason) => format!("closed: {:?} {}", reason.code, reason.reason),
        State::Failed(text) => format!("failed: {text}"),
    }
}

fn http_body(exchange: u32, status: u16) -> Option<String> {
    loop {
        match http::receive(exchange, 1 << 20) {
            Ok(Some(bytes)) if bytes.is_empty() => return None,
            Ok(Some(_)) => {}
            Ok(None) => return Some(format!("{status}, and its body has an end")),
            Err(error) => return Some(told(&error)),
        }
    }
}
