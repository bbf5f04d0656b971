//! Fetching of the code that a descriptor names.

use std::sync::Arc;

use protostub_types::{Domain, Sha256Digest, SourceLocation};
use tracing::debug;
use url::Url;

use super::{CatalogueInner, Discovered, Provenance};
use crate::{
    Attempt, CatalogueError, Download, Fault, Held, Request, Subject, VerifiedComponent,
    component::length,
    receive::{Limits, Received, Tell, receive},
};

impl CatalogueInner {
    /// Implements [`Catalogue::fetch`](super::Catalogue::fetch).
    pub(super) async fn fetch(&self, discovered: &Discovered) -> Result<VerifiedComponent, CatalogueError> {
        let mut url = discovered.url.clone();
        let outcome = self.fetch_from(discovered, &mut url).await;
        outcome.map_err(|fault| {
            let attempt = Attempt { url: url.as_str().into(), fault };
            CatalogueError::new(Subject::Component, discovered.key.domain().clone(), Vec::new(), attempt)
        })
    }

    /// Fetches the component. `url` becomes the URL that was asked last.
    async fn fetch_from(&self, discovered: &Discovered, url: &mut Url) -> Result<VerifiedComponent, Fault> {
        let descriptor = &discovered.descriptor;
        let location = descriptor.source_location(&discovered.url)?;
        if let SourceLocation::Url(location) = &location {
            url.clone_from(location);
        }
        let limit = self.check_stated(discovered, &location)?;
        let known = descriptor.digest().or(discovered.component.filter(|_| discovered.provenance != Provenance::Asked));
        if let (Some(store), Some(digest)) = (&self.store, known)
            && let Some(bytes) = store.load(digest, discovered.key.domain(), limit.bytes).await
        {
            debug!(%digest, "the component is in the store");
            self.config.trust.check_component(digest)?;
            return Ok(VerifiedComponent::from_store(bytes, digest, descriptor.digest().is_some()));
        }
        let (bytes, digest, memory) = match &location {
            SourceLocation::Inline => {
                let bytes = descriptor.source_package.as_ref().map_or(Ok(Vec::new()), |package| package.decode())?;
                limit.check(Some(length(bytes.len())))?;
                let digest = Sha256Digest::of(&bytes);
                (bytes.into(), digest, None)
            }
            SourceLocation::Url(url) => {
                let received = self.download(discovered, url, limit).await?;
                (received.bytes, received.digest, received.memory)
            }
        };
        let component = VerifiedComponent::verify(descriptor, bytes, digest, memory)?;
        self.config.trust.check_component(component.digest())?;
        if let Some(store) = &self.store {
            store.save(component.digest(), discovered.key.domain(), component.bytes().clone()).await;
            if let Some(copies) = self.copies.as_ref().filter(|_| !component.is_pinned()) {
                copies.came_with(&discovered.asked, descriptor, component.digest()).await;
            }
        }
        Ok(component)
    }

    /// Checks the descriptor's statements about its component. Returns the limits for the component
    /// itself.
    fn check_stated(&self, discovered: &Discovered, location: &SourceLocation) -> Result<Limits, Fault> {
        let limit = Limits {
            bytes: self.config.component_bytes(discovered.key.domain()),
            setting: "component-bytes",
            total: self.config.component_timeout,
        };
        self.check_source(discovered, location)?;
        limit.check(discovered.descriptor.size())?;
        if let Some(digest) = discovered.descriptor.digest() {
            self.config.trust.check_component(digest)?;
        }
        Ok(limit)
    }

    /// Implements [`Catalogue::admits`](super::Catalogue::admits).
    pub(super) fn admits(&self, discovered: &Discovered, bytes: usize) -> bool {
        let descriptor = &discovered.descriptor;
        let bytes = u64::try_from(bytes).ok();
        let is_as_stated = descriptor.digest().is_some() && descriptor.size().is_none_or(|size| Some(size) == bytes);
        let location = descriptor.source_location(&discovered.url);
        let limit = location.ok().and_then(|location| self.check_stated(discovered, &location).ok());
        is_as_stated && limit.is_some_and(|limit| limit.check(bytes).is_ok())
    }

    /// Downloads the code at this URL, from the source of the descriptor, or else from the network:
    /// a local descriptor may name code elsewhere.
    async fn download(&self, discovered: &Discovered, url: &Url, limits: Limits) -> Result<Received, Fault> {
        let Discovered { key, publisher, source, .. } = discovered;
        let tell = |download| {
            if let Some(progress) = &self.config.progress {
                progress.download(key, download);
            }
        };
        let tell: &Tell<'_> = &tell;
        let request = Request { subject: Subject::Component, domain: publisher, url, held: Held::Nothing };
        let mut outcome = receive(source.as_ref(), request, &self.config, limits, tell).await;
        let network = self.network.as_ref().filter(|network| !Arc::ptr_eq(network, source));
        if let (Err(fault), Some(network)) = (&outcome, network)
            && fault.is_not_found()
        {
            outcome = receive(network.as_ref(), request, &self.config, limits, tell).await;
        }
        tell(outcome.as_ref().map_or(Download::Failed, |received| Download::Received { bytes: length(received.bytes.len()) }));
        outcome
    }

    /// Checks the location of the code. Code without a digest has to come from the domain itself.
    /// After a descriptor over TLS, the code needs TLS, too.
    fn check_source(&self, discovered: &Discovered, location: &SourceLocation) -> Result<(), Fault> {
        let Discovered { key, descriptor, publisher, .. } = discovered;
        let mut is_elsewhere = false;
        if let SourceLocation::Url(url) = location {
            let host = url.host_str().and_then(|host| Domain::parse(host).ok());
            is_elsewhere = host.as_ref().is_none_or(|host| !host.is_within(publisher));
            let may_be_plain = self.config.allow_http
                || (publisher.is_loopback()
                    && self.config.reaches_loopback(publisher)
                    && host.as_ref().is_some_and(Domain::is_loopback));
            if url.scheme() != "https" && !may_be_plain {
                let reason = "code has to come over HTTPS; publish it at an https URL, or set `allow-http`".to_owned();
                return Err(Fault::Refused { reason: reason.into() });
            }
        }
        match descriptor.digest() {
            Some(_) => Ok(()),
            None if is_elsewhere => {
                let reason = format!("code that is not at {publisher} itself needs a digest");
                Err(Fault::NoDigest { reason: reason.into() })
            }
            None if self.config.unpinned.contains(key.domain()) => Ok(()),
            None => {
                let reason = format!("the domain has to publish it, or the operator to set `waive-digest` for {}", key.domain());
                Err(Fault::NoDigest { reason: reason.into() })
            }
        }
    }
}
