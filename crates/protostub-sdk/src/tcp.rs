//! TCP connections, plain or over TLS. The host does DNS and TLS. A stub may connect to its own
//! domain and to the hosts that the operator granted.
//!
//! The functions that read can be raced: bytes that no read returned stay in the [`TcpStream`].
//! This stub waits for a line of its server and for a message of the bus at the same time:
//!
//! ```
//! use protostub_sdk::{Error, Message, MessageType, Result, Stub, select, tcp};
//! use serde::Deserialize;
//! use serde_json::json;
//!
//! /// The longest line of the server, in bytes, with its end.
//! const MAX_LINE_BYTES: usize = 8 * 1024;
//!
//! #[derive(Deserialize)]
//! struct Config {
//!     host: String,
//!     listener: String,
//! }
//!
//! async fn run(stub: Stub, config: Config) -> Result<()> {
//!     let stream = tcp::connect(&config.host, 6697).await?;
//!     stub.live();
//!     loop {
//!         select! {
//!             message = stub.next_message() => {
//!                 let text: String = message?.parse()?;
//!                 stream.write_all(format!("SAY {text}\r\n").as_bytes()).await?;
//!             }
//!             line = stream.read_line(MAX_LINE_BYTES) => {
//!                 let closed = || Error::Io("the server closed the connection".to_owned());
//!                 let line = line?.ok_or_else(closed)?;
//!                 let update = Message::new(MessageType::Update, &config.listener);
//!                 stub.post(update.with_body(json!(line)))?;
//!             }
//!         }
//!     }
//! }
//!
//! # use protostub_sdk::testing::Host;
//! # let alice = "hyperty://home.example/alice";
//! let host = Host::new();
//! host.start(run, json!({ "host": "chat.sp1.example", "listener": alice })).unwrap();
//! host.connect();
//! let server = host.tcp();
//! server.accept();
//! // The message interrupts the wait for the rest of the line.
//! server.send(b"hel");
//! let update = Message::new(MessageType::Update, "hyperty://sp1.example/bob");
//! host.deliver(update.with_from(alice).with_body(json!("hi")));
//! assert_eq!(server.received(), b"SAY hi\r\n");
//! server.send(b"lo\r\n");
//! assert_eq!(host.posted()[0].parse::<String>().unwrap(), "hello");
//! ```

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    future::{FusedFuture, FutureExt as _},
    io::{AsyncRead, AsyncWrite},
};

use crate::{
    Error, Result,
    guest::Handle,
    host::{self, TcpState},
};

/// Number of bytes to fetch from the host at a time.
const FETCH_BYTES: usize = 64 * 1024;

/// Opens a connection with TLS from the start.
///
/// # Errors
/// As [`connect_plain`].
pub async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    TcpStream::open(host, port, true).await
}

/// Opens a connection without TLS, which needs a grant of the operator. [`TcpStream::start_tls`]
/// may follow. The timeout is 15 s.
///
/// # Errors
/// [`Error::Denied`] (no grant for this host and port, or none for a plain connection);
/// [`Error::Invalid`] (`host` is no host name); [`Error::Limit`] (more than 16 connections);
/// [`Error::Io`] (the network, TLS).
pub async fn connect_plain(host: &str, port: u16) -> Result<TcpStream> {
    TcpStream::open(host, port, false).await
}

/// An open connection. Dropped, it is closed once all written bytes are sent.
///
/// Its functions take `&self`, so one task can write while another reads. While the stub does not
/// receive, the host stops reading from the server.
///
/// All reads, and [`Self::write`], can be raced, by [`select!`](crate::select!) for instance: a
/// future that is dropped before it is ready has taken and written nothing. Only
/// [`Self::write_all`] cannot be raced.
///
/// Reads of lines and frames keep the bytes in the stub's memory until the end has arrived: at most
/// their `max_bytes` and 64 KiB.
///
/// The stream is an [`AsyncRead`] and [`AsyncWrite`] too, for libraries that speak a protocol over
/// any stream.
#[derive(Debug)]
pub struct TcpStream {
    connection: Connection,
    fetched: RefCell<Fetched>,
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

    /// Fetches the next bytes from the host. Returns `None` once the server has ended its half.
    fn poll_fetch(&self, cx: &Context<'_>, most: usize) -> Poll<Result<Option<Vec<u8>>>> {
        let most = u32::try_from(most.min(FETCH_BYTES)).unwrap_or(u32::MAX);
        self.0.poll(cx.waker(), |connection| match host::tcp_receive(connection, most)? {
            Some(bytes) if bytes.is_empty() => Ok(None),
            some_or_end => Ok(Some(some_or_end)),
        })
    }
}

/// Bytes that the host has handed over and no read has returned.
#[derive(Debug, Default)]
struct Fetched {
    bytes: Vec<u8>,
    /// Number of them that a read has returned.
    taken: usize,
}

impl Fetched {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    fn push(&mut self, bytes: Vec<u8>) {
        if self.rest().is_empty() {
            *self = Self { bytes, taken: 0 };
        } else {
            self.bytes.drain(..self.taken);
            self.bytes.extend(bytes);
            self.taken = 0;
        }
    }

    /// Takes the first bytes, at most `most`.
    #[inline]
    fn take(&mut self, most: usize) -> Vec<u8> {
        let rest = self.rest();
        let first = rest.get(..most).unwrap_or(rest).to_vec();
        self.taken += first.len();
        if self.rest().is_empty() {
            *self = Self::default();
        }
        first
    }
}

impl TcpStream {
    async fn open(host: &str, port: u16, tls: bool) -> Result<Self> {
        let connection = Connection(Handle::new(host::tcp_open(host, port, tls)?));
        connection.opened().await?;
        Ok(Self { connection, fetched: RefCell::default() })
    }

    /// Begins TLS (`STARTTLS`), once all written bytes are sent. The server's certificate must be
    /// valid for `server_name`. Bytes of the server that arrived before, and were not read, end the
    /// connection: they are not protected.
    ///
    /// # Errors
    /// [`Error::Denied`] (no grant for the name); [`Error::Invalid`]; [`Error::Closed`];
    /// [`Error::Io`] (the network, TLS, bytes that arrived before).
    pub async fn start_tls(self, server_name: &str) -> Result<Self> {
        let unprotected = self.fetched.borrow().rest().len();
        if unprotected > 0 {
            return Err(Error::Io(format!("the server sent {unprotected} unprotected bytes before TLS began")));
        }
        self.connection.0.ask(|connection| host::tcp_start_tls(connection, server_name).map(Some)).await?;
        self.connection.opened().await?;
        Ok(self)
    }

    /// Reads the next bytes, at least one. Returns `None` once the server has ended its half and
    /// all bytes were read.
    ///
    /// The future can be raced: dropped, it loses nothing.
    ///
    /// # Errors
    /// [`Error::Io`], once the connection broke; [`Error::Closed`].
    #[inline] // Compiled with the stub's own code, for size.
    pub fn read(&self) -> impl FusedFuture<Output = Result<Option<Vec<u8>>>> + Unpin {
        poll_fn(|cx| {
            let fetched = &mut *self.fetched.borrow_mut();
            if fetched.rest().is_empty() {
                return self.connection.poll_fetch(cx, FETCH_BYTES);
            }
            Poll::Ready(Ok(Some(fetched.take(usize::MAX))))
        })
        .fuse()
    }

    /// Reads a line, and returns it without its end: LF, or CR and LF. Returns `None` once the
    /// server has ended its half and all bytes were read.
    ///
    /// A line has at most `max_bytes`, with its end. The future can be raced: dropped, it loses
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Limit`], if the line is longer; its bytes stay, for [`Self::read`].
    /// [`Error::Invalid`], if the line is not UTF-8; the next line can be read. [`Error::Io`], if
    /// the server ended its half inside a line, or once the connection broke; [`Error::Closed`].
    pub fn read_line(&self, max_bytes: usize) -> impl FusedFuture<Output = Result<Option<String>>> + Unpin {
        let read = move |cx: &mut Context<'_>| self.poll_frame(cx, max_bytes, |bytes| Ok(through(b'\n', bytes)));
        poll_fn(move |cx| read(cx).map(|line| line?.map(text_of_line).transpose())).fuse()
    }

    /// Reads up to the next byte with the value `end`, and returns the bytes with that one at their
    /// end. Returns `None` once the server has ended its half and all bytes were read.
    ///
    /// The result has at most `max_bytes`, with that byte. The future can be raced: dropped, it
    /// loses nothing.
    ///
    /// # Errors
    /// [`Error::Limit`], if there is no such byte in `max_bytes`; the bytes stay, for
    /// [`Self::read`]. [`Error::Io`], if the server ended its half before, or once the connection
    /// broke; [`Error::Closed`].
    pub fn read_until(&self, end: u8, max_bytes: usize) -> impl FusedFuture<Output = Result<Option<Vec<u8>>>> + Unpin {
        poll_fn(move |cx| self.poll_frame(cx, max_bytes, |bytes| Ok(through(end, bytes)))).fuse()
    }

    /// Reads exactly this many bytes. Returns `None` once the server has ended its half and all
    /// bytes were read.
    ///
    /// The future can be raced: dropped, it loses nothing.
    ///
    /// # Errors
    /// [`Error::Io`], if the server ended its half before the last byte, or once the connection
    /// broke; [`Error::Closed`].
    pub fn read_exact(&self, bytes: usize) -> impl FusedFuture<Output = Result<Option<Vec<u8>>>> + Unpin {
        poll_fn(move |cx| self.poll_frame(cx, bytes, |_| Ok(Some(bytes)))).fuse()
    }

    /// Reads a frame whose length the function `length` returns. Returns `None` once the server has
    /// ended its half and all bytes were read.
    ///
    /// `length` gets the bytes that arrived since the last frame, at least one. It returns the
    /// frame's number of bytes, which may be more than have arrived yet, or `None` if it needs more
    /// bytes to decide. The SDK calls `length` again when more bytes have arrived.
    ///
    /// A frame has at most `max_bytes`. The future can be raced: dropped, it loses nothing.
    ///
    /// ```
    /// # use protostub_sdk::{Result, tcp::TcpStream};
    /// /// Reads a frame that begins with the length of the rest, in two bytes.
    /// async fn read_prefixed(stream: &TcpStream) -> Result<Option<Vec<u8>>> {
    ///     let length = |bytes: &[u8]| {
    ///         Ok(bytes.first_chunk().map(|prefix| 2 + usize::from(u16::from_be_bytes(*prefix))))
    ///     };
    ///     let frame = stream.read_frame(4096, length).await?;
    ///     Ok(frame.map(|frame| frame[2..].to_vec()))
    /// }
    /// ```
    ///
    /// # Errors
    /// Any error of `length`. [`Error::Limit`], if the frame is longer than `max_bytes`, or
    /// `length` does not know the length after as many bytes; the bytes stay, for [`Self::read`].
    /// [`Error::Invalid`], if `length` returns 0. [`Error::Io`], if the server ended its half
    /// inside a frame, or once the connection broke; [`Error::Closed`].
    pub fn read_frame<F>(&self, max_bytes: usize, mut length: F) -> impl FusedFuture<Output = Result<Option<Vec<u8>>>> + Unpin
    where
        F: FnMut(&[u8]) -> Result<Option<usize>> + Unpin,
    {
        let mut checked = move |bytes: &[u8]| match bytes {
            [] => Ok(None),
            _ => match length(bytes)? {
                Some(0) => Err(Error::Invalid("the frame has 0 bytes; `length` must return at least 1".to_owned())),
                known => Ok(known),
            },
        };
        poll_fn(move |cx| self.poll_frame(cx, max_bytes, &mut checked)).fuse()
    }

    fn poll_frame(
        &self,
        cx: &Context<'_>,
        max_bytes: usize,
        mut length: impl FnMut(&[u8]) -> Result<Option<usize>>,
    ) -> Poll<Result<Option<Vec<u8>>>> {
        loop {
            // An author's function runs here, so no borrow is held.
            let fetched = self.fetched.take();
            let (known, came) = (length(fetched.rest()), fetched.rest().len());
            self.fetched.replace(fetched);
            match known? {
                Some(frame) if frame > max_bytes => {
                    return Poll::Ready(Err(Error::Limit(format!(
                        "the server sends {frame} bytes at once; at most {max_bytes} are read"
                    ))));
                }
                Some(frame) if frame <= came => return Poll::Ready(Ok(Some(self.fetched.borrow_mut().take(frame)))),
                None if came >= max_bytes => {
                    return Poll::Ready(Err(Error::Limit(format!("the server sends no end within {max_bytes} bytes"))));
                }
                _ => {}
            }
            match ready!(self.connection.poll_fetch(cx, FETCH_BYTES))? {
                Some(bytes) => self.fetched.borrow_mut().push(bytes),
                None if came == 0 => return Poll::Ready(Ok(None)),
                None => {
                    let how = format!("the server closed the connection after {came} bytes of an unfinished line or frame");
                    return Poll::Ready(Err(Error::Io(how)));
                }
            }
        }
    }

    /// Writes the first of these bytes, at least one, as soon as there is room. Returns the number
    /// of bytes written.
    ///
    /// The future can be raced: dropped, it has written nothing.
    ///
    /// # Errors
    /// [`Error::Io`], once the connection broke; [`Error::Closed`].
    pub fn write(&self, bytes: &[u8]) -> impl FusedFuture<Output = Result<usize>> + Unpin {
        poll_fn(move |cx| self.poll_send(cx, bytes)).fuse()
    }

    fn poll_send(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.connection.0.poll(cx.waker(), |connection| host::tcp_send(connection, bytes).map(Some))
    }

    /// Writes all these bytes. Returns once the host has taken them. At most 256 KiB wait to be
    /// sent.
    ///
    /// Do not race this future: dropped before it is ready, it may have written a part.
    ///
    /// # Errors
    /// [`Error::Io`], once the connection broke; [`Error::Closed`]. A part may have been sent.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        let write = |connection| {
            // The host announces room only to a stub that it refused for lack of room.
            while !bytes.is_empty() {
                let taken = host::tcp_send(connection, bytes)?;
                bytes = bytes.get(taken..).unwrap_or_default();
            }
            Ok(Some(()))
        };
        self.connection.0.ask(write).await
    }
}

/// Returns the number of bytes up to and with the first one of this value.
fn through(end: u8, bytes: &[u8]) -> Option<usize> {
    memchr::memchr(end, bytes).map(|place| place + 1)
}

/// Returns a line without its end.
fn text_of_line(mut line: Vec<u8>) -> Result<String> {
    line.pop();
    if line.ends_with(b"\r") {
        line.pop();
    }
    String::from_utf8(line)
        .map_err(|error| Error::Invalid(format!("the server sent a line that is not UTF-8: {}", error.utf8_error())))
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let fetched = &mut *self.fetched.borrow_mut();
        if fetched.rest().is_empty() {
            let came = ready!(self.connection.poll_fetch(cx, buffer.len()))?;
            fetched.push(came.unwrap_or_default());
        }
        let bytes = fetched.take(buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buffer).map_err(io::Error::from)
    }

    /// Does nothing: the host sends the bytes that it has taken without a flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        host::tcp_close(self.connection.0.id());
        Poll::Ready(Ok(()))
    }
}
