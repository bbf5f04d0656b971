//! Proxy between a stub and its server. It passes bytes of any protocol on. As a case requires, it
//! stalls, splits, replaces or injects bytes, or ends connections.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, broadcast, watch},
};
use tokio_util::task::AbortOnDropHandle;

/// Number of connections that may wait to be accepted.
const BACKLOG: u32 = 64;
/// Number of bytes in one read.
const PIECE_BYTES: usize = 16 << 10;

/// Number of bytes of each piece that arrive one by one, and the pause between them.
const ALONE: usize = 16;
const APART: Duration = Duration::from_millis(5);

/// The treatment of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkMode {
    /// The link passes bytes on.
    PassOn,
    /// The link neither reads nor writes nor closes.
    Stall,
    /// The link sends these bytes to new connections, and closes them.
    Say(&'static [u8]),
}

/// The connection to the server.
pub(crate) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The port, while it refuses connections.
    closed: Mutex<Option<TcpSocket>>,
    listening: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared {
    server: watch::Sender<Option<SocketAddr>>,
    mode: watch::Sender<LinkMode>,
    /// Counter whose increments end all connections.
    cut: watch::Sender<u64>,
    /// Bytes to inject into the server's stream.
    injected: broadcast::Sender<Vec<u8>>,
    byte_by_byte: AtomicBool,
    open: watch::Sender<usize>,
    accepted: AtomicUsize,
}

impl Link {
    /// Binds a port of loopback, which refuses connections until [`Self::open`].
    pub(crate) fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let shared = Shared {
            server: watch::Sender::new(None),
            mode: watch::Sender::new(LinkMode::PassOn),
            cut: watch::Sender::new(0),
            injected: broadcast::Sender::new(16),
            byte_by_byte: AtomicBool::new(false),
            open: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
        };
        Ok(Self {
            address: socket.local_addr()?,
            shared: Arc::new(shared),
            closed: Mutex::new(Some(socket)),
            listening: Mutex::default(),
        })
    }

    /// Returns the address that stubs connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the server.
    pub(crate) fn set_server(&self, server: SocketAddr) {
        self.shared.server.send_replace(Some(server));
    }

    /// Accepts connections from now on.
    pub(crate) async fn open(&self) -> io::Result<()> {
        let Some(socket) = self.closed.lock().await.take() else { return Ok(()) };
        let listener = socket.listen(BACKLOG)?;
        let shared = Arc::clone(&self.shared);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stub, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move { shared.serve(stub).await });
            }
        });
        *self.listening.lock().await = Some(AbortOnDropHandle::new(accepting));
        Ok(())
    }

    /// Sets the treatment of the bytes, from now on.
    pub(crate) fn set(&self, mode: LinkMode) {
        self.shared.mode.send_replace(mode);
    }

    /// Passes the server's bytes to the stub one at a time, from now on.
    pub(crate) fn split_into_bytes(&self) {
        self.shared.byte_by_byte.store(true, Ordering::SeqCst);
    }

    /// Injects bytes into the server's stream, on every connection.
    pub(crate) fn inject(&self, bytes: Vec<u8>) {
        // Without a connection, the bytes have no receiver.
        let _ = self.shared.injected.send(bytes);
    }

    /// Ends all connections, without a closing message of the protocol.
    pub(crate) fn cut(&self) {
        self.shared.cut.send_modify(|times| *times += 1);
    }

    /// Returns the number of accepted connections.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        let _ = self.shared.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Shared {
    async fn serve(&self, stub: TcpStream) {
        self.open.send_modify(|open| *open += 1);
        let mut cut = self.cut.subscribe();
        tokio::select! {
            _ = cut.changed() => {}
            _ = self.connection(stub) => {}
        }
        self.open.send_modify(|open| *open -= 1);
    }

    async fn connection(&self, mut stub: TcpStream) -> io::Result<()> {
        stub.set_nodelay(true)?;
        let mode = *self.mode.borrow();
        if let LinkMode::Say(bytes) = mode {
            stub.write_all(bytes).await?;
            stub.shutdown().await?;
            // Drain the answer.
            let mut nobody = [0; 1024];
            while stub.read(&mut nobody).await? > 0 {}
            return Ok(());
        }
        self.passes_on().await;
        let Some(server) = *self.server.borrow() else { return Ok(()) };
        let server = TcpStream::connect(server).await?;
        server.set_nodelay(true)?;
        let ((from_stub, to_stub), (from_server, to_server)) = (stub.into_split(), server.into_split());
        tokio::try_join!(self.upwards(from_stub, to_server), self.downwards(from_server, to_stub))?;
        Ok(())
    }

    async fn passes_on(&self) {
        let _ = self.mode.subscribe().wait_for(|mode| *mode == LinkMode::PassOn).await;
    }

    async fn upwards(&self, mut stub: OwnedReadHalf, mut server: OwnedWriteHalf) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.passes_on().await;
            let length = stub.read(&mut piece).await?;
            self.passes_on().await;
            server.write_all(&piece[..length]).await?;
            if length == 0 {
                return server.shutdown().await;
            }
        }
    }

    async fn downwards(&self, mut server: OwnedReadHalf, mut stub: OwnedWriteHalf) -> io::Result<()> {
        let mut injected = self.injected.subscribe();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.passes_on().await;
            let length = tokio::select! {
                Ok(bytes) = injected.recv() => {
                    stub.write_all(&bytes).await?;
                    continue;
                }
                length = server.read(&mut piece) => length?,
            };
            self.passes_on().await;
            if self.byte_by_byte.load(Ordering::SeqCst) {
                for (number, byte) in piece[..length].iter().enumerate() {
                    stub.write_u8(*byte).await?;
                    // Bytes that are written together arrive together. The pause separates the
                    // first bytes.
                    if number < ALONE {
                        tokio::time::sleep(APART).await;
                    }
                }
            } else {
                stub.write_all(&piece[..length]).await?;
            }
            if length == 0 {
                return stub.shutdown().await;
            }
        }
    }
}
