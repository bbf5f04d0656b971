//! An explicit HTTP proxy (RFC 9110 section 9.3.6).
//!
//! With a proxy, the grants check names and literal addresses as usual. But the proxy resolves the
//! names, so the egress does *not* judge their addresses. An operator who configures a proxy relies
//! on the proxy to refuse addresses of private networks, loopback and metadata services.
//! `localhost` and loopback addresses never go through the proxy, where they would mean the proxy's
//! own host.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use protostub_types::SafeText;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

use crate::{connect::Stream, error::EgressError, host::Host};

/// Maximum size of an answer to CONNECT, up to its empty line.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The location of the proxy, and this host's credentials for it.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The URL without user and password.
    pub(crate) url: Url,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// The header `Proxy-Authorization`, marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    pub(crate) fn new(url: &Url) -> Result<Self, EgressError> {
        let mut bare = url.clone();
        let fail = |problem: &str| EgressError::Config(format!("the proxy `{}` {problem}", shown(url)));
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(fail("is neither http nor https")),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(fail("must not have a path, a query or a fragment"));
        }
        let host = url.host_str().ok_or_else(|| fail("has no host"))?;
        let host = Host::parse(host).map_err(|problem| fail(&format!("has an invalid host: {problem}")))?;
        let port = url.port_or_known_default().ok_or_else(|| fail("has no port"))?;
        bare.set_username("").and_then(|()| bare.set_password(None)).map_err(|()| fail("has no host"))?;
        Ok(Self { url: bare, host, port, tls, authorization: authorization(url)? })
    }

    /// Requests a tunnel to `target` on a connection to the proxy.
    pub(crate) async fn tunnel(&self, target: &str, stream: &mut Stream) -> Result<(), EgressError> {
        let fail = |problem: String| self.error(target, problem);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await.map_err(|error| fail(error.to_string()))?;
        stream.flush().await.map_err(|error| fail(error.to_string()))?;

        // Reads byte by byte, since the bytes after the empty line already belong to the tunnel.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER_BYTES {
                return Err(fail(format!("the proxy's answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            answer.push(
                stream.read_u8().await.map_err(|error| fail(format!("the proxy sent no complete answer to CONNECT: {error}")))?,
            );
        }
        let line = String::from_utf8_lossy(&answer);
        let line = SafeText::quote(line.lines().next().unwrap_or_default());
        match status(&line) {
            Some(200..=299) => Ok(()),
            Some(407) if self.authorization.is_none() => {
                Err(fail(format!("the proxy requires a user and a password (`{line}`); add them to the proxy's URL")))
            }
            Some(_) => Err(fail(format!("the proxy answered `{line}` to CONNECT"))),
            None => Err(fail(format!("the proxy's answer to CONNECT is not HTTP: `{line}`"))),
        }
    }

    pub(crate) fn error(&self, target: &str, problem: String) -> EgressError {
        EgressError::Proxy { target: target.to_owned(), proxy: self.to_string(), problem: problem.into() }
    }
}

/// Parses the status of `HTTP/1.1 200 Connection established`.
fn status(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    let code = rest.split(' ').next()?;
    (version.starts_with("HTTP/1.") && code.len() == 3).then(|| code.parse().ok())?
}

/// Returns the header of Basic authentication (RFC 7617) with the user and password of the URL.
fn authorization(url: &Url) -> Result<Option<HeaderValue>, EgressError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials)))
        .map_err(|_| EgressError::Config(format!("the user and password of the proxy `{}` cannot be sent", shown(url))))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Formats a proxy's URL without user and password.
fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}
