use std::collections::VecDeque;

use super::{Host, run, world::with};
use crate::{
    Error, Result,
    host::{HttpHead, HttpRequest},
};

/// The server's side of an HTTP exchange that the stub began.
#[derive(Debug)]
pub struct Exchange {
    handle: u32,
    request: HttpRequest,
}

#[derive(Debug)]
pub(super) struct FakeExchange {
    request: HttpRequest,
    pub(super) head: Option<HttpHead>,
    body: VecDeque<u8>,
    complete: bool,
    pub(super) broken: Option<String>,
}

impl FakeExchange {
    pub(super) fn new(request: HttpRequest) -> Self {
        Self { request, head: None, body: VecDeque::new(), complete: false, broken: None }
    }

    pub(super) fn receive(&mut self, max_bytes: u32) -> Result<Option<Vec<u8>>> {
        if let Some(how) = &self.broken {
            return Err(Error::Io(how.clone()));
        }
        if self.head.is_none() {
            return Err(Error::Busy);
        }
        let count = self.body.len().min(max_bytes as usize);
        Ok((count > 0 || !self.complete).then(|| self.body.drain(..count).collect()))
    }
}

impl Host {
    /// Returns the next HTTP exchange that the stub has begun.
    ///
    /// # Panics
    /// If the stub has begun no further exchange.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented, for tests")]
    pub fn http(&self) -> Exchange {
        with(|world| {
            let index = world.fresh.iter().position(|handle| world.exchanges.contains_key(handle));
            let handle = index.and_then(|index| world.fresh.remove(index)).expect("the stub has begun no HTTP exchange");
            Exchange { handle, request: world.exchanges[&handle].request.clone() }
        })
    }
}

impl Exchange {
    /// Returns the request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.request.method
    }

    /// Returns the request's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.request.url
    }

    /// Returns the value of a header of the request.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the request's body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.request.body
    }

    fn change(&self, change: impl FnOnce(&mut FakeExchange)) {
        with(|world| {
            if let Some(exchange) = world.exchanges.get_mut(&self.handle) {
                change(exchange);
                world.news(self.handle);
            }
        });
        run();
    }

    /// Answers with this head. [`Self::send`] and [`Self::end`] follow up with the body.
    pub fn head(&self, status: u16, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        self.change(|exchange| exchange.head = Some(HttpHead { status, headers }));
    }

    /// Sends a part of the body.
    pub fn send(&self, bytes: &[u8]) {
        self.change(|exchange| exchange.body.extend(bytes));
    }

    /// Completes the body.
    pub fn end(&self) {
        self.change(|exchange| exchange.complete = true);
    }

    /// Answers with this status and body.
    pub fn respond(&self, status: u16, body: &[u8]) {
        self.head(status, &[]);
        self.send(body);
        self.end();
    }

    /// Breaks the exchange.
    pub fn fail(&self, how: &str) {
        self.change(|exchange| exchange.broken = Some(how.to_owned()));
    }

    /// Returns `true` if the stub has ended the exchange, or received it to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        with(|world| !world.exchanges.contains_key(&self.handle))
    }
}
