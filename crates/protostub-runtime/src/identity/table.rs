use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use protostub_types::Domain;

use super::{Credential, CredentialError, CredentialProvider, CredentialRequest};

/// Credentials that the host program knows already, one a domain.
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
impl CredentialProvider for StaticCredentials {
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        Ok(self.by_domain.get(request.domain).cloned())
    }
}
