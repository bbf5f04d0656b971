use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protostub_types::{Backoff, Domain, await_hook, call_hook, deadline};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Credential, CredentialError, CredentialProvider, CredentialRequest, Network, provider_panicked};

/// First and longest pause before a provider with a temporary failure is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of domains whose last error is remembered: a provider may fail for any domain.
const MAX_LAST_ERRORS: usize = 1024;

/// The credentials of the providers, which are asked in their order.
pub(crate) struct IdentityModule {
    providers: Vec<Arc<dyn CredentialProvider>>,
    network: Network,
    /// Time during which temporary failures are retried.
    retry_for: Duration,
    /// The last error of each domain. An error is logged only when it changes.
    last_errors: Mutex<HashMap<Domain, CredentialError>>,
}

impl IdentityModule {
    pub(crate) fn new(providers: Vec<Arc<dyn CredentialProvider>>, network: Network, retry_for: Duration) -> Self {
        Self { providers, network, retry_for, last_errors: Mutex::default() }
    }

    /// Returns `true` if there is no provider.
    pub(crate) fn has_no_providers(&self) -> bool {
        self.providers.is_empty()
    }

    /// Returns the credential for a domain, if a provider knows the domain. The credential has not
    /// expired.
    pub(crate) async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let by = deadline(Instant::now(), self.retry_for);
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let answer = timeout_at(by, self.ask(domain, scope)).await.unwrap_or_else(|_| {
                let retry_for = self.retry_for.as_secs_f32();
                Err(CredentialError::Temporary(format!("the credential provider did not answer within {retry_for} s").into()))
            });
            self.log_answer(domain, &answer);
            let pause = pauses.next_pause();
            match &answer {
                Err(CredentialError::Temporary(_)) if Instant::now() + pause < by => sleep(pause).await,
                _ => return answer,
            }
        }
    }

    /// Tells the providers that the stub could not log in with the domain's credential.
    pub(crate) fn forget(&self, domain: &Domain) {
        for provider in &self.providers {
            if let Err(panicked) = call_hook("CredentialProvider::forget", || provider.forget(domain)) {
                tracing::error!(target: "protostub", %domain, error = %panicked, "a credential provider failed");
            }
        }
    }

    async fn ask(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let request = CredentialRequest { domain, scope, network: &self.network };
        for provider in &self.providers {
            let asked = await_hook("CredentialProvider::credential", || provider.credential(&request)).await;
            match asked.map_err(provider_panicked)?? {
                None => {}
                Some(credential) if credential.is_expired() => {
                    let reason = format!("the credential for {domain} has expired; renew it at its source");
                    return Err(CredentialError::Failed(reason.into()));
                }
                Some(credential) => return Ok(Some(credential)),
            }
        }
        Ok(None)
    }

    fn log_answer(&self, domain: &Domain, answer: &Result<Option<Credential>, CredentialError>) {
        let mut last_errors = self.last_errors.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(None) => {}
            Ok(Some(credential)) => {
                last_errors.remove(domain);
                drop(last_errors);
                tracing::debug!(target: "protostub", %domain, ?credential, "handed out a credential");
            }
            Err(error) => {
                if last_errors.len() >= MAX_LAST_ERRORS && !last_errors.contains_key(domain) {
                    last_errors.clear();
                }
                let is_new = last_errors.insert(domain.clone(), error.clone()).as_ref() != Some(error);
                drop(last_errors);
                if is_new {
                    tracing::warn!(target: "protostub", %domain, %error, "failed to get the credential for a domain that should have one");
                }
            }
        }
    }
}

impl fmt::Debug for IdentityModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityModule").field("providers", &self.providers.len()).finish_non_exhaustive()
    }
}
