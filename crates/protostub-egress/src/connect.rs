//! Connections: dials judged addresses.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::client::TlsStream;

use crate::{
    error::{EgressError, Phase},
    host::Host,
    limit_reached::LimitReached,
    quota::{Permit, Quota},
};

/// Head start of an address before the next one is dialled (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection to a granted host: TCP, or TLS over TCP.
///
/// Dropping a connection closes it. `shutdown` ends TLS properly first (`close_notify`).
#[derive(Debug)]
pub struct Connection {
    pub(crate) stream: Stream,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

/// The transport of the bytes: TCP, TLS over TCP, or TLS over a tunnel in TLS to the proxy.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(Socket),
    Tls(Box<TlsStream<Stream>>),
}

/// A TCP socket that is charged to a quota until it is closed.
#[derive(Debug)]
pub(crate) struct Socket {
    // Closed before the permit is returned, since fields are dropped in declaration order.
    tcp: TcpStream,
    _permit: Permit,
    /// Remaining number of bytes that may be read. `None` if there is no limit.
    left: Option<usize>,
}

impl Connection {
    /// The requested host, in the form that URLs use.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.to_string()
    }

    /// The requested port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `true` if there is TLS with the requested host. TLS with a proxy does not count.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The protocol that the server chose from the offered ones (ALPN).
    #[must_use]
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match &self.stream {
            Stream::Tls(tls) if self.tls => tls.get_ref().1.alpn_protocol(),
            _ => None,
        }
    }

    /// The dialled address: the host's or the proxy's.
    ///
    /// # Errors
    /// If the connection is already broken.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.stream.peer_address()
    }
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == Some(0) {
            return Poll::Ready(Err(io::Error::other("the server's TLS handshake is too long")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.left = self.left.map(|left| left.saturating_sub(read));
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Limits the number of bytes read from now on. The limit is approximate: it does not cut a
    /// read that has begun.
    pub(crate) fn limit_reading(&mut self, bytes: Option<usize>) {
        match self {
            Self::Tcp(socket) => socket.left = bytes,
            Self::Tls(tls) => tls.get_mut().0.limit_reading(bytes),
        }
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.tcp.peer_addr(),
            Self::Tls(tls) => tls.get_ref().0.peer_address(),
        }
    }
}

/// The deadline for reaching a host, shared by all phases.
#[derive(Debug)]
pub(crate) struct Deadline {
    pub(crate) target: String,
    limit: Duration,
    end: Instant,
}

impl Deadline {
    pub(crate) fn new(target: String, limit: Duration) -> Self {
        Self { target, limit, end: Instant::now() + limit }
    }

    /// Charges an attempt.
    pub(crate) fn attempt(&self, quota: &Quota) -> Result<(), EgressError> {
        quota.attempt().map_err(|limit| EgressError::Limit { target: self.target.clone(), limit })
    }

    /// Runs a phase until the deadline.
    pub(crate) async fn within<T>(
        &self,
        phase: Phase,
        work: impl Future<Output = Result<T, EgressError>>,
    ) -> Result<T, EgressError> {
        let late = || EgressError::TimedOut { target: self.target.clone(), phase, limit: self.limit };
        timeout_at(self.end, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Opens a TCP connection to one of the addresses. The caller has charged the attempt for the
    /// first address. This function charges the others.
    pub(crate) async fn dial(&self, quota: &Quota, addresses: Vec<SocketAddr>) -> Result<Stream, EgressError> {
        let mut is_first = true;
        let dial = |address| {
            if !is_first {
                quota.attempt()?;
            }
            is_first = false;
            let permit = quota.socket()?;
            Ok(async move {
                let tcp = TcpStream::connect(address).await?;
                // Messages are small, and their senders wait for each one.
                tcp.set_nodelay(true)?;
                Ok(Stream::Tcp(Socket { tcp, _permit: permit, left: None }))
            })
        };
        let target = self.target.clone();
        race(alternate(addresses), self.end, dial).await.map_err(|failed| match failed {
            Failed::Limit(limit) => EgressError::Limit { target, limit },
            Failed::All(attempts) => EgressError::Connect { target, attempts },
        })
    }
}

/// Alternates between the address families, starting with the family of the first address. Keeps
/// the order within each family (RFC 8305 section 4).
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    std::iter::from_fn(|| Some([one.next(), other.next()])).take_while(|pair| pair != &[None, None]).flatten().flatten().collect()
}

/// The reason that no address answered.
#[derive(Debug)]
enum Failed {
    /// A limit refused the first address.
    Limit(LimitReached),
    /// All dialled addresses failed. The last entry is the limit that refused the next address, if
    /// there was one.
    All(Vec<(SocketAddr, Arc<io::Error>)>),
}

/// Dials addresses in their order. The first one that answers wins, and the others are dropped. The
/// next address is dialled when one fails, or has not answered within its head start. At `end`, all
/// attempts without an answer fail. After a limit refuses an address, no further address is
/// dialled.
async fn race<S, F>(
    addresses: Vec<SocketAddr>,
    end: Instant,
    mut dial: impl FnMut(SocketAddr) -> Result<F, LimitReached>,
) -> Result<S, Failed>
where
    F: Future<Output = io::Result<S>>,
{
    let attempt = async |address, dialling: F| {
        let outcome = timeout_at(end, dialling).await;
        (address, outcome.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))))
    };
    let mut waiting = VecDeque::from(addresses);
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut refused = None;
    loop {
        if let Some(address) = waiting.pop_front() {
            match dial(address) {
                Ok(dialling) => running.push(attempt(address, dialling)),
                Err(limit) => {
                    waiting.clear();
                    refused = Some((address, limit));
                }
            }
        }
        let ended = match waiting.len() {
            0 => running.next().await,
            _ => match timeout(HEAD_START, running.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match (ended, refused) {
            (Some((_, Ok(stream))), _) => return Ok(stream),
            (Some((address, Err(error))), _) => failed.push((address, Arc::new(error))),
            (None, Some((_, limit))) if failed.is_empty() => return Err(Failed::Limit(limit)),
            (None, refused) => {
                failed.extend(refused.map(|(address, limit)| (address, Arc::new(io::Error::other(limit)))));
                return Err(Failed::All(failed));
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => socket.poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut socket.tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut socket.tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut socket.tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut socket.tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn address_families_alternate() {
        let check = |given: &[&str], expected: &[&str]| assert_eq!(alternate(addresses(given)), addresses(expected));
        check(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"], &["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        check(&["1.1.1.1:1", "[::1]:1", "[::2]:1"], &["1.1.1.1:1", "[::1]:1", "[::2]:1"]);
        check(&["1.1.1.1:1", "1.1.1.2:1"], &["1.1.1.1:1", "1.1.1.2:1"]);
        check(&[], &[]);
    }

    /// Simulates a server by the last part of the address: 1 answers at once, 2 refuses at once, 3
    /// never answers.
    async fn dial(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.to_string().split(['.', ':']).nth(3) {
            Some("1") => Ok(address),
            Some("2") => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => std::future::pending().await,
        }
    }

    async fn raced(texts: &[&str]) -> (Result<SocketAddr, Vec<String>>, Duration) {
        let start = Instant::now();
        let outcome = race(addresses(texts), start + Duration::from_secs(15), |address| Ok(dial(address))).await;
        let failed = |failed| match failed {
            Failed::All(attempts) => attempts,
            Failed::Limit(limit) => panic!("unexpected limit: {limit}"),
        };
        (
            outcome
                .map_err(failed)
                .map_err(|failed| failed.iter().map(|(address, error)| format!("{address} {:?}", error.kind())).collect()),
            start.elapsed(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn first_answer_wins() {
        let won = |text: &str| Ok(text.parse().unwrap());
        assert_eq!(raced(&["0.0.0.1:1", "1.0.0.1:1"]).await, (won("0.0.0.1:1"), Duration::ZERO));
        assert_eq!(raced(&["0.0.0.2:1", "1.0.0.1:1"]).await, (won("1.0.0.1:1"), Duration::ZERO));
        // A silent address delays the next one only for its head start.
        let (outcome, took) = raced(&["0.0.0.3:1", "1.0.0.3:1", "2.0.0.1:1"]).await;
        assert_eq!(outcome, won("2.0.0.1:1"));
        assert!((HEAD_START * 2..HEAD_START * 3).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_fails_every_attempt() {
        let (outcome, took) = raced(&["0.0.0.2:1", "0.0.0.3:1", "1.0.0.3:1"]).await;
        assert_eq!(outcome.unwrap_err(), ["0.0.0.2:1 ConnectionRefused", "0.0.0.3:1 TimedOut", "1.0.0.3:1 TimedOut"]);
        assert!((15..16).contains(&took.as_secs()), "{took:?}");
        assert_eq!(raced(&[]).await, (Err(vec![]), Duration::ZERO));
    }
}
