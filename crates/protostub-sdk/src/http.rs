//! HTTP exchanges (RFC 9110). The host does DNS, proxies and TLS. A stub may reach its own domain
//! and the hosts that the operator granted. The host follows no redirects.

use serde::{Serialize, de::DeserializeOwned};

pub use crate::request::RequestBuilder;
use crate::{
    Error, Result,
    guest::Handle,
    host::{self, HttpRequest},
    message::text_of,
};

/// Number of bytes to fetch from the host at a time.
const FETCH_BYTES: u32 = 64 * 1024;

/// A request to be sent.
pub type Request = RequestBuilder<Content>;

/// The parts of an HTTP request besides its URL and headers: method and body. See [`Request`].
#[derive(Debug, Clone)]
pub struct Content {
    method: String,
    body: Vec<u8>,
}

impl Request {
    /// Makes a request of this method for this `https://` or `http://` URL.
    #[must_use]
    pub fn new(method: impl Into<String>, url: impl AsRef<str>) -> Self {
        Self::of_kind(url, Content { method: method.into(), body: Vec::new() })
    }

    /// Makes a `GET` request.
    #[must_use]
    pub fn get(url: impl AsRef<str>) -> Self {
        Self::new("GET", url)
    }

    /// Makes a `POST` request.
    #[must_use]
    pub fn post(url: impl AsRef<str>) -> Self {
        Self::new("POST", url)
    }

    /// Makes a `PUT` request.
    #[must_use]
    pub fn put(url: impl AsRef<str>) -> Self {
        Self::new("PUT", url)
    }

    /// Makes a `DELETE` request.
    #[must_use]
    pub fn delete(url: impl AsRef<str>) -> Self {
        Self::new("DELETE", url)
    }

    /// Sets the body, at most 1 MiB.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.kind.body = bytes.into();
        self
    }

    /// Sets a value as the body, in JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the value has no JSON form.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }

    /// Sends the request, and waits for the head of the response. The timeout is 30 s, or less with
    /// [`time::timeout`](crate::time::timeout).
    ///
    /// # Errors
    /// [`Error::Denied`] (no grant for this host and port); [`Error::Invalid`] (URL, method or a
    /// header); [`Error::Limit`] (more than 16 connections, or a body over 1 MiB); [`Error::Io`]
    /// (the network, TLS, a server that does not speak HTTP). No status is an error.
    pub async fn send(self) -> Result<Response> {
        let Self { url, headers, kind: Content { method, body } } = self;
        let exchange = HttpExchange(Handle::new(host::http_send(HttpRequest { method, url, headers, body })?));
        let head = exchange.0.ask(host::http_poll).await?;
        Ok(Response { exchange, status: head.status, headers: head.headers })
    }
}

/// A response whose head has arrived. Dropped, it ends the exchange.
#[derive(Debug)]
pub struct Response {
    exchange: HttpExchange,
    status: u16,
    headers: Vec<(String, String)>,
}

#[derive(Debug)]
struct HttpExchange(Handle);

impl Drop for HttpExchange {
    fn drop(&mut self) {
        host::http_cancel(self.0.id());
    }
}

impl Response {
    /// Returns the status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns `true` if the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the first header of this name, which must be in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the headers, with names in lower case.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Returns the next bytes of the body, or `None` at its end.
    ///
    /// # Errors
    /// [`Error::Io`], once the exchange broke; [`Error::Closed`], after the end.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let fetch = |exchange| match host::http_receive(exchange, FETCH_BYTES)? {
            Some(bytes) if bytes.is_empty() => Ok(None),
            some_or_end => Ok(Some(some_or_end)),
        };
        self.exchange.0.ask(fetch).await
    }

    /// Returns the whole body, of at most `max_bytes`.
    ///
    /// # Errors
    /// [`Error::Limit`], if the body is longer; and as [`Self::chunk`].
    pub async fn bytes(mut self, max_bytes: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            if body.len() + bytes.len() > max_bytes {
                return Err(Error::Limit(format!("the response has more than {max_bytes} bytes")));
            }
            body.extend(bytes);
        }
        Ok(body)
    }

    /// Returns the whole body as JSON, of at most `max_bytes`.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the body is not JSON, or not of this shape; and as [`Self::bytes`].
    pub async fn json<T: DeserializeOwned>(self, max_bytes: usize) -> Result<T> {
        Ok(serde_json::from_str(text_of(&self.bytes(max_bytes).await?)?)?)
    }
}
