use crate::{
    contract::{
        http::{self, Head, Request},
        types::Error,
    },
    recorder::Entry,
    state::StubState,
};

impl http::Host for StubState {
    fn send(&mut self, request: Request) -> Result<u32, Error> {
        let Request { method, url, mut headers, body } = request;
        let call = Entry::call("http.send").server(&url).bytes(body.len());
        let sent = self.authorize(&url, &mut headers).and_then(|authorization| {
            let handle = self.handles.next()?;
            self.connections.http_send(handle, protostub_transport::Request { method, url, headers, body }, authorization)?;
            Ok(handle)
        });
        self.count_connection_limit(&sent);
        self.record(&call.opened(&sent));
        sent
    }

    fn poll(&mut self, exchange: u32) -> Result<Option<Head>, Error> {
        let head = self.connections.http_poll(exchange).map_err(Error::from);
        self.record(&Entry::call("http.poll").handle(exchange).result(&head));
        Ok(head?.map(|head| Head { status: head.status, headers: head.headers }))
    }

    fn receive(&mut self, exchange: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        let received = self.connections.http_receive(exchange, max_bytes).map_err(Error::from);
        let bytes = received.iter().flatten().map(Vec::len).sum();
        self.record(&Entry::call("http.receive").handle(exchange).bytes(bytes).result(&received));
        received
    }

    fn cancel(&mut self, exchange: u32) {
        self.connections.http_cancel(exchange);
        self.record(&Entry::call("http.cancel").handle(exchange));
    }
}
