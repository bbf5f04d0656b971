use async_trait::async_trait;
use protostub_types::{Domain, RepeatedKey, SafeText, UniqueMap};

use super::{Credential, CredentialError, CredentialKind, CredentialProvider, CredentialRequest, Secret};

/// Credentials in environment variables. The rest of the library reads no environment variables.
/// This provider reads only those of its domains.
///
/// The variable of a domain is `PROTOSTUB_CREDENTIAL_` and the domain in capitals. A dot becomes
/// `_`, a hyphen `__`, and the colon before a port `___`. Two domains can share a variable that
/// way: `a_b.example` and `a.b.example`. Building a runtime then fails, as for a domain that was
/// given twice.
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
    by_domain: UniqueMap<Domain, (CredentialKind, Secret)>,
    /// The domains whose variable is named after them, each inserted under its own spelling.
    by_variable: UniqueMap<String, ()>,
    /// A variable that two domains share.
    shared: Option<RepeatedKey>,
}

impl EnvironmentCredentials {
    /// Returns a provider without credentials.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds exactly this domain. Its secret is in the [variable](Self::variable) that is named
    /// after it.
    #[must_use]
    pub fn with(mut self, domain: Domain, kind: CredentialKind) -> Self {
        let variable = Self::variable(&domain);
        let inserted = self.by_variable.insert(domain.as_str(), variable.clone(), ());
        self.shared = self.shared.take().or(inserted.err());
        self.with_variable(domain, kind, variable)
    }

    /// Adds exactly this domain. Its secret is in the variable with this name.
    #[must_use]
    pub fn with_variable(mut self, domain: Domain, kind: CredentialKind, variable: impl Into<String>) -> Self {
        self.by_domain.add(domain, (kind, Secret::environment(variable)));
        self
    }

    /// Returns the name of a domain's variable.
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

    fn check(&self) -> Result<(), CredentialError> {
        let repeated = self.by_domain.check().and_then(|()| self.shared.clone().map_or(Ok(()), Err));
        repeated.map_err(|repeated| CredentialError::Failed(SafeText::display(repeated)))
    }
}
