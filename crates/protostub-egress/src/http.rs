//! HTTP within grants.

use std::{
    error::Error,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use protostub_types::SafeText;
use reqwest::ResponseBuilderExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use url::{Origin, Position, Url};

use crate::{
    connect::{Connection, Deadline},
    egress::Egress,
    error::{EgressError, Phase},
    grants::Grants,
    host::Host,
    http1::{ExchangeError, Http1, HttpBody, HttpLimits, HttpRequest},
    protection::Protection,
    quota::Quota,
};

/// Maximum number of idle connections of a client.
const MAX_IDLE_CONNECTIONS: usize = 2;
/// Time for which an idle connection waits for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of this client to HTTP servers.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("protostub/", env!("CARGO_PKG_VERSION")));

/// Headers that only the host sets. They belong to the connection, to its framing or to the proxy
/// (RFC 9110 section 7.6.1).
static HOST_HEADERS: [HeaderName; 13] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("x-real-ip"),
];

/// Name prefixes of more headers that only the host sets: headers for the proxy, and headers by
/// which a proxy states the origin of a request.
const HOST_PREFIXES: [&str; 2] = ["proxy-", "x-forwarded-"];

/// A URL that the grants allow.
#[derive(Debug, Clone)]
pub struct HttpTarget {
    url: Url,
    host: Host,
    port: u16,
    protection: Protection,
}

impl HttpTarget {
    /// Checks a URL with scheme `https`, or `http` if the grants allow connections without TLS.
    /// [`Egress::connect_http`] judges the addresses of the name.
    ///
    /// # Errors
    /// * [`Refused`](EgressError::Refused) by the grants, for the host and port.
    /// * [`Invalid`](EgressError::Invalid) if the URL has another scheme, or a user or password.
    ///   These would end up in logs: send an `authorization` header instead.
    pub fn new(grants: &Grants, url: &Url) -> Result<Self, EgressError> {
        let invalid = |problem: &str| EgressError::invalid(shown(url), problem);
        let protection = match url.scheme() {
            "https" => Protection::Tls,
            "http" => Protection::Plain,
            _ => return Err(invalid("the scheme is neither https nor http")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a user or password in a URL is not sent; use a header"));
        }
        let host = url.host_str().ok_or_else(|| invalid("the URL has no host"))?;
        let host = Host::parse(host).map_err(|problem| invalid(&problem))?;
        let port = url.port_or_known_default().ok_or_else(|| invalid("the URL has no port"))?;
        grants.check_host(&host, port, protection)?;
        Ok(Self { url: url.clone(), host, port, protection })
    }

    /// Returns the scheme, host and port. Exchanges with the same origin share connections.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.url.origin()
    }

    /// Adds the URL to the error of a failed connection. Refusals and errors of TLS and name
    /// resolution stay as they are.
    #[must_use]
    pub fn failed(&self, error: EgressError) -> EgressError {
        let timed_out = matches!(error, EgressError::TimedOut { .. });
        match error {
            EgressError::Connect { .. } | EgressError::TimedOut { .. } | EgressError::Proxy { .. } => {
                EgressError::Http { url: shown(&self.url).into(), problem: SafeText::display(error), timed_out }
            }
            other => other,
        }
    }

    /// Adds the URL to the error of an exchange on an open connection.
    #[must_use]
    pub fn broken(&self, error: &ExchangeError) -> EgressError {
        let timed_out = matches!(error, ExchangeError::Silent(_));
        EgressError::Http { url: shown(&self.url).into(), problem: SafeText::display(error), timed_out }
    }
}

impl Egress {
    /// Prepares a request. Adds `host`, the length of the body and the proxy's own fields. Adds
    /// `accept` and `user-agent` if they are missing.
    ///
    /// # Errors
    /// [`EgressError::Invalid`] if the URL has a character that HTTP cannot send.
    pub fn http_request(
        &self,
        target: &HttpTarget,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpRequest, EgressError> {
        let url = &target.url;
        let proxy = self.0.proxy_for(&target.host).filter(|_| target.protection == Protection::Plain);
        // RFC 9112 section 3.2: the request to a proxy has the whole URL, the request to the server
        // has the path only.
        let asked = match proxy {
            Some(_) => &url[..Position::AfterQuery],
            None => &url[Position::BeforePath..Position::AfterQuery],
        };
        let unsendable = || EgressError::invalid(shown(url), "HTTP cannot send this URL");
        let uri: Uri = asked.parse().map_err(|_| unsendable())?;
        let authority = HeaderValue::try_from(&url[Position::BeforeHost..Position::AfterPort]).map_err(|_| unsendable())?;
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.clone()) {
            headers.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        headers.insert(header::HOST, authority);
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(HttpRequest(request))
    }

    /// Opens a connection for exchanges with a target's origin: to its server, through the proxy's
    /// tunnel, or, without TLS, to the proxy itself.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_http(&self, grants: &Grants, quota: &Quota, target: &HttpTarget) -> Result<Connection, EgressError> {
        let HttpTarget { host, port, protection, .. } = target;
        match (self.0.proxy_for(host), protection) {
            (Some(proxy), Protection::Plain) => {
                grants.check_host(host, *port, *protection)?;
                let deadline = Deadline::new(host.with_port(*port), self.0.connect_timeout);
                deadline.attempt(quota)?;
                let stream = deadline.within(Phase::Tunnelling, self.0.reach_proxy(proxy, quota, &deadline)).await?;
                Ok(Connection { stream, host: host.clone(), port: *port, tls: false })
            }
            (_, Protection::Plain) => self.connect(grants, quota, &host.to_string(), *port, Protection::Plain, &[]).await,
            (_, Protection::Tls) => self.connect(grants, quota, &host.to_string(), *port, Protection::Tls, &[b"http/1.1"]).await,
        }
    }

    /// Maximum silence of an HTTP server.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        self.0.read_timeout
    }

    /// Creates a client with these grants. The quota charges its connections.
    #[must_use]
    pub fn http(&self, grants: &Grants, quota: &Quota) -> HttpClient {
        HttpClient { egress: self.clone(), grants: Arc::new(grants.clone()), quota: quota.clone(), idle: Arc::default() }
    }
}

/// An HTTP/1.1 client that connects only where its [`Grants`] allow. Clones share their
/// connections.
///
/// The client follows redirects only in [`get`](Self::get), and has no cookies and no proxy of the
/// environment. It dials only judged addresses. [`HttpLimits`] bound heads and informational
/// responses. reqwest's own client has no limit on informational responses, and cannot use a
/// connection that has one.
#[derive(Debug, Clone)]
pub struct HttpClient {
    egress: Egress,
    grants: Arc<Grants>,
    quota: Quota,
    idle: Arc<Idle>,
}

impl HttpClient {
    /// Sends a request and waits for the head of the response. The body has no limit, so the caller
    /// must read it piece by piece. An error of the body becomes an [`EgressError`] by `from`.
    ///
    /// # Errors
    /// As for [`HttpTarget::new`] and [`Egress::connect_http`]. [`Http`](EgressError::Http) if the
    /// exchange fails or takes longer than [`EgressConfig::read_timeout`](crate::EgressConfig).
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<reqwest::Response, EgressError> {
        let target = HttpTarget::new(&self.grants, url)?;
        let request = self.egress.http_request(&target, method, headers, body.into())?;
        let limit = self.egress.read_timeout();
        let late = || Err(target.broken(&ExchangeError::Silent(limit)));
        let (head, body) = timeout(limit, self.exchange(&target, request)).await.unwrap_or_else(|_| late())?;
        let size = body.size_hint();
        let mut body = PooledBody { body: Some(body), size, target, idle: Arc::clone(&self.idle) };
        if body.size.exact() == Some(0) {
            // Returns the connection now, since a caller that follows a redirect does not read the
            // body.
            let _end = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        }
        let (parts, ()) = head.into_parts();
        let mut response = http::Response::builder().status(parts.status).version(parts.version).url(url.clone());
        if let Some(fields) = response.headers_mut() {
            *fields = parts.headers;
        }
        let response = response.body(reqwest::Body::wrap(body)).map_err(|error| EgressError::Config(error.to_string()))?;
        Ok(response.into())
    }

    async fn exchange(
        &self,
        target: &HttpTarget,
        mut request: HttpRequest,
    ) -> Result<(http::Response<()>, HttpBody<Connection>), EgressError> {
        while let Some(http) = self.idle.take(&target.origin()) {
            match http.exchange(request).await {
                // The server closed the idle connection.
                Err(ExchangeError::Unsent(unsent)) => request = *unsent,
                answer => return answer.map_err(|error| target.broken(&error)),
            }
        }
        let connection = self.egress.connect_http(&self.grants, &self.quota, target).await;
        let connection = connection.map_err(|error| target.failed(error))?;
        let limits = HttpLimits { silence: self.egress.read_timeout(), ..HttpLimits::default() };
        let answer = async { Http1::new(connection, limits).await?.exchange(request).await };
        answer.await.map_err(|error| target.broken(&error))
    }

    /// Gets a URL, following at most `max_redirects` redirects. Every hop is checked like the first
    /// URL, and a redirect from `https` to `http` is an error. The response's `url()` is the final
    /// URL. The body has no limit, so the caller must read it piece by piece.
    ///
    /// # Errors
    /// As for [`send`](Self::send). [`Redirect`](EgressError::Redirect) if there are too many
    /// redirects or one is invalid. Otherwise the failure.
    pub async fn get(&self, url: &Url, max_redirects: usize) -> Result<reqwest::Response, EgressError> {
        self.get_with(url, HeaderMap::new(), max_redirects).await
    }

    /// Gets a URL like [`get`](Self::get), and sends these headers with every request: conditions
    /// and ranges. The headers must not have secrets, since the targets of redirects receive them
    /// too.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn get_with(&self, url: &Url, headers: HeaderMap, max_redirects: usize) -> Result<reqwest::Response, EgressError> {
        let mut url = url.clone();
        let mut followed = 0;
        loop {
            let response = self.send(Method::GET, &url, headers.clone(), Bytes::new()).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let fail = |problem: String| EgressError::Redirect { from: shown(&url).into(), problem: problem.into() };
            let Some(location) = response.headers().get(header::LOCATION) else { return Ok(response) };
            if followed == max_redirects {
                return Err(fail(format!("{max_redirects} redirects were followed already")));
            }
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| fail("the `location` header is not a URL".into()))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(fail(format!("the redirect leads from https to `{}`", shown(&next))));
            }
            tracing::debug!(from = %shown(&url), to = %shown(&next), "following a redirect");
            followed += 1;
            url = next;
        }
    }
}

/// The connections of a client that wait for the next request.
#[derive(Debug, Default)]
struct Idle(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    connections: Vec<(Origin, Instant, Http1<Connection>)>,
    /// A task closes expired connections.
    watched: bool,
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most recently used connection to an origin, if the connection is still open.
    fn take(&self, origin: &Origin) -> Option<Http1<Connection>> {
        let mut waiting = self.lock();
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        waiting.connections.retain_mut(|(_, until, http)| *until > Instant::now() && http.poll_closed(cx).is_pending());
        let usable = |(other, _, http): &(Origin, Instant, Http1<Connection>)| other == origin && http.is_ready();
        let index = waiting.connections.iter().rposition(usable)?;
        Some(waiting.connections.remove(index).2)
    }

    fn insert(self: &Arc<Self>, origin: Origin, http: Http1<Connection>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut waiting = self.lock();
        if waiting.connections.len() == MAX_IDLE_CONNECTIONS {
            waiting.connections.remove(0);
        }
        waiting.connections.push((origin, Instant::now() + IDLE_TIMEOUT, http));
        if !std::mem::replace(&mut waiting.watched, true) {
            runtime.spawn(close_in_time(Arc::downgrade(self)));
        }
    }

    /// Closes expired connections. Returns the expiry time of the next one.
    fn expire(&self) -> Option<Instant> {
        let mut waiting = self.lock();
        waiting.connections.retain(|(_, until, _)| *until > Instant::now());
        let next = waiting.connections.iter().map(|(_, until, _)| *until).min();
        waiting.watched = next.is_some();
        next
    }
}

async fn close_in_time(idle: Weak<Idle>) {
    while let Some(next) = idle.upgrade().and_then(|idle| idle.expire()) {
        sleep_until(next).await;
    }
}

/// The body of a response. At its end, its connection becomes idle.
struct PooledBody {
    /// `None` after the end.
    body: Option<HttpBody<Connection>>,
    /// The size that the head states.
    size: SizeHint,
    target: HttpTarget,
    idle: Arc<Idle>,
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = EgressError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(data) = body.poll_data(cx) else { return Poll::Pending };
        match data {
            Some(Ok(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(error)) => {
                self.body = None;
                Poll::Ready(Some(Err(self.target.broken(&error))))
            }
            None => {
                if let Some(http) = self.body.take().and_then(HttpBody::into_idle) {
                    self.idle.insert(self.target.origin(), http);
                }
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

impl fmt::Debug for PooledBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBody").field("body", &self.body).finish_non_exhaustive()
    }
}

/// Converts the headers of a caller's request.
///
/// # Errors
/// [`EgressError::Invalid`] if a name or value is malformed, or if only the host may set the
/// header: `host`, `content-length`, `connection`, `via`, `proxy-…`, `x-forwarded-…` and the like.
pub fn request_headers(headers: &[(String, String)]) -> Result<HeaderMap, EgressError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let invalid = |problem: &str| EgressError::invalid(name.as_str(), problem);
        let name = HeaderName::try_from(name).map_err(|_| invalid("a header cannot have this name"))?;
        if HOST_HEADERS.contains(&name) || HOST_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            return Err(invalid("this header is set by the host alone"));
        }
        let value = HeaderValue::try_from(value).map_err(|_| invalid("the value of this header has invalid characters"))?;
        map.try_append(name, value).map_err(|_| invalid("the request has too many headers"))?;
    }
    Ok(map)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Formats a URL for errors and logs, without user, password, query and fragment, which may be
/// secrets.
fn shown(url: &Url) -> String {
    format!("{}{}", &url[..Position::BeforeUsername], &url[Position::BeforeHost..Position::AfterPath])
}

/// Returns the error of a response's body: the body's own [`EgressError`], or else the error of the
/// HTTP library.
#[must_use]
pub fn response_error(error: reqwest::Error) -> EgressError {
    // reqwest boxes the error of a body.
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<EgressError>() {
            return ours.clone();
        }
        next = cause.source();
    }
    let url = error.url().map_or_else(SafeText::default, |url| shown(url).into());
    let timed_out = error.is_timeout();
    EgressError::Http { url, problem: SafeText::chain(&error.without_url()), timed_out }
}
