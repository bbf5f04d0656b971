use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protostub_types::{Backoff, Domain, deadline};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Credential, CredentialError, CredentialProvider, CredentialRequest, Network};

/// How long is waited before a provider is asked again that failed for the moment, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Maximum of domains whose last error is remembered: a provider may fail for any domain.
const MAX_TOLD: usize = 1024;

/// What the providers know, asked in their order.
pub(crate) struct IdentityModule {
    providers: Vec<Arc<dyn CredentialProvider>>,
    network: Network,
    /// For how long what fails for the moment is tried again.
    patience: Duration,
    /// The last error of each domain, which is not logged again and again.
    told: Mutex<HashMap<Domain, CredentialError>>,
}

impl IdentityModule {
    pub(crate) fn new(providers: Vec<Arc<dyn CredentialProvider>>, network: Network, patience: Duration) -> Self {
        Self { providers, network, patience, told: Mutex::default() }
    }

    /// Whether there is nobody to ask for credentials.
    pub(crate) fn has_no_providers(&self) -> bool {
        self.providers.is_empty()
    }

    /// The credential for a domain, if one of the providers knows it: one that has not run out.
    pub(crate) async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let by = deadline(Instant::now(), self.patience);
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let answer = timeout_at(by, self.ask(domain, scope)).await.unwrap_or_else(|_| {
                let patience = self.patience.as_secs_f32();
                Err(CredentialError::Temporary(format!("no answer of the credential provider within {patience} s").into()))
            });
            self.tell(domain, &answer);
            let pause = pauses.next_pause();
            match &answer {
                Err(CredentialError::Temporary(_)) if Instant::now() + pause < by => sleep(pause).await,
                _ => return answer,
            }
        }
    }

    /// Nobody could log in with what was given for the domain.
    pub(crate) fn forget(&self, domain: &Domain) {
        self.providers.iter().for_each(|provider| provider.forget(domain));
    }

    async fn ask(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let request = CredentialRequest { domain, scope, network: &self.network };
        for provider in &self.providers {
            match provider.credential(&request).await? {
                None => {}
                Some(credential) if credential.is_expired() => {
                    let reason = format!("the credential for {domain} has run out: renew it where it stands");
                    return Err(CredentialError::Failed(reason.into()));
                }
                Some(credential) => return Ok(Some(credential)),
            }
        }
        Ok(None)
    }

    fn tell(&self, domain: &Domain, answer: &Result<Option<Credential>, CredentialError>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(None) => {}
            Ok(Some(credential)) => {
                told.remove(domain);
                drop(told);
                tracing::debug!(target: "protostub", %domain, ?credential, "a credential is handed out");
            }
            Err(error) => {
                if told.len() >= MAX_TOLD && !told.contains_key(domain) {
                    told.clear();
                }
                let is_new = told.insert(domain.clone(), error.clone()).as_ref() != Some(error);
                drop(told);
                if is_new {
                    tracing::warn!(target: "protostub", %domain, %error, "there is no credential for a domain that should have one");
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
