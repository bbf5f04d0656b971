//! TCP connections, plain or over TLS. The host does DNS and TLS, and lets a stub connect to its own domain and what the operator granted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::io::{AsyncRead, AsyncWrite};

use crate::{
    Error, Result,
    guest::Handle,
    host::{self, TcpState},
};

/// How many bytes are fetched from the host at a time.
const FETCH_BYTES: usize = 64 * 1024;

/// Opens a connection with TLS from the start.
///
/// # Errors
/// As [`connect_plain`].
pub async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    TcpStream::open(host, port, true).await
}

/// Opens a connection without TLS, which needs a grant of the operator: [`TcpStream::start_tls`] may follow. It opens within 15 s, or not at all.
///
/// # Errors
/// [`Error::Denied`] (no grant for this host and port, or none for a plain connection); [`Error::Invalid`] (no host's name);
/// [`Error::Limit`] (more than 16 connections); [`Error::Io`] (the network, TLS).
pub async fn connect_plain(host: &str, port: u16) -> Result<TcpStream> {
    TcpStream::open(host, port, false).await
}

/// An open connection. Dropped, it is closed, after what was written is sent.
///
/// It is an [`AsyncRead`] and [`AsyncWrite`] too, for libraries that speak a protocol over any stream. While nobody reads, the host stops reading from
/// the server.
#[derive(Debug)]
pub struct TcpStream {
    connection: Connection,
}

#[derive(Debug)]
struct Connection(Handle);

impl Drop for Connection {
    fn drop(&mut self) {
        host::tcp_close(self.0.id());
    }
}

impl Connection {
    async fn opened(&self) -> Result<()> {
        let state = |connection| match host::tcp_poll(connection) {
            TcpState::Connecting => Ok(None),
            TcpState::Open => Ok(Some(())),
            TcpState::Closed => Err(Error::Closed),
            TcpState::Failed(how) => Err(Error::Io(how)),
        };
        self.0.ask(state).await
    }
}

impl TcpStream {
    async fn open(host: &str, port: u16, tls: bool) -> Result<Self> {
        let connection = Connection(Handle::new(host::tcp_open(host, port, tls)?));
        connection.opened().await?;
        Ok(Self { connection })
    }

    /// Begins TLS (`STARTTLS`), once everything that was written is sent. The server's certificate has to be for `server_name`. Bytes of the server that
    /// came before, and were not read, end the connection: they are not protected.
    ///
    /// # Errors
    /// [`Error::Denied`] (no grant for the name); [`Error::Invalid`]; [`Error::Closed`]; [`Error::Io`] (the network, TLS).
    pub async fn start_tls(self, server_name: &str) -> Result<Self> {
        self.connection.0.ask(|connection| host::tcp_start_tls(connection, server_name).map(Some)).await?;
        self.connection.opened().await?;
        Ok(self)
    }

    /// The next bytes, at least one; none: the server has ended its half, and all was read.
    ///
    /// # Errors
    /// [`Error::Io`], once the connection broke; [`Error::Closed`].
    pub async fn read(&self) -> Result<Option<Vec<u8>>> {
        std::future::poll_fn(|cx| self.poll_bytes(cx, FETCH_BYTES)).await
    }

    fn poll_bytes(&self, cx: &Context<'_>, most: usize) -> Poll<Result<Option<Vec<u8>>>> {
        let most = u32::try_from(most.min(FETCH_BYTES)).unwrap_or(u32::MAX);
        self.connection.0.poll(cx.waker(), |connection| match host::tcp_receive(connection, most)? {
            Some(bytes) if bytes.is_empty() => Ok(None),
            some_or_end => Ok(Some(some_or_end)),
        })
    }

    /// Writes all these bytes: returns once the host has taken them. At most 256 KiB wait to be sent.
    ///
    /// # Errors
    /// [`Error::Io`], once the connection broke; [`Error::Closed`]. A part may have been sent.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        let write = |connection| {
            // News of room comes only to who was told that there is none.
            while !bytes.is_empty() {
                let taken = host::tcp_send(connection, bytes)?;
                bytes = bytes.get(taken..).unwrap_or_default();
            }
            Ok(Some(()))
        };
        self.connection.0.ask(write).await
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_bytes(cx, buffer.len()).map(|received| {
            let bytes = received?.unwrap_or_default();
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        })
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let send = |connection| host::tcp_send(connection, buffer).map(Some);
        self.connection.0.poll(cx.waker(), send).map_err(io::Error::from)
    }

    /// The host sends what it has taken without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        host::tcp_close(self.connection.0.id());
        Poll::Ready(Ok(()))
    }
}
