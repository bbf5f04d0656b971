//! Sends a request to each of a thousand names below its own domain, a few at a time, and reads the answers.

use std::cell::Cell;

use crate::{Stub, rethink::protostub::http, told};

const NAMES: u32 = 1_000;
const AT_A_TIME: u32 = 4;

thread_local! {
    static ASKED: Cell<u32> = const { Cell::new(0) };
    static ANSWERED: Cell<u32> = const { Cell::new(0) };
}

pub fn attack(stub: &Stub) -> Option<String> {
    ASKED.set(0);
    ANSWERED.set(0);
    (0..AT_A_TIME).find_map(|_| ask(stub))
}

fn ask(stub: &Stub) -> Option<String> {
    let n = ASKED.get();
    if n == NAMES {
        return None;
    }
    ASKED.set(n + 1);
    let url = format!("http://x{n}.{}/", stub.text("server"));
    let request = http::Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() };
    http::send(&request).err().map(|error| format!("after {} names: {}", ANSWERED.get(), told(&error)))
}

pub fn ready(stub: &Stub, exchange: u32) -> Option<String> {
    match http::poll(exchange) {
        Ok(None) => return None,
        Ok(Some(_)) => {}
        // It was read to its end.
        Err(crate::Error::Closed) => return None,
        Err(error) => return Some(format!("after {} names: {}", ANSWERED.get(), told(&error))),
    }
    loop {
        match http::receive(exchange, 1 << 20) {
            Ok(Some(bytes)) if bytes.is_empty() => return None,
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return Some(told(&error)),
        }
    }
    ANSWERED.set(ANSWERED.get() + 1);
    if ANSWERED.get() == NAMES {
        return Some(format!("{NAMES} names have answered"));
    }
    ask(stub)
}
