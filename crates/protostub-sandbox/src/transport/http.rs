//! One HTTP exchange (RFC 9110): `wit/0.1/http.wit`.
//!
//! ```text
//!   Sending ──► Answered: head, then the body piece by piece ──► ended (the handle goes with the last piece)
//!       └──────────► Failed(how) ◄──────┘
//! ```

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use http::Method;
use protostub_egress::{EgressError, HttpClient};
use protostub_types::SafeText;
use url::{Position, Url};

use super::{
    Authorization, Error, TransportLimits,
    error::{chain, too_long},
    headers,
    news::{News, Topic},
    traffic::{Direction, Gate, Traffic},
};

/// What a stub asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

/// An exchange of the stub.
pub(super) struct Exchange {
    pub(super) news: News,
    phase: Phase,
    /// What it is, for the texts of errors; the URL without its query.
    target: String,
    /// What the stub has not fetched of the piece that was read last.
    held: Bytes,
    /// The stub was given the error that the exchange ended with: nothing is new any more.
    end_told: bool,
    receive_bytes: usize,
    incoming: Gate,
}

type Body = BoxStream<'static, reqwest::Result<Bytes>>;

enum Phase {
    Sending(BoxFuture<'static, Result<(Head, Body), String>>),
    /// No body: all of it was read.
    Answered(Head, Option<Body>),
    /// Without a head, or in the middle of the body.
    Failed(Option<Head>, String),
}

impl Exchange {
    /// Checks what can be checked at once, and prepares the request; it is sent when the exchange is first driven.
    pub(super) fn send(
        client: &HttpClient,
        limits: &TransportLimits,
        traffic: &Arc<Traffic>,
        request: Request,
        authorization: Option<Authorization>,
    ) -> Result<Self, Error> {
        let method = parse_method(&request.method)?;
        let url = parse_url(&request.url, limits)?;
        let headers = headers::parse(&request.headers, limits.request_header_bytes)?;
        if request.body.len() > limits.request_body_bytes {
            return Err(Error::too_long("a request's body", request.body.len(), limits.request_body_bytes));
        }

        let target = format!("{method} {}", &url[..Position::AfterPath]);
        let builder = client.request(method, &url).map_err(|error| match error {
            EgressError::Refused(refused) => Error::Denied(refused.to_string()),
            error => Error::Invalid(error.to_string()),
        })?;
        let mut builder = builder.headers(headers);
        let in_headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = request.url.len() + in_headers + request.body.len();
        let mut outgoing = Gate::new(traffic, Direction::Out);
        if !request.body.is_empty() {
            builder = builder.body(request.body);
        }
        let (name, header_bytes, head_timeout) = (target.clone(), limits.response_header_bytes, limits.head_timeout);
        let exchange = async move {
            poll_fn(|cx| outgoing.poll_open(cx)).await;
            outgoing.count(bytes);
            let sent = async {
                if let Some(authorization) = authorization {
                    let value = authorization.await.map_err(|why| format!("{name} was not sent: {why}"))?;
                    builder = builder.header(http::header::AUTHORIZATION, value);
                }
                builder.send().await.map_err(|error| EgressError::from(error).to_string())
            };
            let response = match tokio::time::timeout(head_timeout, sent).await {
                Ok(Ok(response)) => response,
                Ok(Err(how)) => return Err(how),
                Err(_) => return Err(format!("{name} got no answer within {head_timeout:?}")),
            };
            let headers = headers::list(response.headers(), header_bytes)
                .map_err(|size| format!("{name} failed: {}", too_long("a response's head", size, header_bytes)))?;
            Ok((Head { status: response.status().as_u16(), headers }, response.bytes_stream().boxed()))
        };
        Ok(Self {
            news: News::default(),
            phase: Phase::Sending(Box::pin(exchange)),
            target,
            held: Bytes::new(),
            end_told: false,
            receive_bytes: limits.receive_bytes,
            incoming: Gate::new(traffic, Direction::In),
        })
    }

    /// The head, also when the body failed meanwhile.
    pub(super) fn poll(&mut self) -> Result<Option<Head>, Error> {
        self.news.asked(Topic::State);
        match &self.phase {
            Phase::Sending(_) => Ok(None),
            Phase::Answered(head, _) | Phase::Failed(Some(head), _) => Ok(Some(head.clone())),
            Phase::Failed(None, how) => {
                self.end_told = true;
                Err(Error::Io(how.clone()))
            }
        }
    }

    /// One piece of the body, or as much of it as is asked for.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        self.news.asked(Topic::Read);
        self.read_ahead(cx);
        if !self.held.is_empty() {
            let size = self.held.len().min(max_bytes).min(self.receive_bytes);
            return Ok(Some(self.held.split_to(size).into()));
        }
        match &self.phase {
            Phase::Sending(_) => Err(Error::Busy),
            Phase::Answered(_, Some(_)) => Ok(Some(Vec::new())),
            Phase::Answered(_, None) => Ok(None),
            Phase::Failed(_, how) => {
                self.end_told = true;
                Err(Error::Io(how.clone()))
            }
        }
    }

    /// Does what can be done without waiting. Ready: there is nothing more to do with the exchange.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Phase::Sending(exchange) = &mut self.phase {
            match exchange.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((head, body))) => self.phase = Phase::Answered(head, Some(body)),
                Poll::Ready(Err(how)) => self.phase = Phase::Failed(None, how),
            }
            self.news.set(Topic::State);
        }
        self.read_ahead(cx);
        let has_body = matches!(self.phase, Phase::Answered(_, Some(_)));
        if !self.held.is_empty() || !(has_body || self.end_told) {
            self.news.set(Topic::Read);
        }
        if has_body { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Reads one piece, unless there is one that the stub has not fetched.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while self.held.is_empty()
            && let Phase::Answered(head, Some(body)) = &mut self.phase
        {
            if self.incoming.poll_open(cx).is_pending() {
                return;
            }
            match Pin::new(body).poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.incoming.count(piece.len());
                    self.held = piece;
                }
                Poll::Ready(Some(Err(error))) => {
                    let how = format!("the answer to {} broke off: {}", self.target, chain(&error.without_url()));
                    self.phase = Phase::Failed(Some(head.clone()), how);
                }
                Poll::Ready(None) => self.phase = Phase::Answered(head.clone(), None),
                Poll::Pending => return,
            }
        }
    }
}

fn parse_method(method: &str) -> Result<Method, Error> {
    match method.parse() {
        // Both are about the connection, which is the host's.
        Ok(Method::CONNECT | Method::TRACE) => Err(Error::Invalid(format!("a stub cannot use the method {method}"))),
        Ok(method) => Ok(method),
        Err(_) => Err(Error::Invalid(format!("`{}` is no method (RFC 9110 section 9.1)", SafeText::quote(method)))),
    }
}

/// What else can be wrong with a URL, the egress tells.
fn parse_url(url: &str, limits: &TransportLimits) -> Result<Url, Error> {
    if url.len() > limits.url_bytes {
        return Err(Error::too_long("a URL", url.len(), limits.url_bytes));
    }
    let mut url = Url::parse(url).map_err(|error| Error::Invalid(format!("the URL of a request cannot be read: {error}")))?;
    url.set_fragment(None);
    Ok(url)
}
