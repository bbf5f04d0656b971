use std::{
    collections::HashMap,
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use protostub_types::OAuthScope;

use super::reference::CredentialUse;
use crate::{
    Credential, CredentialError,
    contract::{identity, types},
    recorder::Entry,
    state::StubState,
};

/// Maximum length of a scope, in bytes.
pub(super) const MAX_SCOPE_BYTES: usize = 4096;

type CredentialResult = Result<Option<Credential>, CredentialError>;

/// The requests of an instance to the Identity Module.
#[derive(Default)]
pub(crate) struct IdentityRequests {
    /// Answers by handle; `None` without an answer yet.
    answers: HashMap<u32, Option<CredentialResult>>,
    asked: FuturesUnordered<BoxFuture<'static, (u32, CredentialResult)>>,
}

impl IdentityRequests {
    /// Returns `true` if no request is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Returns the next request that was answered.
    pub(crate) fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        if self.asked.is_empty() {
            return Poll::Pending;
        }
        match self.asked.poll_next_unpin(cx) {
            Poll::Ready(Some((handle, answer))) => {
                self.answers.insert(handle, Some(answer));
                Poll::Ready(handle)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl StubState {
    fn request_credential(&mut self, scope: Option<String>) -> Result<u32, types::Error> {
        if self.credential_use() == CredentialUse::ByReference {
            return Err(types::Error::Denied(format!(
                "the credential of {} is used by reference only; send `authorization: {{credential}}` to an origin that the operator allows",
                self.config.domain
            )));
        }
        let limit = self.config.limits.identity_requests;
        if self.identity.answers.len() >= limit {
            self.count_limit("identity_requests");
            return Err(types::Error::Limit(format!("{limit} requests are open, which is the limit; take an answer first")));
        }
        if let Some(bytes) = scope.as_ref().map(String::len).filter(|bytes| *bytes > MAX_SCOPE_BYTES) {
            return Err(types::Error::Limit(format!("the scope has {bytes} bytes, and the limit is {MAX_SCOPE_BYTES}")));
        }
        // A provider might treat a blank scope as the default, and answer with every right of the
        // client.
        if let Some(Err(error)) = scope.as_deref().map(OAuthScope::parse) {
            return Err(types::Error::Denied(error.to_string()));
        }
        let handle = self.handles.next()?;
        let source = std::sync::Arc::clone(&self.services.credentials);
        let domain = self.config.domain.clone();
        self.identity.answers.insert(handle, None);
        self.identity.asked.push(Box::pin(async move { (handle, source.credential(&domain, scope.as_deref()).await) }));
        Ok(handle)
    }

    fn take_credential(&mut self, request: u32) -> Result<types::WitCredential, types::Error> {
        match self.identity.answers.remove(&request) {
            None => Err(types::Error::Closed),
            Some(None) => {
                self.identity.answers.insert(request, None);
                Err(types::Error::Busy)
            }
            Some(Some(Ok(Some(credential)))) if credential.is_expired() => Err(types::Error::Denied(format!(
                "the credential for {} expired before the stub took it; ask again",
                self.config.domain
            ))),
            Some(Some(Ok(Some(credential)))) => {
                self.secrets.hold(&credential);
                Ok(credential.into())
            }
            Some(Some(Ok(None))) => {
                Err(types::Error::Denied(format!("the Identity Module has no credential for {}", self.config.domain)))
            }
            Some(Some(Err(error))) => Err(types::Error::Denied(error.to_string())),
        }
    }
}

impl identity::Host for StubState {
    fn request(&mut self, scope: Option<String>) -> Result<u32, types::Error> {
        let requested = self.request_credential(scope);
        self.record(&Entry::call("identity.request").opened(&requested));
        requested
    }

    fn take(&mut self, request: u32) -> Result<types::WitCredential, types::Error> {
        let taken = self.take_credential(request);
        self.record(&Entry::call("identity.take").handle(request).result(&taken));
        taken
    }
}
