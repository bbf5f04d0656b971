use crate::{
    contract::{
        http::{self, Head, Request},
        types::Error,
    },
    state::State,
    transport,
};

impl http::Host for State {
    fn send(&mut self, request: Request) -> Result<u32, Error> {
        let handle = self.handles.next()?;
        let Request { method, url, headers, body } = request;
        self.connections.http_send(handle, transport::Request { method, url, headers, body })?;
        Ok(handle)
    }

    fn poll(&mut self, exchange: u32) -> Result<Option<Head>, Error> {
        let head = self.connections.http_poll(exchange)?;
        Ok(head.map(|head| Head { status: head.status, headers: head.headers }))
    }

    fn receive(&mut self, exchange: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.connections.http_receive(exchange, max_bytes)?)
    }

    fn cancel(&mut self, exchange: u32) {
        self.connections.http_cancel(exchange);
    }
}
