use std::fmt;

use async_trait::async_trait;
use protostub_types::{Domain, SafeText, UniqueMap};

use super::{Credential, CredentialError, CredentialProvider, CredentialRequest};

/// Credentials that the host program has already, one for each domain.
#[derive(Default)]
pub struct StaticCredentials {
    by_domain: UniqueMap<Domain, Credential>,
}

impl StaticCredentials {
    /// Returns a provider without credentials: every stub connects without one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the credential for exactly this domain. Building a runtime fails for a domain that was
    /// given twice.
    #[must_use]
    pub fn with(mut self, domain: Domain, credential: Credential) -> Self {
        self.by_domain.add(domain, credential);
        self
    }
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_domain.iter().map(|(domain, _)| domain)).finish()
    }
}

#[async_trait]
impl CredentialProvider for StaticCredentials {
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        Ok(self.by_domain.get(request.domain).cloned())
    }

    fn check(&self) -> Result<(), CredentialError> {
        self.by_domain.check().map_err(|repeated| CredentialError::Failed(SafeText::display(repeated)))
    }
}
