use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use protostub_egress::{Egress, EgressError, Grants, HttpClient, Protection, reqwest::Response};
use protostub_types::Domain;
use url::Url;

use crate::{CatalogueConfig, Document, Fault, Request, Source, Subject, component::length, error::beginning, well_known};

/// How many redirects are followed, within the domain and never from HTTPS to HTTP.
const MAX_REDIRECTS: usize = 3;
/// How much of an error's explanation is read, in bytes.
const MAX_EXPLANATION_BYTES: usize = 2048;

/// With which of these texts reTHINK's catalogue broker answers 500 (or 400) where others answer 404.
const BROKER_NOT_FOUND: [&str; 5] = [
    "Could not find instance",
    "No instance defined as default",
    "Unable to find instance",
    "Unknown object type",
    "Unknown resource type",
];

/// The web: asks the host of a URL for it, within the grants of the domain that publishes there.
#[derive(Debug, Clone)]
pub struct HttpsSource {
    egress: Egress,
    allow_loopback: bool,
    private: BTreeSet<Domain>,
}

impl HttpsSource {
    /// Goes out by `egress`, to loopback, and into private networks, as far as the configuration allows that.
    #[must_use]
    pub fn new(egress: Egress, config: &CatalogueConfig) -> Self {
        Self { egress, allow_loopback: config.allow_loopback, private: config.private.clone() }
    }

    /// A client for this URL alone: its host, and what is below it, over TLS. Another host than the publisher's is never on loopback, unless
    /// the publisher is: a domain cannot make this machine ask itself.
    fn client(&self, publisher: &Domain, url: &Url) -> Result<HttpClient, Fault> {
        let refused = |reason: String| Fault::Refused { reason };
        let host = url.host_str().unwrap_or_default();
        let domain = Domain::parse(host).map_err(|error| refused(error.to_string()))?;
        let grants = if domain.is_within(publisher) {
            // A redirect may lead elsewhere within the domain.
            Grants::same_domain(publisher, url.port().as_slice())
        } else {
            Grants::same_domain(&domain, url.port().as_slice())
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let (protection, grants) = match url.scheme() {
            "http" => {
                let grants = grants.allow_host(host, port, true).map_err(|error| refused(error.to_string()))?;
                (Protection::Plain, grants)
            }
            _ => (Protection::Tls, grants),
        };
        let may_be_loopback = domain.is_within(publisher) || well_known::is_loopback(publisher);
        let grants =
            grants.allow_loopback(self.allow_loopback && may_be_loopback).allow_private(self.private.contains(publisher));
        grants.check(host, port, protection).map_err(|error| refused(error.to_string()))?;
        self.egress.http(&grants).map_err(|error| fault(url, error))
    }
}

#[async_trait]
impl Source for HttpsSource {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        let client = self.client(request.domain, request.url)?;
        let response = client.get(request.url, MAX_REDIRECTS).await.map_err(|error| fault(request.url, error))?;
        let status = response.status();
        match status.as_u16() {
            200 => document(response),
            404 | 410 => Err(Fault::NotFound { answer: status.to_string() }),
            code => {
                let explanation = explanation(response).await;
                let text = String::from_utf8_lossy(&explanation);
                let is_broker = matches!(code, 400 | 500) && BROKER_NOT_FOUND.iter().any(|known| text.contains(known));
                let beginning = beginning(&explanation);
                if is_broker && request.subject == Subject::Descriptor {
                    return Err(Fault::NotFound { answer: format!("{code} `{beginning}`") });
                }
                Err(Fault::Status { status: code, beginning })
            }
        }
    }
}

fn document(response: Response) -> Result<Document, Fault> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(encoding) = header("content-encoding").filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Fault::Encoded { encoding: beginning(encoding.as_bytes()) });
    }
    let media_type = header("content-type");
    let (url, stated) = (response.url().clone(), response.content_length());
    let body = response.bytes_stream().scan(0, move |received, chunk| {
        let chunk = chunk.inspect(|chunk| *received += length(chunk)).map_err(|error| Fault::Truncated {
            received: *received,
            stated,
            reason: reason(EgressError::from(error)),
        });
        std::future::ready(Some(chunk))
    });
    Ok(Document { url: Some(url), media_type, ..Document::from_stream(stated, body) })
}

/// The beginning of the body that explains a status; what cannot be had of it is left out.
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

/// What an error on the way out means for what was asked.
fn fault(url: &Url, error: EgressError) -> Fault {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    match error {
        // This URL itself was checked before, but for what its name resolves to.
        EgressError::Refused(refused) if refused.host() != host || ![0, port].contains(&refused.port()) => {
            Fault::Redirect { reason: format!("`{}:{}` is not of the same domain", refused.host(), refused.port()) }
        }
        EgressError::Redirect { problem, .. } => Fault::Redirect { reason: problem },
        EgressError::Refused(_) | EgressError::Invalid { .. } | EgressError::Config(_) => {
            Fault::Refused { reason: error.to_string() }
        }
        EgressError::NoSuchHost { host, .. } => Fault::NoSuchHost { host },
        EgressError::Tls { problem, .. } => Fault::Tls { reason: problem },
        _ => Fault::Unreachable { reason: reason(error) },
    }
}

/// What happened, without the URL, which stands beside it.
fn reason(error: EgressError) -> String {
    match error {
        EgressError::Http { problem, .. } | EgressError::Resolve { problem, .. } => problem,
        other => other.to_string(),
    }
}
