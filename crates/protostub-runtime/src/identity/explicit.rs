//! Explicit logins, and the credentials that a stub gets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use protostub_sandbox::CredentialSource;
use protostub_types::{Domain, SafeText};

use super::{Credential, CredentialError, IdentityModule};

/// The credential of an explicit login. The stub keeps it until it expires, until the stub cannot
/// connect with it, or until the stub is undeployed.
#[derive(Debug, Default)]
pub(crate) struct ExplicitLogin(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    credential: Credential,
    /// `true` once the stub was live with the credential.
    is_trusted: bool,
}

impl ExplicitLogin {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // The lock is held for single assignments only, so a poisoned one is valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(&self, credential: Credential) {
        let mut held = self.held();
        if held.as_ref().is_none_or(|held| held.credential != credential) {
            *held = Some(Held { credential, is_trusted: false });
        }
    }

    pub(crate) fn forget(&self) {
        *self.held() = None;
    }

    /// Forgets this credential, if the stub keeps it and was never live with it.
    pub(crate) fn forget_untrusted(&self, credential: &Credential) {
        self.held().take_if(|held| !held.is_trusted && held.credential == *credential);
    }

    /// Notes that the stub was live with this credential.
    pub(crate) fn trust(&self, credential: &Credential) {
        if let Some(held) = self.held().as_mut().filter(|held| held.credential == *credential) {
            held.is_trusted = true;
        }
    }

    /// Returns `true` if the stub keeps this credential, and was live with it.
    pub(crate) fn trusts(&self, credential: &Credential) -> bool {
        self.held().as_ref().is_some_and(|held| held.is_trusted && held.credential == *credential)
    }

    /// Returns the credential, if there is one that has not expired.
    pub(crate) fn credential(&self) -> Option<Credential> {
        let mut held = self.held();
        held.take_if(|held| held.credential.is_expired());
        held.as_ref().map(|held| held.credential.clone())
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
