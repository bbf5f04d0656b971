//! An explicit HTTP proxy (RFC 9110 section 9.3.6).
//!
//! With a proxy, names are checked by the grants as ever, and so are hosts that are addresses; but the proxy resolves the names, so that what
//! they resolve to is *not* judged here. Whoever configures a proxy relies on it to refuse addresses of private networks, loopback and metadata
//! services. `localhost` and loopback addresses never go through the proxy: there they would be the proxy's own host.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use protostub_types::SafeText;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

use crate::{connect::Stream, error::EgressError, host::Host};

/// The longest answer to CONNECT that is read, up to its empty line.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Where the proxy is and how it knows us.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Without user and password.
    pub(crate) url: Url,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// `Proxy-Authorization`, marked as sensitive.
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
            return Err(fail("has a path, a query or a fragment, which no proxy has"));
        }
        let host = url.host_str().ok_or_else(|| fail("has no host"))?;
        let host = Host::parse(host).map_err(|problem| fail(&format!("has an invalid host: {problem}")))?;
        let port = url.port_or_known_default().ok_or_else(|| fail("has no port"))?;
        bare.set_username("").and_then(|()| bare.set_password(None)).map_err(|()| fail("has no host"))?;
        Ok(Self { url: bare, host, port, tls, authorization: authorization(url)? })
    }

    /// Asks for a tunnel to `target` on a connection to the proxy.
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

        // Byte by byte: whatever stands behind the empty line is the tunnel's already.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER_BYTES {
                return Err(fail(format!("its answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            answer.push(stream.read_u8().await.map_err(|error| fail(format!("no complete answer to CONNECT: {error}")))?);
        }
        let line = String::from_utf8_lossy(&answer);
        let line = SafeText::quote(line.lines().next().unwrap_or_default());
        match status(&line) {
            Some(200..=299) => Ok(()),
            Some(407) if self.authorization.is_none() => {
                Err(fail(format!("it wants a user and a password in its URL (`{line}`)")))
            }
            Some(_) => Err(fail(format!("it answered `{line}` to CONNECT"))),
            None => Err(fail(format!("it answered no HTTP to CONNECT: `{line}`"))),
        }
    }

    pub(crate) fn error(&self, target: &str, problem: String) -> EgressError {
        EgressError::Proxy { target: target.to_owned(), proxy: self.to_string(), problem: problem.into() }
    }
}

/// The status of `HTTP/1.1 200 Connection established`.
fn status(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    let code = rest.split(' ').next()?;
    (version.starts_with("HTTP/1.") && code.len() == 3).then(|| code.parse().ok())?
}

/// Basic authentication (RFC 7617) with what stands before the host in the URL.
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

/// A proxy's URL without user and password.
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
