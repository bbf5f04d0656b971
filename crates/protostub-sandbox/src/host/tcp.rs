use protostub_egress::Protection;
use protostub_transport::TcpState;
use protostub_types::SafeText;

use crate::{
    contract::{tcp, types::Error},
    recorder::Entry,
    state::StubState,
};

impl tcp::Host for StubState {
    fn open(&mut self, host: String, port: u16, tls: bool) -> Result<u32, Error> {
        let protection = if tls { Protection::Tls } else { Protection::Plain };
        let opened = self.handles.next().and_then(|handle| {
            self.connections.tcp_open(handle, &host, port, protection)?;
            Ok(handle)
        });
        self.count_connection_limit(&opened);
        self.record(&Entry::call("tcp.open").host(&host, port).opened(&opened));
        opened
    }

    fn start_tls(&mut self, connection: u32, server_name: String) -> Result<(), Error> {
        let started = self.connections.tcp_start_tls(connection, &server_name).map_err(Error::from);
        self.record(&Entry::call("tcp.start-tls").handle(connection).result(&started));
        started
    }

    fn poll(&mut self, connection: u32) -> tcp::State {
        self.record(&Entry::call("tcp.poll").handle(connection));
        match self.connections.tcp_poll(connection) {
            TcpState::Connecting => tcp::State::Connecting,
            TcpState::Open => tcp::State::Open,
            TcpState::Closed => tcp::State::Closed,
            TcpState::Failed(text) => tcp::State::Failed(SafeText::new(&text).to_string()),
        }
    }

    fn receive(&mut self, connection: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        let received = self.connections.tcp_receive(connection, max_bytes).map_err(Error::from);
        let bytes = received.iter().flatten().map(Vec::len).sum();
        self.record(&Entry::call("tcp.receive").handle(connection).bytes(bytes).result(&received));
        received
    }

    fn send(&mut self, connection: u32, bytes: Vec<u8>) -> Result<u32, Error> {
        let sent = self.connections.tcp_send(connection, &bytes).map_err(Error::from);
        self.record(&Entry::call("tcp.send").handle(connection).bytes(bytes.len()).result(&sent));
        sent
    }

    fn close(&mut self, connection: u32) {
        self.connections.tcp_close(connection);
        self.record(&Entry::call("tcp.close").handle(connection));
    }
}
