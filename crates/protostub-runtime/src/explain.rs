use std::sync::Arc;

use protostub_catalogue::CatalogueError;
use protostub_egress::{Explanation, Protection};
use protostub_types::{AddressError, Domain, StubKey};
use url::Url;

use crate::context::RuntimeContext;

/// The reasons why the stub of a domain may, or may not, connect to a URL:
/// [`Runtime::explain_egress`](crate::Runtime::explain_egress).
#[derive(Debug)]
#[non_exhaustive]
pub struct EgressExplanation {
    /// The verdict for each rule and each address. Its text has a line for each.
    pub explanation: Explanation,
    /// The URL of the descriptor that states the stub's `ports`, or the error of its lookup. After
    /// an error, only the usual ports count.
    pub descriptor: Result<Url, CatalogueError>,
}

/// The error of an explanation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The target does not name a stub.
    #[error("failed to find the domain of the stub")]
    Target(#[from] AddressError),
    /// The URL has no scheme, host or port that a stub could connect to.
    #[error("a stub cannot connect to `{url}`: {problem}")]
    Url {
        /// The URL, without its query.
        url: String,
        /// The fault of the URL.
        problem: &'static str,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShutDown,
}

/// Returns the host of a URL, its port, and the protection of the connection.
fn target(url: &Url) -> Result<(String, u16, Protection), ExplainError> {
    let wrong = |problem| {
        let mut shown = url.clone();
        shown.set_query(None);
        let _ = shown.set_password(None);
        ExplainError::Url { url: shown.into(), problem }
    };
    let protection = match url.scheme() {
        "https" | "wss" | "tls" => Protection::Tls,
        "http" | "ws" | "tcp" => Protection::Plain,
        _ => return Err(wrong("the scheme is not one of https, wss, tls, http, ws and tcp")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the URL has no host"))?;
    let port = url.port_or_known_default().ok_or_else(|| wrong("the URL has no port"))?;
    Ok((host.to_owned(), port, protection))
}

/// Asks for the stub's descriptor as a deployment does, and explains the stub's grants.
pub(crate) async fn explain(context: Arc<RuntimeContext>, key: StubKey, url: Url) -> Result<EgressExplanation, ExplainError> {
    let (host, port, protection) = target(&url)?;
    let discovered = context.catalogue.discover(&key).await;
    let ports = discovered.as_ref().map_or(&[][..], |discovered| discovered.descriptor.ports.as_slice());
    let domain: &Domain = key.domain();
    let grants = context.grants(domain, ports, context.config.settings(domain));
    let explanation = context.egress.explain(&grants, &host, port, protection).await;
    Ok(EgressExplanation { explanation, descriptor: discovered.map(|discovered| discovered.url) })
}
