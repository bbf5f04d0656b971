use std::collections::VecDeque;

use super::{Host, run, world::with};
use crate::{Error, Result, host::TcpState};

/// The server's side of a TCP connection that the stub opened.
#[derive(Debug)]
pub struct ServerConnection {
    handle: u32,
}

#[derive(Debug)]
pub(super) struct FakeTcp {
    address: (String, u16),
    pub(super) tls: Option<String>,
    pub(super) state: TcpState,
    to_stub: VecDeque<u8>,
    from_stub: Vec<u8>,
    /// Number of bytes that the host takes before it reports that there is no room.
    room: Option<usize>,
    pub(super) closed_by_stub: bool,
}

impl FakeTcp {
    pub(super) fn new(host: &str, port: u16, tls: bool) -> Self {
        Self {
            address: (host.to_owned(), port),
            tls: tls.then(|| host.to_owned()),
            state: TcpState::Connecting,
            to_stub: VecDeque::new(),
            from_stub: Vec::new(),
            room: None,
            closed_by_stub: false,
        }
    }

    pub(super) fn receive(&mut self, max_bytes: u32) -> Result<Option<Vec<u8>>> {
        if self.closed_by_stub {
            return Err(Error::Closed);
        }
        match &self.state {
            TcpState::Connecting => Err(Error::Busy),
            TcpState::Failed(how) => Err(Error::Io(how.clone())),
            TcpState::Closed if self.to_stub.is_empty() => Ok(None),
            TcpState::Open | TcpState::Closed => {
                let count = self.to_stub.len().min(max_bytes as usize);
                Ok(Some(self.to_stub.drain(..count).collect()))
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        match &self.state {
            _ if self.closed_by_stub => Err(Error::Closed),
            TcpState::Connecting => Err(Error::Busy),
            TcpState::Failed(how) => Err(Error::Io(how.clone())),
            TcpState::Closed => Err(Error::Closed),
            TcpState::Open => {
                let taken = bytes.len().min(self.room.unwrap_or(usize::MAX));
                if taken == 0 && !bytes.is_empty() {
                    return Err(Error::Busy);
                }
                self.room = self.room.map(|room| room - taken);
                self.from_stub.extend(&bytes[..taken]);
                Ok(taken)
            }
        }
    }
}

impl Host {
    /// Returns the next TCP connection that the stub has opened.
    ///
    /// # Panics
    /// If the stub has opened no further connection.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented, for tests")]
    pub fn tcp(&self) -> ServerConnection {
        with(|world| {
            let index = world.fresh.iter().position(|handle| world.tcp.contains_key(handle));
            let handle = index.and_then(|index| world.fresh.remove(index)).expect("the stub has opened no TCP connection");
            ServerConnection { handle }
        })
    }
}

impl ServerConnection {
    fn with<T>(&self, use_it: impl FnOnce(&mut FakeTcp) -> T) -> T {
        with(|world| use_it(world.tcp.get_mut(&self.handle).unwrap_or_else(|| panic!("the connection's `Host` is gone"))))
    }

    fn change(&self, change: impl FnOnce(&mut FakeTcp)) {
        self.with(change);
        with(|world| world.news(self.handle));
        run();
    }

    /// Returns the host and the port that the stub connected to.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        self.with(|connection| connection.address.clone())
    }

    /// Returns the name that the server's certificate must be valid for, if there is TLS.
    #[must_use]
    pub fn tls(&self) -> Option<String> {
        self.with(|connection| connection.tls.clone())
    }

    /// Opens the connection, or completes the TLS that the stub has begun on it.
    pub fn accept(&self) {
        self.change(|connection| connection.state = TcpState::Open);
    }

    /// Sends bytes.
    pub fn send(&self, bytes: &[u8]) {
        self.change(|connection| connection.to_stub.extend(bytes));
    }

    /// Takes the bytes that the stub sent since the last call.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.with(|connection| std::mem::take(&mut connection.from_stub))
    }

    /// Has the host take this many bytes and no more from now on; `None` is any number.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.change(|connection| connection.room = bytes);
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.change(|connection| connection.state = TcpState::Closed);
    }

    /// Breaks the connection, or has it fail to open.
    pub fn fail(&self, how: &str) {
        self.change(|connection| connection.state = TcpState::Failed(how.to_owned()));
    }

    /// Returns `true` if the stub has closed the connection.
    #[must_use]
    pub fn is_closed_by_stub(&self) -> bool {
        self.with(|connection| connection.closed_by_stub)
    }
}
