//! The target of a WebSocket URL, and the opening handshake with it (RFC 6455 section 4).

use std::{collections::HashSet, fmt};

use http::{HeaderMap, HeaderValue, Uri, header};
use protostub_egress::{Grants, Protection};
use protostub_types::SafeText;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error as WsError,
        handshake::client::{Response, generate_key},
        protocol::WebSocketConfig,
    },
};
use url::Url;

use super::{
    heartbeat::{ReadMonitor, Stream},
    outbox::WRITE_AHEAD_BYTES,
};
use crate::{Authorization, TransportError, TransportLimits, error::too_long, headers, route::Route, traffic::MeteredStream};

/// Maximum number of bytes of one read from the socket, and the buffer size of an idle connection.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// The target of a URL.
#[derive(Debug)]
pub(super) struct Target {
    url: Url,
    protection: Protection,
    /// The host in the form of URLs: an IPv6 address is in brackets.
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn parse(url: &str, limits: &TransportLimits) -> Result<Self, TransportError> {
        let invalid = |why: &str| TransportError::Invalid(format!("the URL of a WebSocket {why}"));
        if url.len() > limits.url_bytes {
            return Err(TransportError::too_long("a URL", url.len(), limits.url_bytes));
        }
        let url = Url::parse(url).map_err(|error| invalid(&format!("cannot be read: {error}")))?;
        let protection = match url.scheme() {
            "wss" => Protection::Tls,
            "ws" => Protection::Plain,
            scheme => return Err(invalid(&format!("must begin with `ws:` or `wss:`, not with `{scheme}:`"))),
        };
        if url.fragment().is_some() {
            return Err(invalid("must not have a fragment (RFC 6455 section 3)"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("must not have a user or password; send the header `authorization`"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("must have a host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| invalid("must have a port"))?;
        Ok(Self { url, protection, host, port })
    }

    /// Checks the grants, as far as the name shows.
    pub(super) fn check(&self, grants: &Grants) -> Result<(), TransportError> {
        grants.check(&self.host, self.port, self.protection).map_err(|refused| TransportError::Denied(refused.to_string()))
    }

    /// Creates the request of the opening handshake (RFC 6455 section 4.1).
    pub(super) fn request(
        &self,
        protocols: &[String],
        fields: &[(String, String)],
        limits: &TransportLimits,
    ) -> Result<http::Request<()>, TransportError> {
        let invalid =
            |error: &dyn fmt::Display| TransportError::Invalid(format!("the URL of a WebSocket cannot be sent: {error}"));
        let uri: Uri = self.url.as_str().parse().map_err(|error: http::uri::InvalidUri| invalid(&error))?;
        let mut headers: HeaderMap = headers::parse(fields, limits.request_header_bytes)?;
        if let Some(name) = headers.keys().find(|name| name.as_str().starts_with("sec-websocket-")) {
            return Err(TransportError::Invalid(format!("`{name}` is invalid: this header is set by the host alone")));
        }
        if let Some(protocols) = join_protocols(protocols, limits)? {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        }
        let host = match self.url.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        };
        headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| invalid(&error))?);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&generate_key()).map_err(|error| invalid(&error))?);
        let mut request = http::Request::new(());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Scheme, host and port. The path may contain data that does not belong in an error.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.url.scheme(), self.host, self.port)
    }
}

/// Returns the value of `Sec-WebSocket-Protocol`: tokens without repetition (RFC 6455 section 4.1,
/// item 10).
fn join_protocols(protocols: &[String], limits: &TransportLimits) -> Result<Option<HeaderValue>, TransportError> {
    if protocols.is_empty() {
        return Ok(None);
    }
    let size = protocols.iter().map(|protocol| protocol.len() + 2).sum();
    if size > limits.request_header_bytes {
        return Err(TransportError::too_long("a list of subprotocols", size, limits.request_header_bytes));
    }
    let mut seen = HashSet::with_capacity(protocols.len());
    for protocol in protocols {
        let is_token = !protocol.is_empty()
            && protocol.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte));
        if !is_token || !seen.insert(protocol) {
            let what = if is_token { "named twice" } else { "not a token (RFC 9110 section 5.6.2)" };
            return Err(TransportError::Invalid(format!("the subprotocol `{}` is {what}", SafeText::quote(protocol))));
        }
    }
    let value = HeaderValue::from_str(&protocols.join(", "));
    value.map(Some).map_err(|_| TransportError::Invalid("the subprotocols cannot be sent".to_owned()))
}

/// The server's answer to the opening handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handshake {
    /// The status code: 101 if the connection is open.
    pub status: u16,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
    /// The fields of the head, in order, with names in lower case.
    pub headers: Vec<(String, String)>,
}

/// The result of an opening without failure.
pub(super) enum Opened {
    Open(Box<Stream>, Handshake),
    Refused(Handshake),
}

/// Connects and does the handshake.
///
/// # Errors
/// A text with the target and the failure.
pub(super) async fn open(
    route: Route,
    limits: TransportLimits,
    target: Target,
    mut request: http::Request<()>,
    authorization: Option<Authorization>,
) -> Result<Opened, String> {
    let Route { egress, quota, grants, traffic } = route;
    let open = async {
        if let Some(authorization) = authorization {
            let value = authorization.await.map_err(|why| format!("{target} was not opened: {why}"))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let alpn: &[&[u8]] = match target.protection {
            Protection::Tls => &[b"http/1.1"],
            Protection::Plain => &[],
        };
        let connect = egress.connect(&grants, &quota, &target.host, target.port, target.protection, alpn);
        let connection = connect.await.map_err(|error| error.to_string())?;
        perform_handshake(MeteredStream::new(connection, &traffic), request, &limits)
            .await
            .map_err(|how| format!("the WebSocket handshake with {target} failed: {how}"))
    };
    match tokio::time::timeout(limits.open_timeout, open).await {
        Ok(result) => result,
        Err(_) => Err(format!("opening {target} took longer than {:?}", limits.open_timeout)),
    }
}

async fn perform_handshake(
    connection: MeteredStream,
    request: http::Request<()>,
    limits: &TransportLimits,
) -> Result<Opened, String> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_AHEAD_BYTES)
        .write_buffer_size(WRITE_AHEAD_BYTES)
        // Room for the data written ahead, a message, and the small rest: headers of small
        // messages, a pong, a close frame.
        .max_write_buffer_size(WRITE_AHEAD_BYTES + limits.frame_bytes + (4 << 10))
        .max_message_size(Some(limits.frame_bytes))
        .max_frame_size(Some(limits.frame_bytes));
    match client_async_with_config(request, ReadMonitor::new(connection), Some(config)).await {
        Ok((stream, head)) => {
            // Section 4.1, item 5: the request offered no extension. tungstenite does not check
            // this.
            if head.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
                return Err("the server uses a WebSocket extension that was not offered".to_owned());
            }
            Ok(Opened::Open(Box::new(stream), describe(&head, limits)?))
        }
        Err(WsError::Http(head)) => Ok(Opened::Refused(describe(&head, limits)?)),
        Err(WsError::AttackAttempt) => {
            Err("the head of the server's answer is too large, or comes in too small pieces".to_owned())
        }
        Err(error) => Err(SafeText::chain(&error).to_string()),
    }
}

fn describe(head: &Response, limits: &TransportLimits) -> Result<Handshake, String> {
    let limit = limits.handshake_header_bytes;
    let headers = headers::list(head.headers(), limit).map_err(|size| too_long("a handshake's head", size, limit))?;
    let protocol = headers.iter().find(|(name, _)| name == "sec-websocket-protocol").map(|(_, value)| value.clone());
    Ok(Handshake { status: head.status().as_u16(), protocol, headers })
}
