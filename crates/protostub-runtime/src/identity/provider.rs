use std::fmt;

use async_trait::async_trait;
use protostub_egress::{Egress, EgressError, Grants, HttpClient};
use protostub_types::Domain;
use url::Url;

use super::{Credential, CredentialError};

/// Who has credentials of domains. The Identity Module asks its providers in their order
/// ([`RuntimeBuilder::credentials`](crate::RuntimeBuilder::credentials)); the first that knows the domain answers.
#[async_trait]
pub trait CredentialProvider: Send + Sync + 'static {
    /// The credential for the request's domain; none: the provider knows nothing of it, and the next one is asked.
    ///
    /// It is asked whenever a stub logs in or asks for a credential: whoever gets credentials from afar keeps them, and renews them before they
    /// run out. What has run out is not handed out.
    ///
    /// # Errors
    /// If the provider knows the domain, and has no credential all the same. Nobody else is asked then, and the stub does not connect. What is
    /// [temporary](CredentialError::Temporary) is tried again for a while. The texts are logged: no secret may stand in them.
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError>;

    /// The stub of this domain could not connect with what it was given: what is kept for the domain may be of no use any more, however long
    /// it was to last.
    fn forget(&self, domain: &Domain) {
        let _ = domain;
    }
}

/// What a [`CredentialProvider`] is asked for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CredentialRequest<'a> {
    /// Whose credential.
    pub domain: &'a Domain,
    /// For what, as the domain understands it (RFC 6749 section 3.3); none: the default. It is the stub's wish: what it may have is for the
    /// provider to say.
    pub scope: Option<&'a str>,
    /// How providers get out.
    pub(crate) network: &'a Network,
}

/// The way to the servers that the operator named: the runtime's own, with its roots and its proxy.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) egress: Egress,
    pub(crate) allow_loopback: bool,
}

impl Network {
    /// A client that reaches the server of this URL, and no other: over TLS, unless it is this machine.
    pub(crate) fn http(&self, url: &Url, allow_private: bool) -> Result<HttpClient, EgressError> {
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let grants = Grants::none().allow_loopback(self.allow_loopback).allow_private(allow_private);
        let grants = grants.allow_host(host, port, false).map_err(|error| EgressError::Config(error.to_string()))?;
        Ok(self.egress.http(&grants, self.egress.own()))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("allow_loopback", &self.allow_loopback).finish_non_exhaustive()
    }
}
