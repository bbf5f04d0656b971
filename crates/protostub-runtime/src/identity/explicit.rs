//! Explicit logins, and the credentials that a stub gets.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use protostub_sandbox::CredentialSource;
use protostub_types::{Domain, SafeText};

use super::{Credential, CredentialError, IdentityModule};

/// The credential of an explicit login. The stub keeps it until it expires, until the stub cannot
/// connect with it, or until the stub is undeployed.
#[derive(Debug, Default)]
pub(crate) struct ExplicitLogin(Mutex<Option<Credential>>);

impl ExplicitLogin {
    pub(crate) fn hold(&self, credential: Credential) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(credential);
    }

    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the credential, if there is one that has not expired.
    pub(crate) fn credential(&self) -> Option<Credential> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|credential| credential.is_expired());
        held.clone()
    }
}

/// The Identity Module, as the stub of one record sees it.
pub(crate) struct StubCredentials {
    pub(crate) module: Arc<IdentityModule>,
    pub(crate) login: Arc<ExplicitLogin>,
}

#[async_trait]
impl CredentialSource for StubCredentials {
    async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        if scope.is_none()
            && let Some(credential) = self.login.credential()
        {
            return Ok(Some(credential));
        }
        self.module.credential(domain, scope).await.map_err(|error| match error {
            refused @ CredentialError::Refused(_) => refused,
            // A stub must not learn where the operator keeps secrets.
            _ => CredentialError::Failed(SafeText::display(format_args!(
                "failed to get the credential for {domain}; the runtime's log has the cause"
            ))),
        })
    }
}
