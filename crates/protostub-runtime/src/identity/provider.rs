use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use protostub_egress::{Egress, EgressError, Grants, HttpClient, Protection};
use protostub_types::{Domain, HookPanicked, SafeText};
use url::Url;

use super::{Credential, CredentialError};

/// A provider of credentials of domains. The Identity Module asks its providers in their order
/// ([`RuntimeBuilder::credentials`](crate::RuntimeBuilder::credentials)). The first provider that
/// knows the domain answers. A panic counts as a failure.
#[async_trait]
pub trait CredentialProvider: Send + Sync + 'static {
    /// Returns the credential for the request's domain. Returns `None` if the provider does not
    /// know the domain. The next provider is asked then.
    ///
    /// The provider is asked whenever a stub logs in or asks for a credential. A provider that
    /// fetches credentials over the network caches them, and renews them before they expire. An
    /// expired credential is never handed out.
    ///
    /// # Errors
    /// If the provider knows the domain, but has no credential. No other provider is asked then,
    /// and the stub does not connect. A [temporary](CredentialError::Temporary) failure is retried
    /// for a while. The texts are logged, so they must not contain a secret.
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError>;

    /// Tells the provider that the stub of this domain could not connect with its credential. A
    /// cached credential may be useless now, even before its expiry.
    fn forget(&self, domain: &Domain) {
        let _ = domain;
    }

    /// Checks the values that the provider was given, when a runtime is built with it.
    ///
    /// # Errors
    /// If the provider cannot be used, because a domain was given twice, for example.
    fn check(&self) -> Result<(), CredentialError> {
        Ok(())
    }
}

/// Returns the error of a provider that panicked.
pub(crate) fn provider_panicked(panicked: HookPanicked) -> CredentialError {
    CredentialError::Failed(SafeText::display(panicked))
}

/// A request to a [`CredentialProvider`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CredentialRequest<'a> {
    /// The domain whose credential is requested.
    pub domain: &'a Domain,
    /// The scope that the stub asks for, or `None` for the default. The provider decides which
    /// scope the stub gets. A scope is never blank: the host refuses a text that is not a scope by
    /// RFC 6749 section 3.3.
    pub scope: Option<&'a str>,
    /// Network access of providers.
    pub(crate) network: &'a Network,
}

/// Network access to the servers that the operator named: the runtime's own, with its roots and its
/// proxy.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) egress: Egress,
    /// Lets credentials come from endpoints that are loopback by their own name.
    pub(crate) allow_loopback: bool,
    /// Domains whose endpoints may be on this machine by any name.
    pub(crate) loopback: Arc<BTreeSet<Domain>>,
}

impl Network {
    /// Builds a client for the credential of `domain`. It reaches the server of this URL alone,
    /// over TLS unless the server is this machine.
    pub(crate) fn http(&self, domain: &Domain, url: &Url, allow_private: bool) -> Result<HttpClient, EgressError> {
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let is_loopback = || Domain::parse(host).is_ok_and(|host| host.is_loopback());
        let loopback = self.loopback.contains(domain) || (self.allow_loopback && is_loopback());
        let grants = Grants::none().allow_loopback(loopback).allow_private(allow_private);
        let grants = grants.allow_host(host, port, Protection::Tls).map_err(|error| EgressError::Config(error.to_string()))?;
        Ok(self.egress.http(&grants, self.egress.own()))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("allow_loopback", &self.allow_loopback).finish_non_exhaustive()
    }
}
