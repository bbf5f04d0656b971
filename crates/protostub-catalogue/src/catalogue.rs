use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use protostub_egress::Egress;
use protostub_types::{Descriptor, Domain, Sha256Digest, SourceLocation, StubKey};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::debug;
use url::Url;

use crate::{
    Attempt, CatalogueConfig, CatalogueError, Document, Download, Fault, HttpsSource, Request, Source, StoreError, Subject,
    VerifiedComponent, component::length, error::beginning, store::Store, well_known,
};

/// The longest time between two attempts, before chance extends it.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// How many domains are remembered for having served a descriptor of their own.
const MAX_SERVED: usize = 65_536;
/// How much memory is reserved at once for what is announced, in bytes; more only as it comes.
const MAX_RESERVED: u64 = 1024 * 1024;

/// Finds descriptors and components, and verifies them. Cloning is cheap; all clones share what they know.
///
/// ```
/// use std::sync::Arc;
///
/// use protostub_catalogue::{Catalogue, CatalogueConfig, MemorySource};
/// use protostub_egress::{Egress, EgressConfig};
/// use protostub_types::{Descriptor, Domain, StubKey, Version};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (home, sp1) = (Domain::parse("home.example")?, Domain::parse("sp1.example")?);
/// let component = b"\0asm...";
/// let mut descriptor = Descriptor::new("echo", Version::parse("1.0")?);
/// descriptor.refer("echo.wasm", component);
/// let source = MemorySource::new();
/// source.insert(&sp1, "default", descriptor.to_json(), component.as_slice());
///
/// let egress = Egress::new(EgressConfig::default())?;
/// let catalogue = Catalogue::new(CatalogueConfig::new(home), egress, vec![Arc::new(source)])?;
/// let discovered = catalogue.discover(&StubKey::Domain(sp1)).await?;
/// assert_eq!(discovered.url.as_str(), "https://sp1.example/.well-known/protostub/default");
/// let verified = catalogue.fetch(&discovered).await?;
/// assert_eq!(verified.digest(), descriptor.digest().unwrap());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Catalogue {
    inner: Arc<Inner>,
}

struct Inner {
    config: CatalogueConfig,
    /// In the order in which they are asked; the network last.
    sources: Vec<Arc<dyn Source>>,
    network: Option<Arc<dyn Source>>,
    store: Option<Store>,
    /// Domains that have served a descriptor of their own: the home domain is not asked for theirs any more.
    served: Mutex<HashSet<Domain>>,
}

/// A stub's descriptor, and where it was found.
#[derive(Clone)]
#[non_exhaustive]
pub struct Discovered {
    /// Which stub it is.
    pub key: StubKey,
    /// What was found; [`Descriptor::check_deployable`] holds.
    pub descriptor: Descriptor,
    /// Where it was found; what it says relative, is relative to this.
    pub url: Url,
    /// Who published it: the domain of the key, or the home domain for one that publishes none.
    pub publisher: Domain,
    source: Arc<dyn Source>,
}

/// A document that came whole.
struct Received {
    bytes: Bytes,
    digest: Sha256Digest,
    url: Option<Url>,
    media_type: Option<String>,
}

/// Who is told how far a document is.
type Tell<'a> = dyn Fn(Download) + Sync + 'a;

/// What a document may be like.
#[derive(Clone, Copy)]
struct Limits {
    bytes: usize,
    setting: &'static str,
    total: Duration,
}

impl Catalogue {
    /// A catalogue that asks `sources` in this order and then, unless it is turned off, the network.
    ///
    /// # Errors
    /// If the folder for components cannot be made.
    pub fn new(config: CatalogueConfig, egress: Egress, sources: Vec<Arc<dyn Source>>) -> Result<Self, StoreError> {
        let store = config.cache_dir.as_deref().map(Store::open).transpose()?;
        let network = config.network.then(|| Arc::new(HttpsSource::new(egress, &config)) as Arc<dyn Source>);
        Ok(Self { inner: Arc::new(Inner { config, sources, network, store, served: Mutex::default() }) })
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &CatalogueConfig {
        &self.inner.config
    }

    /// Steps 4 and 5: the descriptor of a stub, from `https://<domain>/.well-known/protostub/<name>`, or `…/protocolstub/<name>`.
    ///
    /// If the domain does not exist, or has no such stub, the home domain is asked for one that is named after the domain; never after
    /// another fault, and never if the domain has served its own before.
    ///
    /// # Errors
    /// If there is none ([`CatalogueError::is_not_found`]), it could not be had, or it is not one that can be deployed.
    pub async fn discover(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        self.inner.discover(key).await
    }

    /// Steps 6 and 7: the component that a descriptor names. One that is in the store is not downloaded again.
    ///
    /// # Errors
    /// If it could not be had, or is not what the descriptor promises.
    pub async fn fetch(&self, discovered: &Discovered) -> Result<VerifiedComponent, CatalogueError> {
        self.inner.fetch(discovered).await
    }
}

impl Inner {
    async fn discover(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        let domain = key.domain();
        let mut asked = Vec::new();
        if let Some(found) = self.ask(key, domain, &key.descriptor_name(), &mut asked).await? {
            self.remember_served(domain);
            return Ok(found);
        }
        if let Some(name) = well_known::fallback_name(key).filter(|_| *domain != self.config.home && !self.has_served(domain)) {
            debug!(%domain, home = %self.config.home, "the domain publishes no stub; asking the home domain for one");
            if let Some(found) = self.ask(key, &self.config.home, &name, &mut asked).await? {
                return Ok(found);
            }
        }
        Err(self.vain(key, asked))
    }

    /// Asks every source for the stub of this name that `publisher` publishes. None if none has it.
    async fn ask(
        &self,
        key: &StubKey,
        publisher: &Domain,
        name: &str,
        asked: &mut Vec<Attempt>,
    ) -> Result<Option<Discovered>, CatalogueError> {
        let urls = self.well_known_urls(publisher, name);
        for source in self.sources.iter().chain(&self.network) {
            for url in &urls {
                let fault = match self.descriptor(source.as_ref(), publisher, url).await {
                    Ok((descriptor, url)) => {
                        debug!(%url, version = %descriptor.version, "found a descriptor");
                        let (key, publisher) = (key.clone(), publisher.clone());
                        return Ok(Some(Discovered { key, descriptor, url, publisher, source: Arc::clone(source) }));
                    }
                    Err(fault) => fault,
                };
                debug!(%url, %fault, "found no descriptor");
                let (is_not_found, is_no_host) = (fault.is_not_found(), matches!(fault, Fault::NoSuchHost { .. }));
                // That a local source has nothing is worth telling only where nobody else is asked.
                let is_last = self.network.as_ref().is_none_or(|network| Arc::ptr_eq(network, source));
                if is_last || !is_not_found {
                    asked.push(Attempt { url: url.to_string(), fault });
                }
                if !is_not_found {
                    return Err(self.vain(key, std::mem::take(asked)));
                }
                if is_no_host {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Both spellings; none if there can be no stub of this name.
    fn well_known_urls(&self, publisher: &Domain, name: &str) -> Vec<Url> {
        if !well_known::is_name(name) {
            return Vec::new();
        }
        let is_plain = self.config.allow_http || (self.config.allow_loopback && well_known::is_loopback(publisher));
        let scheme = if is_plain { "http" } else { "https" };
        well_known::SPELLINGS.iter().filter_map(|spelling| well_known::url(scheme, publisher, spelling, name)).collect()
    }

    async fn descriptor(&self, source: &dyn Source, domain: &Domain, url: &Url) -> Result<(Descriptor, Url), Fault> {
        let limits = Limits {
            bytes: self.config.max_descriptor_bytes,
            setting: "max_descriptor_bytes",
            total: self.config.descriptor_timeout,
        };
        let received = self.read(source, Request { subject: Subject::Descriptor, domain, url }, limits, &|_| ()).await?;
        let start = received.bytes.trim_ascii_start();
        match Descriptor::parse(&received.bytes) {
            Ok(descriptor) => {
                descriptor.check_deployable()?;
                Ok((descriptor, received.url.unwrap_or_else(|| url.clone())))
            }
            Err(error) if start.starts_with(b"{") || start.starts_with(b"[") || error.path() != "$" => Err(error.into()),
            Err(_) => Err(Fault::NotJson { what: received.what(), beginning: beginning(&received.bytes) }),
        }
    }

    async fn fetch(&self, discovered: &Discovered) -> Result<VerifiedComponent, CatalogueError> {
        let mut url = discovered.url.clone();
        let outcome = self.fetch_from(discovered, &mut url).await;
        outcome.map_err(|fault| {
            let attempt = Attempt { url: url.into(), fault };
            CatalogueError::new(Subject::Component, discovered.key.domain().clone(), Vec::new(), attempt)
        })
    }

    /// `url` becomes what was asked last.
    async fn fetch_from(&self, discovered: &Discovered, url: &mut Url) -> Result<VerifiedComponent, Fault> {
        let descriptor = &discovered.descriptor;
        let limit = Limits {
            bytes: self.config.max_component_bytes,
            setting: "max_component_bytes",
            total: self.config.component_timeout,
        };
        let location = descriptor.source_location(&discovered.url)?;
        if let SourceLocation::Url(location) = &location {
            url.clone_from(location);
        }
        self.check_source(discovered, &location)?;
        limit.check(descriptor.size())?;
        if let (Some(store), Some(digest)) = (&self.store, descriptor.digest())
            && let Some(bytes) = store.load(digest, limit.bytes).await
        {
            debug!(%digest, "the component is in the store");
            return Ok(VerifiedComponent::from_store(bytes, digest));
        }
        let (bytes, digest) = match &location {
            SourceLocation::Inline => {
                let bytes = descriptor.source_package.as_ref().map_or(Ok(Vec::new()), |package| package.decode())?;
                limit.check(Some(length(&bytes)))?;
                let digest = Sha256Digest::of(&bytes);
                (bytes.into(), digest)
            }
            SourceLocation::Url(url) => {
                let received = self.download(discovered, url, limit).await?;
                (received.bytes, received.digest)
            }
        };
        let component = VerifiedComponent::verify(descriptor, bytes, digest)?;
        if let Some(store) = &self.store {
            store.save(component.digest(), component.bytes().clone()).await;
        }
        Ok(component)
    }

    /// What is at this URL, if the source of the descriptor has it, or else the network: a local descriptor may name code elsewhere.
    async fn download(&self, discovered: &Discovered, url: &Url, limits: Limits) -> Result<Received, Fault> {
        let Discovered { key, publisher, source, .. } = discovered;
        let tell = |download| {
            if let Some(progress) = &self.config.progress {
                progress.download(key, download);
            }
        };
        let request = Request { subject: Subject::Component, domain: publisher, url };
        let mut outcome = self.read(source.as_ref(), request, limits, &tell).await;
        let network = self.network.as_ref().filter(|network| !Arc::ptr_eq(network, source));
        if let (Err(fault), Some(network)) = (&outcome, network)
            && fault.is_not_found()
        {
            outcome = self.read(network.as_ref(), request, limits, &tell).await;
        }
        tell(outcome.as_ref().map_or(Download::Failed, |received| Download::Received { bytes: length(&received.bytes) }));
        outcome
    }

    /// Whether the code may come from there: what a digest does not bind has to come from the domain itself, and nothing that was described
    /// over TLS comes without it.
    fn check_source(&self, discovered: &Discovered, location: &SourceLocation) -> Result<(), Fault> {
        let Discovered { key, descriptor, publisher, .. } = discovered;
        let mut is_elsewhere = false;
        if let SourceLocation::Url(url) = location {
            let host = url.host_str().and_then(|host| Domain::parse(host).ok());
            is_elsewhere = host.as_ref().is_none_or(|host| !host.is_within(publisher));
            let may_be_plain = self.config.allow_http
                || (self.config.allow_loopback
                    && well_known::is_loopback(publisher)
                    && host.as_ref().is_some_and(well_known::is_loopback));
            if url.scheme() != "https" && !may_be_plain {
                let reason = "code comes over HTTPS; publish it there, or set `allow_http`".to_owned();
                return Err(Fault::Refused { reason });
            }
        }
        match descriptor.digest() {
            Some(_) => Ok(()),
            None if is_elsewhere => {
                let reason = format!("code that is not at {publisher} itself needs one");
                Err(Fault::NoDigest { reason })
            }
            None if self.config.unpinned.contains(key.domain()) => Ok(()),
            None => {
                let reason = format!("the domain has to publish it, or the operator to waive it for {}", key.domain());
                Err(Fault::NoDigest { reason })
            }
        }
    }

    /// Reads a document whole, within limits of size and time, again if the fault may pass.
    async fn read(&self, source: &dyn Source, request: Request<'_>, limits: Limits, tell: &Tell<'_>) -> Result<Received, Fault> {
        let config = &self.config;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(config.retry_delay)
            .with_max_delay(MAX_RETRY_DELAY)
            .with_max_times(config.retries)
            .with_jitter();
        let attempts = (|| receive(source, request, limits, config.idle_timeout, tell))
            .retry(backoff)
            .when(Fault::is_retryable)
            .notify(|fault, delay| debug!(url = %request.url, %fault, ?delay, "trying again"));
        let limit = limits.total;
        timeout(limit, attempts).await.unwrap_or(Err(Fault::TimedOut { limit, phase: "in all, repetitions included" }))
    }

    fn vain(&self, key: &StubKey, mut asked: Vec<Attempt>) -> CatalogueError {
        let last = asked.pop().unwrap_or_else(|| {
            let name = key.descriptor_name();
            let answer =
                if well_known::is_name(&name) { "there is no source to ask" } else { "the name is not one that a stub can have" };
            let url = format!("https://{}/.well-known/{}/{}", key.domain(), well_known::SPELLINGS[0], name.escape_debug());
            Attempt { url, fault: Fault::NotFound { answer: answer.to_owned() } }
        });
        CatalogueError::new(Subject::Descriptor, key.domain().clone(), asked, last)
    }

    fn remember_served(&self, domain: &Domain) {
        let mut served = self.served.lock().unwrap_or_else(|error| error.into_inner());
        if served.len() < MAX_SERVED && !served.contains(domain) {
            served.insert(domain.clone());
        }
    }

    fn has_served(&self, domain: &Domain) -> bool {
        self.served.lock().unwrap_or_else(|error| error.into_inner()).contains(domain)
    }
}

impl Limits {
    fn check(&self, stated: Option<u64>) -> Result<(), Fault> {
        match stated {
            Some(bytes) if usize::try_from(bytes).map_or(true, |bytes| bytes > self.bytes) => self.exceeded(stated),
            _ => Ok(()),
        }
    }

    fn exceeded<T>(&self, stated: Option<u64>) -> Result<T, Fault> {
        Err(Fault::TooLarge { limit: self.bytes, stated, setting: self.setting })
    }
}

/// One attempt: opens a document and reads it to its end, calculating its digest on the way.
async fn receive(
    source: &dyn Source,
    request: Request<'_>,
    limits: Limits,
    idle: Duration,
    tell: &Tell<'_>,
) -> Result<Received, Fault> {
    let late = |phase| Fault::TimedOut { limit: idle, phase };
    let Document { length: stated, url, media_type, mut body } =
        timeout(idle, source.open(&request)).await.map_err(|_| late("waiting for an answer"))??;
    limits.check(stated)?;
    let mut bytes =
        BytesMut::with_capacity(stated.and_then(|stated| usize::try_from(stated.min(MAX_RESERVED)).ok()).unwrap_or(0));
    let mut hash = Sha256::new();
    tell(Download::Receiving { bytes: 0, total: stated });
    while let Some(chunk) = timeout(idle, body.next()).await.map_err(|_| late("waiting for more of the answer"))? {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limits.bytes {
            return limits.exceeded(stated);
        }
        hash.update(&chunk);
        bytes.extend_from_slice(&chunk);
        tell(Download::Receiving { bytes: length(&bytes), total: stated });
    }
    if stated.is_some_and(|stated| stated != length(&bytes)) {
        return Err(Fault::Truncated { received: length(&bytes), stated, reason: "the lengths differ".to_owned() });
    }
    Ok(Received { bytes: bytes.freeze(), digest: Sha256Digest::from_bytes(hash.finalize().into()), url, media_type })
}

impl Received {
    /// What came, in words.
    fn what(&self) -> String {
        let start: Vec<u8> = self.bytes.trim_ascii_start().iter().take(16).map(u8::to_ascii_lowercase).collect();
        let is_html = |media_type: &String| media_type.to_ascii_lowercase().starts_with("text/html");
        let what = if start.is_empty() {
            "an empty answer"
        } else if start.starts_with(b"<!doctype html")
            || start.starts_with(b"<html")
            || self.media_type.as_ref().is_some_and(is_html)
        {
            "a web page"
        } else if start.iter().any(u8::is_ascii_control) {
            "binary data"
        } else {
            "a text"
        };
        match &self.media_type {
            Some(media_type) => format!("{what} ({})", beginning(media_type.as_bytes())),
            None => what.to_owned(),
        }
    }
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue")
            .field("config", &self.inner.config)
            .field("sources", &self.inner.sources)
            .field("network", &self.inner.network)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Discovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovered")
            .field("key", &self.key)
            .field("url", &self.url.as_str())
            .field("publisher", &self.publisher)
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}
