use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use protostub_egress::{
    Egress, EgressError, Grants, HttpClient, Protection,
    reqwest::{
        Response, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    response_error,
};
use protostub_types::{Domain, SafeText};
use url::{Origin, Url};

use crate::{
    CatalogueConfig, Document, Extent, Fault, Held, Request, Source, Subject, Validators,
    component::length,
    downloads::{Downloading, Downloads},
    error::beginning,
};

/// Maximum number of redirects. They are followed within the domain only, and never from HTTPS to
/// HTTP.
const MAX_REDIRECTS: usize = 3;
/// Maximum length that is read of an error's explanation, in bytes.
const MAX_EXPLANATION_BYTES: usize = 2048;

/// Maximum length of a header that is kept, in bytes.
const MAX_HEADER_BYTES: usize = 1024;
/// Maximum time for which a descriptor is used without asking, even if its server states more. It
/// limits the time for which a server can bind this host to a version.
pub(crate) const MAX_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of publishers whose clients are kept. The component mostly comes from the same
/// server as the descriptor, so its connection is reused.
const MAX_CLIENTS: usize = 64;

/// Texts of "not found" answers of reTHINK's catalogue broker, whose status is 500 or 400 instead
/// of 404.
const BROKER_NOT_FOUND: [&str; 5] = [
    "Could not find instance",
    "No instance defined as default",
    "Unable to find instance",
    "Unknown object type",
    "Unknown resource type",
];

/// The network. Asks the host of a URL, within the grants of the domain that publishes there.
#[derive(Debug, Clone)]
pub struct HttpsSource {
    egress: Egress,
    allow_loopback: bool,
    loopback: BTreeSet<Domain>,
    private: BTreeSet<Domain>,
    /// The clients that were used last; the latest one is at the end.
    clients: Arc<Mutex<VecDeque<(Way, HttpClient)>>>,
    downloads: Downloads,
}

/// The inputs of a client's grants: the publisher, and the scheme, host and port of the URL.
type Way = (Domain, Origin);

impl HttpsSource {
    /// Returns a source that uses `egress`. It reaches loopback and private networks as far as the
    /// configuration allows.
    #[must_use]
    pub fn new(egress: Egress, config: &CatalogueConfig) -> Self {
        Self {
            egress,
            allow_loopback: config.allow_loopback,
            loopback: config.loopback.clone(),
            private: config.private.clone(),
            clients: Arc::default(),
            downloads: Downloads::new(config),
        }
    }

    /// Returns the client for this URL: the kept one with its open connections, or a new one.
    fn client(&self, publisher: &Domain, url: &Url) -> Result<HttpClient, Fault> {
        let way = (publisher.clone(), url.origin());
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = clients();
        let used = known.iter().position(|(other, _)| *other == way).and_then(|index| known.remove(index));
        drop(known);
        let client = match used {
            Some((_, client)) => client,
            None => self.new_client(publisher, url)?,
        };
        let mut known = clients();
        known.push_back((way, client.clone()));
        let oldest = (known.len() > MAX_CLIENTS).then(|| known.pop_front());
        drop(known);
        // Closes the oldest client's connections without holding the lock.
        drop(oldest);
        Ok(client)
    }

    /// Builds a client for the host of this URL and the hosts below it, over TLS.
    ///
    /// Only a publisher that is loopback by its own name, or that the operator names, leads to this
    /// machine. A host of another domain is on loopback only for the first of the two.
    fn new_client(&self, publisher: &Domain, url: &Url) -> Result<HttpClient, Fault> {
        let refused = |reason: String| Fault::Refused { reason: reason.into() };
        let host = url.host_str().unwrap_or_default();
        let domain = Domain::parse(host).map_err(|error| refused(error.to_string()))?;
        let grants = if domain.is_within(publisher) {
            // A redirect may lead to another host of the domain.
            Grants::same_domain(publisher, url.port().as_slice())
        } else {
            Grants::same_domain(&domain, url.port().as_slice())
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let (protection, grants) = match url.scheme() {
            "http" => {
                let grants = grants.allow_host(host, port, Protection::Plain).map_err(|error| refused(error.to_string()))?;
                (Protection::Plain, grants)
            }
            _ => (Protection::Tls, grants),
        };
        let by_name = self.allow_loopback && publisher.is_loopback();
        let by_setting = self.loopback.contains(publisher) && (domain.is_within(publisher) || publisher.is_loopback());
        let grants = grants.allow_loopback(by_name || by_setting).allow_private(self.private.contains(publisher));
        grants.check(host, port, protection).map_err(|error| refused(error.to_string()))?;
        Ok(self.egress.http(&grants, self.egress.own()))
    }
}

#[async_trait]
impl Source for HttpsSource {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        let client = self.client(request.domain, request.url)?;
        let download = Arc::new(self.downloads.begin(request.domain).await?);
        let ask = async |held| {
            client.get_with(request.url, conditions(held), MAX_REDIRECTS).await.map_err(|error| fault(request.url, error))
        };
        let mut response = ask(request.held).await?;
        if let Held::Beginning { bytes, .. } = request.held
            && (response.status() == StatusCode::RANGE_NOT_SATISFIABLE
                || response.status() == StatusCode::PARTIAL_CONTENT && !is_rest(&response, bytes))
        {
            // The document has changed, or the answer is not the requested part.
            response = ask(Held::Nothing).await?;
        }
        let status = response.status();
        match (status.as_u16(), request.held) {
            (200, _) => document(response, Extent::Whole, download),
            (206, Held::Beginning { .. }) => document(response, Extent::Rest, download),
            (304, Held::Whole(_)) => document(response, Extent::Unchanged, download),
            (404 | 410, _) => Err(Fault::NotFound { answer: SafeText::display(status) }),
            (code, _) => {
                let retry_after = text_header(&response, header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
                let retry_after = retry_after.map(Duration::from_secs);
                let explanation = explanation(response).await;
                let text = String::from_utf8_lossy(&explanation);
                let is_broker = matches!(code, 400 | 500) && BROKER_NOT_FOUND.iter().any(|known| text.contains(known));
                let beginning = beginning(&explanation);
                if is_broker && request.subject == Subject::Descriptor {
                    return Err(Fault::NotFound { answer: SafeText::display(format_args!("{code} `{beginning}`")) });
                }
                Err(Fault::Status { status: code, beginning, retry_after })
            }
        }
    }
}

/// Returns the headers that allow a server to send only a part or nothing (RFC 9110, sections 13.1
/// and 14.2).
fn conditions(held: Held<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut insert = |name: HeaderName, value: &str| {
        // A value from a server's header is valid in a request header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    match held {
        Held::Nothing => {}
        Held::Whole(Validators { etag, last_modified }) => {
            if let Some(etag) = etag {
                insert(header::IF_NONE_MATCH, etag);
            }
            if let Some(date) = last_modified {
                insert(header::IF_MODIFIED_SINCE, date);
            }
        }
        Held::Beginning { bytes, resumption } => {
            insert(header::RANGE, &format!("bytes={bytes}-"));
            insert(header::IF_RANGE, resumption);
        }
    }
    headers
}

/// Returns `true` if a partial answer begins at the byte `from` (RFC 9110, section 14.4).
fn is_rest(response: &Response, from: u64) -> bool {
    let range = text_header(response, header::CONTENT_RANGE);
    let start = range.as_deref().and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    start == Some(from)
}

fn text_header(response: &Response, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?.trim();
    (!value.is_empty() && value.len() <= MAX_HEADER_BYTES).then(|| value.to_owned())
}

/// Returns the time for which an answer may be used without asking again (RFC 9111, section 5.2.2):
/// `max-age`, less the time spent in caches on the way, at most a day. Returns `None` if the server
/// forbids keeping it.
fn keep(response: &Response) -> Option<Duration> {
    let (mut max_age, mut is_asked_always) = (0, false);
    for value in response.headers().get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => return None,
                "no-cache" => is_asked_always = true,
                "max-age" => max_age = argument.trim().trim_matches('"').parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    let age = text_header(response, header::AGE).and_then(|age| age.parse().ok()).unwrap_or(0);
    let left = Duration::from_secs(u64::saturating_sub(max_age, age));
    Some(if is_asked_always { Duration::ZERO } else { left.min(MAX_KEPT) })
}

/// Returns the value by which a download can be resumed (RFC 9110, section 13.1.5): a strong
/// `ETag`, or a date before the answer's.
fn resumption(response: &Response, validators: &Validators) -> Option<String> {
    if text_header(response, header::ACCEPT_RANGES).is_some_and(|unit| unit.eq_ignore_ascii_case("none")) {
        return None;
    }
    match &validators.etag {
        Some(etag) => Some(etag.clone()).filter(|etag| !etag.starts_with("W/")),
        // A document that was changed in the second of the answer may have been changed again
        // since.
        None => {
            validators.last_modified.clone().filter(|date| text_header(response, header::DATE).is_some_and(|now| now != *date))
        }
    }
}

fn document(response: Response, extent: Extent, download: Arc<Downloading>) -> Result<Document, Fault> {
    if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes)
        && !encoding.eq_ignore_ascii_case(b"identity")
    {
        return Err(Fault::Encoded { encoding: beginning(encoding) });
    }
    let media_type = text_header(&response, header::CONTENT_TYPE);
    let validators =
        Validators { etag: text_header(&response, header::ETAG), last_modified: text_header(&response, header::LAST_MODIFIED) };
    let (keep, resumption) = (keep(&response), resumption(&response, &validators));
    let (url, stated) = (response.url().clone(), response.content_length().filter(|_| extent != Extent::Unchanged));
    let charged = Arc::clone(&download);
    let body = response.bytes_stream().scan(0, move |received, chunk| {
        let chunk = chunk.inspect(|chunk| *received += length(chunk.len())).map_err(|error| Fault::Truncated {
            received: *received,
            stated,
            reason: reason(response_error(error)),
        });
        let chunk = chunk.and_then(|chunk| charged.charge(length(chunk.len())).map(|()| chunk));
        std::future::ready(Some(chunk))
    });
    let document = Document::from_stream(stated, body);
    Ok(Document { url: Some(url), media_type, extent, validators, keep, resumption, download: Some(download), ..document })
}

/// Reads the beginning of the body that explains a status. A part that cannot be read is left out.
async fn explanation(response: Response) -> Vec<u8> {
    let mut chunks = response.bytes_stream();
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = chunks.next().await {
        let room = MAX_EXPLANATION_BYTES - text.len();
        text.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if text.len() == MAX_EXPLANATION_BYTES {
            break;
        }
    }
    text
}

/// Converts an error of the egress to a fault of the request.
fn fault(url: &Url, error: EgressError) -> Fault {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    match error {
        // The URL itself was checked before, except for the addresses of its name.
        EgressError::Refused(refused) if refused.host() != host || ![0, port].contains(&refused.port()) => {
            let to = format_args!("`{}:{}` is not of the same domain", refused.host(), refused.port());
            Fault::Redirect { reason: SafeText::display(to) }
        }
        EgressError::Redirect { problem, .. } => Fault::Redirect { reason: problem },
        EgressError::Refused(_) | EgressError::Invalid { .. } | EgressError::Config(_) => {
            Fault::Refused { reason: SafeText::display(error) }
        }
        EgressError::NoSuchHost { host, .. } => Fault::NoSuchHost { host: host.into() },
        EgressError::Tls { problem, .. } => Fault::Tls { reason: problem },
        _ => Fault::Unreachable { reason: reason(error) },
    }
}

/// Returns the cause, without the URL, which the message has already.
fn reason(error: EgressError) -> SafeText {
    match error {
        EgressError::Http { problem, .. } | EgressError::Resolve { problem, .. } => problem,
        other => SafeText::display(other),
    }
}
