use std::sync::Arc;

use protostub_catalogue::CatalogueError;
use protostub_egress::{Explanation, Protection};
use protostub_types::{AddressError, Domain, StubKey};
use url::Url;

use crate::context::RuntimeContext;

/// Why the stub of a domain may, or may not, connect to a URL: [`Runtime::explain_egress`](crate::Runtime::explain_egress).
#[derive(Debug)]
#[non_exhaustive]
pub struct EgressExplanation {
    /// The verdict, rule by rule and address by address. Its text has a line for each.
    pub explanation: Explanation,
    /// Where the descriptor was found whose `ports` count; or why it could not be had: then only the usual ones do.
    pub descriptor: Result<Url, CatalogueError>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// Whose stub it is about cannot be told.
    #[error("failed to tell whose stub it is")]
    Target(#[from] AddressError),
    /// The URL has no host or port that a stub could connect to.
    #[error("`{url}` is nothing that a stub connects to: {problem}")]
    Url {
        /// The URL, without its query.
        url: String,
        /// What is missing.
        problem: &'static str,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShutDown,
}

/// A host, its port, and how it is spoken to.
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
        _ => return Err(wrong("its scheme is none of https, wss, tls, http, ws and tcp")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
    let port = url.port_or_known_default().ok_or_else(|| wrong("it has no port"))?;
    Ok((host.to_owned(), port, protection))
}

/// Asks for the stub's descriptor, as its deployment would, and explains its grants.
pub(crate) async fn explain(context: Arc<RuntimeContext>, key: StubKey, url: Url) -> Result<EgressExplanation, ExplainError> {
    let (host, port, protection) = target(&url)?;
    let discovered = context.catalogue.discover(&key).await;
    let ports = discovered.as_ref().map_or(&[][..], |discovered| discovered.descriptor.ports.as_slice());
    let domain: &Domain = key.domain();
    let grants = context.grants(domain, ports, context.config.settings(domain));
    let explanation = context.egress.explain(&grants, &host, port, protection).await;
    Ok(EgressExplanation { explanation, descriptor: discovered.map(|discovered| discovered.url) })
}
