use std::collections::BTreeMap;

use async_trait::async_trait;
use protostub_types::Domain;

use super::{Credential, CredentialError, CredentialKind, CredentialProvider, CredentialRequest, Secret};

/// Credentials that stand in environment variables. No other part of the library reads any, and this one only those of the domains that it is told.
///
/// The variable of a domain is `PROTOSTUB_CREDENTIAL_` and the domain in capitals, its dots as `_`, hyphens as `__`, and the colon before a
/// port as `___`:
///
/// ```
/// # use protostub_runtime::{Domain, EnvironmentCredentials};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let name = EnvironmentCredentials::variable(&Domain::parse("my-chat.example:8443")?);
/// assert_eq!(name, "PROTOSTUB_CREDENTIAL_MY__CHAT_EXAMPLE___8443");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct EnvironmentCredentials {
    by_domain: BTreeMap<Domain, (CredentialKind, Secret)>,
}

impl EnvironmentCredentials {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with the secret of exactly this domain in the [variable](Self::variable) that is named after it.
    #[must_use]
    pub fn with(self, domain: Domain, kind: CredentialKind) -> Self {
        let variable = Self::variable(&domain);
        self.with_variable(domain, kind, variable)
    }

    /// The same, with the secret of exactly this domain in a variable with this name.
    #[must_use]
    pub fn with_variable(mut self, domain: Domain, kind: CredentialKind, variable: impl Into<String>) -> Self {
        self.by_domain.insert(domain, (kind, Secret::environment(variable)));
        self
    }

    /// The name of a domain's variable.
    #[must_use]
    pub fn variable(domain: &Domain) -> String {
        let mut name = "PROTOSTUB_CREDENTIAL_".to_owned();
        for character in domain.as_str().chars() {
            match character {
                '-' => name.push_str("__"),
                ':' => name.push_str("___"),
                character if character.is_ascii_alphanumeric() => name.push(character.to_ascii_uppercase()),
                _ => name.push('_'),
            }
        }
        name
    }
}

#[async_trait]
impl CredentialProvider for EnvironmentCredentials {
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        let Some((kind, secret)) = self.by_domain.get(request.domain) else { return Ok(None) };
        Ok(Some(Credential { kind: kind.clone(), value: secret.read().await?, expires: None }))
    }
}
