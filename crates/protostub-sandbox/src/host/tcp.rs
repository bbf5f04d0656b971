use crate::{
    contract::{tcp, types::Error},
    state::State,
    transport::TcpState,
};

impl tcp::Host for State {
    fn open(&mut self, host: String, port: u16, tls: bool) -> Result<u32, Error> {
        let handle = self.handles.next()?;
        self.connections.tcp_open(handle, &host, port, tls)?;
        Ok(handle)
    }

    fn start_tls(&mut self, connection: u32, server_name: String) -> Result<(), Error> {
        Ok(self.connections.tcp_start_tls(connection, &server_name)?)
    }

    fn poll(&mut self, connection: u32) -> tcp::State {
        match self.connections.tcp_poll(connection) {
            TcpState::Connecting => tcp::State::Connecting,
            TcpState::Open => tcp::State::Open,
            TcpState::Closed => tcp::State::Closed,
            TcpState::Failed(text) => tcp::State::Failed(text),
        }
    }

    fn receive(&mut self, connection: u32, max_bytes: u32) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.connections.tcp_receive(connection, max_bytes)?)
    }

    fn send(&mut self, connection: u32, bytes: Vec<u8>) -> Result<u32, Error> {
        Ok(self.connections.tcp_send(connection, &bytes)?)
    }

    fn close(&mut self, connection: u32) {
        self.connections.tcp_close(connection);
    }
}
