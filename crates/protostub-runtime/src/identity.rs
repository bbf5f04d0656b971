use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
pub use protostub_sandbox::{Credential, CredentialError, CredentialKind, CredentialSource};
use protostub_types::Domain;

/// Credentials that the host program knows already, one a domain: the simplest Identity Module.
#[derive(Default)]
pub struct StaticCredentials {
    by_domain: BTreeMap<Domain, Credential>,
}

impl StaticCredentials {
    /// None yet: every stub connects without a credential.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with the credential for exactly this domain.
    #[must_use]
    pub fn with(mut self, domain: Domain, credential: Credential) -> Self {
        self.by_domain.insert(domain, credential);
        self
    }
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_domain.keys()).finish()
    }
}

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credential(&self, domain: &Domain, _scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        Ok(self.by_domain.get(domain).cloned())
    }
}
