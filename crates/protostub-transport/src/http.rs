//! One HTTP exchange (RFC 9110): `wit/0.1/http.wit`.
//!
//! ```text
//!   Sending ──► Answered: head, then the body piece by piece ──► ended (closes the handle)
//!       └──────────► Failed(how) ◄──────┘
//! ```

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Method;
use protostub_egress::{EgressError, ExchangeError, Http1, HttpBody, HttpLimits, HttpRequest, HttpTarget};
use protostub_types::SafeText;
use url::{Origin, Position, Url};

use crate::{
    Authorization, TransportError, TransportLimits,
    error::too_long,
    headers,
    readiness::{Interest, Readiness},
    route::Route,
    traffic::MeteredStream,
};

/// Size of a head without the names and values of its fields, in bytes: the status line, and for
/// each field a colon, a space and the end of a line.
const HEAD_FRAMING_BYTES: usize = 8 << 10;

/// An HTTP request of a stub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record, which never changes within a track")]
pub struct Request {
    /// The method, in upper case.
    pub method: String,
    /// The absolute URL.
    pub url: String,
    /// The fields of the head, in order.
    pub headers: Vec<(String, String)>,
    /// The body. An empty body means no body.
    pub body: Vec<u8>,
}

/// The head of an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The fields, in order, with names in lower case.
    pub headers: Vec<(String, String)>,
}

/// An exchange of the stub.
pub(crate) struct Exchange {
    pub(crate) readiness: Readiness,
    phase: Phase,
    /// The method and the URL without its query, for error texts.
    target: String,
    /// The part of the last piece that the stub has yet to fetch.
    held: Bytes,
    /// The stub has received the final error of the exchange, so no further change is possible.
    end_told: bool,
    receive_bytes: usize,
    origin: Origin,
    /// The connection, after the whole body was read.
    idle: Option<Http1<MeteredStream>>,
}

type ResponseBody = Box<HttpBody<MeteredStream>>;

enum Phase {
    Sending(BoxFuture<'static, Result<(Head, ResponseBody), String>>),
    /// The body is `None` after all of it was read.
    Answered(Head, Option<ResponseBody>),
    /// The head is `None` if the exchange failed before the head, and `Some` if it failed within
    /// the body.
    Failed(Option<Head>, String),
}

impl Exchange {
    /// Takes the connection after the end of this exchange, for the next exchange with the same
    /// origin.
    pub(crate) fn take_idle(&mut self) -> Option<(Origin, Http1<MeteredStream>)> {
        Some((self.origin.clone(), self.idle.take()?))
    }

    /// Returns the head, even if the body has failed meanwhile.
    pub(crate) fn poll(&mut self) -> Result<Option<Head>, TransportError> {
        self.readiness.clear(Interest::State);
        match &self.phase {
            Phase::Sending(_) => Ok(None),
            Phase::Answered(head, _) | Phase::Failed(Some(head), _) => Ok(Some(head.clone())),
            Phase::Failed(None, how) => {
                self.end_told = true;
                Err(TransportError::Io(how.clone()))
            }
        }
    }

    /// Returns the rest of the current piece of the body, or `max_bytes` of it.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>, max_bytes: usize) -> Result<Option<Vec<u8>>, TransportError> {
        self.readiness.clear(Interest::Read);
        self.read_ahead(cx);
        if !self.held.is_empty() {
            let size = self.held.len().min(max_bytes).min(self.receive_bytes);
            return Ok(Some(self.held.split_to(size).into()));
        }
        match &self.phase {
            Phase::Sending(_) => Err(TransportError::Busy),
            Phase::Answered(_, Some(_)) => Ok(Some(Vec::new())),
            Phase::Answered(_, None) => Ok(None),
            Phase::Failed(_, how) => {
                self.end_told = true;
                Err(TransportError::Io(how.clone()))
            }
        }
    }

    /// Does all work that is possible without waiting. Ready when no work is left on the exchange.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Phase::Sending(exchange) = &mut self.phase {
            match exchange.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((head, body))) => self.phase = Phase::Answered(head, Some(body)),
                Poll::Ready(Err(how)) => self.phase = Phase::Failed(None, how),
            }
            self.readiness.set(Interest::State);
        }
        self.read_ahead(cx);
        if let Phase::Answered(_, Some(body)) = &mut self.phase {
            // Drives the rest of the request: the server may have answered before it read the whole
            // request.
            body.drive(cx);
        }
        let has_body = matches!(self.phase, Phase::Answered(_, Some(_)));
        if !self.held.is_empty() || !(has_body || self.end_told) {
            self.readiness.set(Interest::Read);
        }
        if has_body { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Reads one piece, unless the stub has yet to fetch one.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if !self.held.is_empty() {
            return;
        }
        let Phase::Answered(head, reading) = &mut self.phase else { return };
        let Some(body) = reading else { return };
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(piece))) => self.held = piece,
            Poll::Ready(Some(Err(error))) => {
                let how = format!("the answer to {} broke off: {error}", self.target);
                self.phase = Phase::Failed(Some(head.clone()), how);
            }
            Poll::Ready(None) => self.idle = reading.take().and_then(|body| body.into_idle()),
            Poll::Pending => {}
        }
    }
}

/// A request that may be sent.
pub(crate) struct Sending {
    /// The method and the URL without its query, for error texts.
    name: String,
    route: Route,
    target: HttpTarget,
    request: HttpRequest,
    authorization: Option<Authorization>,
    limits: TransportLimits,
}

impl Sending {
    /// Runs the checks that need no network.
    pub(crate) fn new(
        route: &Route,
        limits: &TransportLimits,
        request: Request,
        authorization: Option<Authorization>,
    ) -> Result<Self, TransportError> {
        let method = parse_method(&request.method)?;
        let url = parse_url(&request.url, limits)?;
        let headers = headers::parse(&request.headers, limits.request_header_bytes)?;
        if request.body.len() > limits.request_body_bytes {
            return Err(TransportError::too_long("a request's body", request.body.len(), limits.request_body_bytes));
        }
        let refused = |error| match error {
            EgressError::Refused(refused) => TransportError::Denied(refused.to_string()),
            error => TransportError::Invalid(error.to_string()),
        };
        let name = format!("{method} {}", &url[..Position::AfterPath]);
        let target = HttpTarget::new(&route.grants, &url).map_err(refused)?;
        let request = route.egress.http_request(&target, method, headers, request.body.into()).map_err(refused)?;
        Ok(Self { name, route: route.clone(), target, request, authorization, limits: limits.clone() })
    }

    /// Returns the scheme, host and port. Requests with the same origin can share connections.
    pub(crate) fn origin(&self) -> Origin {
        self.target.origin()
    }

    /// Creates the exchange, over an idle connection to the same origin or a new one. The first
    /// drive begins it.
    pub(crate) fn over(self, idle: Option<Http1<MeteredStream>>) -> Exchange {
        let (target, origin) = (self.name.clone(), self.origin());
        let (receive_bytes, head_timeout) = (self.limits.receive_bytes, self.limits.head_timeout);
        let late = format!("{target} got no answer within {head_timeout:?}");
        let sent = async move { tokio::time::timeout(head_timeout, self.send(idle)).await.unwrap_or(Err(late)) };
        Exchange {
            readiness: Readiness::default(),
            phase: Phase::Sending(Box::pin(sent)),
            target,
            held: Bytes::new(),
            end_told: false,
            receive_bytes,
            origin,
            idle: None,
        }
    }

    async fn send(mut self, idle: Option<Http1<MeteredStream>>) -> Result<(Head, ResponseBody), String> {
        if let Some(authorization) = self.authorization.take() {
            let value = authorization.await.map_err(|why| format!("{} was not sent: {why}", self.name))?;
            self.request.append(http::header::AUTHORIZATION, value);
        }
        let Self { name, route, target, request, limits, .. } = self;
        let header_bytes = limits.response_header_bytes;
        let failed = |error: ExchangeError| match error {
            ExchangeError::Head { fields, .. } => {
                format!("{name} failed: a response's head is over the limit of {header_bytes} bytes or {fields} fields")
            }
            error => target.broken(&error).to_string(),
        };
        let (head, body) = match attempt(request, idle).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(request) => {
                let connection = route.egress.connect_http(&route.grants, &route.quota, &target).await;
                let connection = connection.map_err(|error| target.failed(error).to_string())?;
                let http_limits = HttpLimits {
                    head_bytes: header_bytes + HEAD_FRAMING_BYTES,
                    fields: limits.response_headers,
                    informational: limits.informational_responses,
                    silence: route.egress.read_timeout(),
                };
                let http = Http1::new(MeteredStream::new(connection, &route.traffic), http_limits).await.map_err(failed)?;
                http.exchange(request).await.map_err(failed)?
            }
        };
        let headers = headers::list(head.headers(), header_bytes)
            .map_err(|size| format!("{name} failed: {}", too_long("a response's head", size, header_bytes)))?;
        Ok((Head { status: head.status().as_u16(), headers }, Box::new(body)))
    }
}

type ExchangeResult = Result<(http::Response<()>, HttpBody<MeteredStream>), ExchangeError>;

/// Sends a request over an idle connection.
///
/// # Errors
/// The request, if it needs a new connection: there is no idle one, or the server closed it before
/// a byte of the request was sent. A request that was sent is never sent again, since the server
/// may have processed it.
async fn attempt(request: HttpRequest, idle: Option<Http1<MeteredStream>>) -> Result<ExchangeResult, HttpRequest> {
    let Some(http) = idle else { return Err(request) };
    match http.exchange(request).await {
        Err(ExchangeError::Unsent(request)) => Err(*request),
        answer => Ok(answer),
    }
}

fn parse_method(method: &str) -> Result<Method, TransportError> {
    match method.parse() {
        // Both methods concern the connection, which belongs to the host.
        Ok(Method::CONNECT | Method::TRACE) => Err(TransportError::Invalid(format!("a stub cannot use the method {method}"))),
        Ok(method) => Ok(method),
        Err(_) => Err(TransportError::Invalid(format!("`{}` is not a method (RFC 9110 section 9.1)", SafeText::quote(method)))),
    }
}

/// Parses the URL. The egress checks the rest of it.
fn parse_url(url: &str, limits: &TransportLimits) -> Result<Url, TransportError> {
    if url.len() > limits.url_bytes {
        return Err(TransportError::too_long("a URL", url.len(), limits.url_bytes));
    }
    let mut url =
        Url::parse(url).map_err(|error| TransportError::Invalid(format!("the URL of a request cannot be read: {error}")))?;
    url.set_fragment(None);
    Ok(url)
}
