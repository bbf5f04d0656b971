//! Sends a request to each of a thousand names below its own domain, a few at a time, and reads the
//! answers.

use std::cell::Cell;

use crate::{Error, Stub, rethink::protostub::http};

const NAMES: u32 = 1_000;
const AT_A_TIME: u32 = 4;

#[derive(Clone, Copy, Default)]
struct Progress {
    asked: u32,
    answered: u32,
    /// The request was refused, or it broke.
    failed: u32,
}

impl Progress {
    fn summary(self) -> Option<String> {
        let done = self.answered + self.failed == NAMES;
        done.then(|| format!("{NAMES} names were asked, {} answered", self.answered))
    }
}

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress { asked: 0, answered: 0, failed: 0 }) };
}

pub fn attack(stub: &Stub) -> Option<String> {
    PROGRESS.set(Progress::default());
    (0..AT_A_TIME).find_map(|_| ask(stub))
}

/// Asks the next name. Returns the answer if all remaining names were refused.
fn ask(stub: &Stub) -> Option<String> {
    let mut progress = PROGRESS.get();
    let mut sent = false;
    while !sent && progress.asked < NAMES {
        let url = format!("http://x{}.{}/", progress.asked, stub.text("server"));
        let request = http::Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() };
        progress.asked += 1;
        sent = http::send(&request).is_ok();
        progress.failed += u32::from(!sent);
    }
    PROGRESS.set(progress);
    progress.summary()
}

pub fn ready(stub: &Stub, exchange: u32) -> Option<String> {
    let mut progress = PROGRESS.get();
    match read(exchange) {
        Ok(false) => return None,
        Ok(true) => progress.answered += 1,
        Err(_) => progress.failed += 1,
    }
    http::cancel(exchange);
    PROGRESS.set(progress);
    ask(stub)
}

/// Reads the bytes that have arrived. Returns `true` at the end.
fn read(exchange: u32) -> Result<bool, Error> {
    match http::poll(exchange) {
        Ok(None) | Err(Error::Closed) => return Ok(false),
        other => other?,
    };
    loop {
        match http::receive(exchange, 1 << 20)? {
            None => return Ok(true),
            Some(bytes) if bytes.is_empty() => return Ok(false),
            Some(_) => {}
        }
    }
}
