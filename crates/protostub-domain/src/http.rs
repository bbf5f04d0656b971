//! The server's HTTP interface: the well-known catalogue, and the WebSockets of the message node.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State, WebSocketUpgrade},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use protostub_types::{Address, Domain, SafeText, Sha256Digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    catalogue::{Catalogue, CatalogueError, KEYS_FILE, PACKAGE_TYPE, Place},
    node::MessageNode,
    origin::WebOrigin,
};

/// State that the handlers share. Each start of the server creates a new one.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) catalogue: Option<Arc<Catalogue>>,
    pub(crate) node: MessageNode,
    /// The domains of the server. The first one is the domain of its addresses.
    pub(crate) names: Arc<[Domain]>,
    /// Host and port, for clients that do not send a `Host` of the server.
    pub(crate) authority: Arc<str>,
    /// The origins of other sites whose pages may connect to the message node.
    pub(crate) origins: Arc<[WebOrigin]>,
    pub(crate) max_message_bytes: usize,
    pub(crate) served: Arc<Served>,
    pub(crate) stop: CancellationToken,
    pub(crate) clients: TaskTracker,
}

/// Numbers of the catalogue's answers.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) descriptors: AtomicU64,
    pub(crate) components: AtomicU64,
}

/// The spellings of the stubs' type: the specification's, and the one of the original runtime and
/// catalogue.
const STUB_TYPES: [&str; 2] = ["protostub", "protocolstub"];

pub(crate) fn router(site: Site) -> Router {
    Router::new()
        .route("/", get(front_page))
        .route("/.well-known", get(types))
        .route("/.well-known/", get(types))
        .route("/.well-known/{*path}", get(well_known))
        .route("/ws", get(vertx))
        .route("/stub/connect", get(nomatrix))
        .with_state(site)
}

async fn front_page(State(site): State<Site>) -> Response {
    text(StatusCode::OK, format!("The domain {}: /.well-known/protostub, /ws, /stub/connect?runtimeURL=\n", site.domain()))
}

async fn types() -> Response {
    for_everybody(axum::Json(json!([STUB_TYPES[0], STUB_TYPES[1], PACKAGE_TYPE])).into_response())
}

/// Answers `<type>`, `<type>/<name>` and `<type>/<name>/<field>`, with or without a slash at the
/// end.
async fn well_known(State(site): State<Site>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let answer = match path.trim_end_matches('/').splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [kind] if is_type(kind) => site.names().await,
        [kind, name, field @ ..] if STUB_TYPES.contains(kind) => site.descriptor(name, field.first().copied(), &headers).await,
        [PACKAGE_TYPE, name] => site.component(name, &headers).await,
        [KEYS_FILE] => site.keys(&headers).await,
        _ => text(StatusCode::NOT_FOUND, format!("there is nothing here; ask for /.well-known/{}\n", STUB_TYPES[0])),
    };
    for_everybody(answer)
}

/// Allows any origin, since runtimes in browsers read the catalogue, too.
fn for_everybody(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

fn is_type(kind: &str) -> bool {
    kind == PACKAGE_TYPE || STUB_TYPES.contains(&kind)
}

impl Site {
    fn domain(&self) -> &Domain {
        &self.names[0]
    }

    fn catalogue(&self) -> Result<&Catalogue, Box<Response>> {
        self.catalogue
            .as_deref()
            .ok_or_else(|| Box::new(text(StatusCode::NOT_FOUND, "this domain has no catalogue\n".to_owned())))
    }

    async fn names(&self) -> Response {
        match self.catalogue() {
            Ok(catalogue) => match catalogue.names().await {
                Ok(names) => axum::Json(names).into_response(),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to read the folder of stubs: {error}\n")),
            },
            Err(response) => *response,
        }
    }

    async fn descriptor(&self, name: &str, field: Option<&str>, headers: &HeaderMap) -> Response {
        let descriptor = match self.catalogue() {
            Ok(catalogue) => catalogue.descriptor(name, &self.place(headers)).await,
            Err(response) => return *response,
        };
        let descriptor = match descriptor {
            Ok(descriptor) => Value::Object(descriptor),
            Err(error) => return error.into_response(),
        };
        self.served.descriptors.fetch_add(1, Ordering::Relaxed);
        let Some(field) = field else {
            return tagged(headers, "application/json", descriptor.to_string().into_bytes(), None);
        };
        match descriptor.pointer(&format!("/{}", field.replace('~', "~0"))) {
            Some(Value::String(value)) => tagged(headers, "text/plain; charset=utf-8", value.clone().into_bytes(), None),
            Some(value) => tagged(headers, "application/json", value.to_string().into_bytes(), None),
            None => text(StatusCode::NOT_FOUND, "the descriptor has no such field\n".to_owned()),
        }
    }

    async fn keys(&self, headers: &HeaderMap) -> Response {
        match self.catalogue() {
            Ok(catalogue) => match catalogue.keys().await {
                Ok(keys) => tagged(headers, "application/jwk-set+json", keys, None),
                Err(error) => error.into_response(),
            },
            Err(response) => *response,
        }
    }

    async fn component(&self, name: &str, headers: &HeaderMap) -> Response {
        let component = match self.catalogue() {
            Ok(catalogue) => catalogue.component(name).await,
            Err(response) => return *response,
        };
        match component {
            Ok((code, digest)) => {
                self.served.components.fetch_add(1, Ordering::Relaxed);
                tagged(headers, "application/wasm", code, Some(digest))
            }
            Err(error) => error.into_response(),
        }
    }

    /// Returns the address that the client used, if it is one of the server's.
    fn place(&self, headers: &HeaderMap) -> Place {
        let text = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = Domain::parse(text).ok().filter(|host| self.names.iter().any(|name| name.host() == host.host()));
        let authority = match host {
            // A domain has no port 443. The URLs of this server need the port, since they are not
            // HTTPS.
            Some(host) if host.port().is_none() && text.ends_with(":443") => format!("{host}:443"),
            Some(host) => host.to_string(),
            None => self.authority.to_string(),
        };
        Place { authority, domain: self.domain().clone() }
    }
}

async fn vertx(State(site): State<Site>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    site.upgrade(&headers, upgrade, None)
}

#[derive(Deserialize)]
struct Connect {
    #[serde(rename = "runtimeURL")]
    runtime: Option<String>,
}

async fn nomatrix(
    State(site): State<Site>,
    Query(connect): Query<Connect>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    match connect.runtime.as_deref().map(Address::parse) {
        Some(Ok(runtime)) => site.upgrade(&headers, upgrade, Some(runtime)),
        Some(Err(error)) => text(StatusCode::FORBIDDEN, format!("the parameter runtimeURL is invalid: {error}\n")),
        None => text(StatusCode::FORBIDDEN, "the parameter runtimeURL is missing\n".to_owned()),
    }
}

impl Site {
    fn upgrade(self, headers: &HeaderMap, upgrade: WebSocketUpgrade, nomatrix: Option<Address>) -> Response {
        if let Some(origin) = self.foreign_origin(headers) {
            tracing::info!(%origin, "refused a connection of a web page");
            let problem = format!(
                "failed to connect to the message node: pages of `{origin}` are not allowed; start the server with --allow-origin\n"
            );
            return text(StatusCode::FORBIDDEN, problem);
        }
        if !self.node.has_room() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the message node has reached its limit of connections\n".to_owned());
        }
        let clients = self.clients.clone();
        upgrade
            .max_message_size(self.max_message_bytes)
            .max_frame_size(self.max_message_bytes)
            .on_upgrade(move |socket| clients.track_future(async move { self.node.serve(socket, nomatrix, &self.stop).await }))
    }
}

impl Site {
    /// Returns the origin of the page that opens a connection, if it is not allowed. The header
    /// `host` counts for nothing: the name of an attacker's page may resolve to this server.
    fn foreign_origin(&self, headers: &HeaderMap) -> Option<SafeText> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = origins.next()?;
        let own = Domain::parse(&self.authority).ok();
        let is_allowed = |origin: WebOrigin| {
            self.names.iter().chain(&own).any(|domain| origin.is_of(domain))
                || self.origins.iter().any(|allowed| allowed.is_same(&origin))
        };
        let read = origin.to_str().ok().filter(|_| origins.next().is_none()).and_then(|origin| origin.parse().ok());
        if read.is_some_and(is_allowed) { None } else { Some(SafeText::new(&String::from_utf8_lossy(origin.as_bytes()))) }
    }
}

impl IntoResponse for CatalogueError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NotFound { .. } | Self::NoDefault { .. } | Self::NoFile { .. } | Self::NoKeys => StatusCode::NOT_FOUND,
            Self::Io { .. } | Self::Descriptor { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        text(status, format!("{self}\n"))
    }
}

fn text(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}

/// Returns the content, with its digest as the ETag. A request for a range gets that part, and a
/// conditional one the answer that the content is unchanged (RFC 9110 sections 13 and 14).
fn tagged(headers: &HeaderMap, kind: &'static str, content: Vec<u8>, digest: Option<Sha256Digest>) -> Response {
    let tag = format!("\"{}\"", digest.unwrap_or_else(|| Sha256Digest::of(&content)));
    let asked = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_known = |tags: &str| tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    let common = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if asked(header::IF_NONE_MATCH).is_some_and(is_known) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let common = (common, [(header::CONTENT_TYPE, kind), (header::ACCEPT_RANGES, "bytes")]);
    let length = content.len();
    let range = asked(header::RANGE).filter(|_| asked(header::IF_RANGE).is_none_or(|known| known == tag));
    match range.and_then(|range| part(range, length)) {
        None => (StatusCode::OK, common, Body::from(content)).into_response(),
        Some(Some((first, last))) => {
            let range = [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}"))];
            let content = axum::body::Bytes::from(content).slice(first..=last);
            (StatusCode::PARTIAL_CONTENT, range, common, Body::from(content)).into_response()
        }
        Some(None) => (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{length}"))]).into_response(),
    }
}

/// Returns the first and last byte of `bytes=<first>-<last>`, `bytes=<first>-` or
/// `bytes=-<length>`. Returns `Some(None)` if the content has no such bytes, and `None` for other
/// kinds of ranges, which are ignored.
fn part(range: &str, length: usize) -> Option<Option<(usize, usize)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let (first, last) = match (first.trim(), last.trim()) {
        ("", wanted) => (length.saturating_sub(number(wanted)?), length.checked_sub(1)),
        (first, "") => (number(first)?, length.checked_sub(1)),
        (first, last) => (number(first)?, length.checked_sub(1).map(|end| end.min(number(last).unwrap_or(end)))),
    };
    Some(last.filter(|last| first <= *last).map(|last| (first, last)))
}
