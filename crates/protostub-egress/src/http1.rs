//! HTTP/1.1 on one connection (RFC 9112), for one exchange after the other.
//!
//! ```text
//!   Http1 (idle) ──exchange──► head, HttpBody ──the body's end──► Http1 (idle)
//!        │                         │
//!        └── the server closes ────┴──► gone
//! ```
//!
//! Spawns no task: an exchange polls its connection itself, and so does the body of its response.
//! [`HttpLimits`] bound a server's informational responses, heads and trailers while they are read.

use std::{
    fmt,
    future::Future as _,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming, SizeHint},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use protostub_types::SafeText;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// The smallest buffer that hyper reads into.
const MIN_BUFFER_BYTES: usize = 8 << 10;

/// Limits of everything that a server sends around the body of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the caller of an exchange has to decide on all of it")]
pub struct HttpLimits {
    /// Size of a head, and of trailers, in bytes, as read from the connection. Default: 72 KiB.
    pub head_bytes: usize,
    /// Number of fields of a head, and of trailers. Default: 256.
    pub fields: usize,
    /// Number of informational responses (1xx) before a response. Default: 8.
    pub informational: usize,
    /// Maximum silence within a body. Default: 60 s.
    pub silence: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { head_bytes: 72 << 10, fields: 256, informational: 8, silence: Duration::from_secs(60) }
    }
}

/// The reason that an exchange on a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The connection ended before a byte of the request was sent. The caller may send the request
    /// on another connection.
    #[error("the connection was closed before the request was sent")]
    Unsent(Box<HttpRequest>),
    /// The server exceeded the limit of informational responses.
    #[error("the server sent more informational responses (1xx) than the limit of {0}")]
    Informational(usize),
    /// The head or the trailers of the response exceeded a limit.
    #[error("the head of the response is over the limit of {bytes} bytes or {fields} fields")]
    Head {
        /// Limit of the size.
        bytes: usize,
        /// Limit of the number of fields.
        fields: usize,
    },
    /// The server was silent for too long.
    #[error("the server sent nothing for {0:?}")]
    Silent(Duration),
    /// The connection broke, or the server's answer was not HTTP.
    #[error("{0}")]
    Broken(SafeText),
}

/// A request in the form that a connection sends.
#[derive(Debug)]
pub struct HttpRequest(pub(crate) http::Request<Full<Bytes>>);

impl HttpRequest {
    /// Adds a field.
    pub fn append(&mut self, name: http::HeaderName, value: http::HeaderValue) {
        self.0.headers_mut().append(name, value);
    }
}

type Driver<S> = Connection<TokioIo<Bounded<S>>, Full<Bytes>>;

/// A connection that is ready for the next request.
pub struct Http1<S: AsyncRead + AsyncWrite + Unpin> {
    sender: SendRequest<Full<Bytes>>,
    /// `None` after the connection has ended.
    driver: Option<Box<Driver<S>>>,
    informational: Arc<Informational>,
    limits: HttpLimits,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    /// Begins HTTP on a new connection to a server. Sends no bytes yet.
    ///
    /// # Errors
    /// [`ExchangeError::Broken`] if hyper refuses the connection.
    pub async fn new(stream: S, limits: HttpLimits) -> Result<Self, ExchangeError> {
        let informational = Arc::new(Informational { seen: AtomicUsize::new(0), limit: limits.informational });
        let stream = Bounded { stream, informational: Arc::clone(&informational) };
        let handshake = Builder::new()
            .max_headers(limits.fields)
            .max_header_size(limits.head_bytes)
            // Bodies need no larger buffer than heads.
            .max_buf_size(limits.head_bytes.max(MIN_BUFFER_BYTES))
            .handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(|error| ExchangeError::Broken(SafeText::chain(&error)))?;
        Ok(Self { sender, driver: Some(Box::new(driver)), informational, limits })
    }

    /// Sends a request. Resolves to the head of the response when the head has arrived.
    ///
    /// # Errors
    /// [`ExchangeError::Unsent`] with the request, if the server had already closed the connection.
    /// Otherwise the failure.
    pub async fn exchange(mut self, request: HttpRequest) -> Result<(http::Response<()>, HttpBody<S>), ExchangeError> {
        self.informational.seen.store(0, Ordering::Relaxed);
        let informational = Arc::clone(&self.informational);
        let mut request = request.0;
        hyper::ext::on_informational(&mut request, move |_| {
            informational.seen.fetch_add(1, Ordering::Relaxed);
        });
        let answer = {
            let mut answer = pin!(self.sender.try_send_request(request));
            std::future::poll_fn(|cx| {
                poll_driver(&mut self.driver, cx);
                answer.as_mut().poll(cx)
            })
            .await
        };
        // One read may have brought both a head and too many informational responses.
        self.informational.check().map_err(ExchangeError::Informational)?;
        match answer {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                let body = HttpBody { incoming, http: self, silence: None, waits: false, ended: false };
                Ok((http::Response::from_parts(head, ()), body))
            }
            Err(mut error) => match error.take_message() {
                Some(request) => Err(ExchangeError::Unsent(Box::new(HttpRequest(request)))),
                None => Err(self.failure(&error.into_error())),
            },
        }
    }

    /// Polls an idle connection. Ready if the server closed the connection or sent unsolicited
    /// bytes.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_driver(&mut self.driver, cx);
        if self.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns `true` if the connection can take a request now. Returns `false` also while the last
    /// request is still being sent, since a server may answer before the request ends.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    fn failure(&self, error: &hyper::Error) -> ExchangeError {
        if error.is_parse_too_large() {
            return ExchangeError::Head { bytes: self.limits.head_bytes, fields: self.limits.fields };
        }
        ExchangeError::Broken(SafeText::chain(error))
    }
}

/// Polls a connection. The exchange, or its body, reports the error that ends the connection.
fn poll_driver<S: AsyncRead + AsyncWrite + Unpin>(driver: &mut Option<Box<Driver<S>>>, cx: &mut Context<'_>) {
    if let Some(polled) = driver
        && Pin::new(polled).poll(cx).is_ready()
    {
        *driver = None;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> fmt::Debug for Http1<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("open", &self.driver.is_some()).finish_non_exhaustive()
    }
}

/// The body of a response, with its connection.
pub struct HttpBody<S: AsyncRead + AsyncWrite + Unpin> {
    incoming: Incoming,
    http: Http1<S>,
    silence: Option<Pin<Box<Sleep>>>,
    /// The timer `silence` is running.
    waits: bool,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> HttpBody<S> {
    /// Returns the next piece, which is never empty. `None` after the last one. Trailers are read
    /// and dropped.
    ///
    /// # Errors
    /// The error that ends the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = self.poll_frame(cx) else {
                ready!(self.poll_silence(cx));
                self.close();
                return Poll::Ready(Some(Err(ExchangeError::Silent(self.http.limits.silence))));
            };
            self.waits = false;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    self.close();
                    return Poll::Ready(Some(Err(self.http.failure(&error))));
                }
                None => {
                    self.ended = true;
                    // Polls once more, since only a poll makes the connection ready for the next
                    // request.
                    poll_driver(&mut self.http.driver, cx);
                }
            }
        }
    }

    /// Sends the rest of the request without reading the body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        poll_driver(&mut self.http.driver, cx);
    }

    /// The number of remaining bytes, if the server stated it.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// Returns the connection if the whole body was read and the connection is still open.
    #[must_use]
    pub fn into_idle(self) -> Option<Http1<S>> {
        (self.ended && self.http.driver.is_some()).then_some(self.http)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        poll_driver(&mut self.http.driver, cx);
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.http.limits.silence;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waits {
            self.waits = true;
            silence.as_mut().reset(Instant::now() + limit);
        }
        silence.as_mut().poll(cx)
    }

    fn close(&mut self) {
        self.ended = true;
        self.http.driver = None;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> fmt::Debug for HttpBody<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody").field("ended", &self.ended).field("http", &self.http).finish_non_exhaustive()
    }
}

/// The count of informational responses in an exchange.
#[derive(Debug)]
struct Informational {
    seen: AtomicUsize,
    limit: usize,
}

impl Informational {
    /// # Errors
    /// The limit, if the exchange exceeded it.
    fn check(&self) -> Result<(), usize> {
        if self.seen.load(Ordering::Relaxed) > self.limit { Err(self.limit) } else { Ok(()) }
    }
}

/// A stream whose reads fail after too many informational responses. hyper skips them without
/// limit, and its callback cannot stop the connection.
#[derive(Debug)]
struct Bounded<S> {
    stream: S,
    informational: Arc<Informational>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.informational.check().map_err(|limit| io::Error::other(ExchangeError::Informational(limit)))?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
