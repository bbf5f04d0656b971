mod fetch;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use protostub_egress::Egress;
use protostub_files::OtherWriters;
use protostub_types::{Descriptor, Domain, SafeText, Sha256Digest, StubKey};
use tracing::{debug, warn};
use url::Url;

use crate::{
    AcceptedRelease, Attempt, CatalogueConfig, CatalogueError, Fault, Held, HttpsSource, Request, Source, StoreError, Subject,
    TrustStateError, Validators, VerifiedComponent,
    committed::{COMMITTED, Commits},
    copies::{Copies, Copy, DESCRIPTORS, Kept},
    error::beginning,
    receive::{Limits, Received, receive},
    seal::Seal,
    store::Store,
    trust::{self, Authenticity, Judgement, KeySet, PublicKey, Published, SignatureError, Signatures},
    well_known,
};

/// Maximum number of domains that are remembered for having served a descriptor of their own.
const MAX_SERVED: usize = 65_536;

/// Finds descriptors and components, and verifies them. Cloning is cheap; all clones share their
/// state.
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
    inner: Arc<CatalogueInner>,
}

struct CatalogueInner {
    config: CatalogueConfig,
    /// The sources in the order in which they are asked; the network is last.
    sources: Vec<Arc<dyn Source>>,
    network: Option<Arc<dyn Source>>,
    store: Option<Store>,
    /// Copies of the descriptors that the network answered.
    copies: Option<Copies>,
    /// The accepted versions of stubs.
    commits: Commits,
    /// The keys that domains publish.
    keys: Published,
    /// Domains that have served a descriptor of their own. For them the home domain is no longer
    /// asked.
    served: Mutex<HashSet<Domain>>,
}

/// A stub's descriptor, and where it was found.
#[derive(Clone)]
#[non_exhaustive]
pub struct Discovered {
    /// The stub.
    pub key: StubKey,
    /// The descriptor. [`Descriptor::check_deployable`] holds.
    pub descriptor: Descriptor,
    /// The URL where the descriptor was found. Relative URLs in the descriptor are relative to this
    /// one.
    pub url: Url,
    /// The publisher: the domain of the key, or the home domain for a domain that publishes no
    /// stub.
    pub publisher: Domain,
    /// How the descriptor was obtained: from the publisher now, or from a copy.
    pub provenance: Provenance,
    /// The verdict on the signatures. If one was verified, `descriptor` is the signed one.
    pub authenticity: Authenticity,
    source: Arc<dyn Source>,
    /// The URL that was asked. After a redirect it differs from `url`.
    asked: Url,
    /// The digest of the code that came with the descriptor when the publisher could be asked. Only
    /// for a descriptor that states no digest.
    component: Option<Sha256Digest>,
}

/// How a descriptor was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provenance {
    /// The publisher, or a source before the network, was asked, and sent the descriptor or
    /// confirmed a copy.
    Asked,
    /// A copy, which the publisher allowed to be used for longer than its age without asking.
    Fresh {
        /// Time since the publisher last confirmed the copy.
        age: Duration,
    },
    /// A copy, because the publisher cannot be reached.
    Offline {
        /// Time since the publisher last confirmed the copy.
        age: Duration,
    },
}

/// The permitted use of the copies in the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copying {
    /// A copy may be used without asking, and while there is no answer.
    Usual,
    /// A copy may only be confirmed.
    Confirmed,
}

/// A descriptor as a source gave it.
struct Given {
    descriptor: Descriptor,
    /// The descriptor's JSON, verbatim.
    json: Bytes,
    url: Url,
    component: Option<Sha256Digest>,
    provenance: Provenance,
    authenticity: Authenticity,
}

impl Catalogue {
    /// Returns a catalogue that asks `sources` in this order. Unless the network is turned off, it
    /// asks the network last.
    ///
    /// # Errors
    /// If the cache folder or its key cannot be created or used, or other users can replace them.
    pub fn new(config: CatalogueConfig, egress: Egress, sources: Vec<Arc<dyn Source>>) -> Result<Self, StoreError> {
        let dir = config.cache_dir.as_deref();
        let writers = OtherWriters::allowed(config.allow_other_writers);
        let folders = [trust::KEYS, COMMITTED, DESCRIPTORS];
        let open = |dir| Seal::open(dir, &folders, config.cache_key.as_deref(), DESCRIPTORS, writers);
        let seal = dir.map(open).transpose()?;
        let cache = dir.zip(seal.as_ref());
        let store = dir.map(|dir| Store::open(dir, config.max_store_bytes, writers)).transpose()?;
        let copies = cache.map(|(dir, seal)| Copies::open(dir, seal, config.most_descriptor_bytes())).transpose()?;
        let commits = Commits::open(cache, config.accepted_versions)?;
        let keys = Published::open(cache, config.key_sets)?;
        if let Some(seal) = seal.filter(|seal| !seal.is_marked()) {
            commits.adopt_earlier()?;
            keys.remove_earlier()?;
            seal.mark()?;
        }
        let network = config.network.then(|| Arc::new(HttpsSource::new(egress, &config)) as Arc<dyn Source>);
        Ok(Self {
            inner: Arc::new(CatalogueInner { config, sources, network, store, copies, commits, keys, served: Mutex::default() }),
        })
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &CatalogueConfig {
        &self.inner.config
    }

    /// Steps 4 and 5: finds the descriptor of a stub, at
    /// `https://<domain>/.well-known/protostub/<name>` or `…/protocolstub/<name>`.
    ///
    /// If the domain does not exist, or has no such stub, the home domain is asked for one that is
    /// named after the domain. The home domain is not asked after any other fault, or if the domain
    /// has served its own stub before.
    ///
    /// With a [cache](CatalogueConfig::cache_dir), a copy may be the answer: see
    /// [`Discovered::provenance`] and [the crate](crate#copies).
    ///
    /// # Errors
    /// If there is no descriptor ([`CatalogueError::is_not_found`]), it could not be loaded, or it
    /// cannot be deployed.
    pub async fn discover(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        self.inner.discover(key, Copying::Usual).await
    }

    /// Does the same, but always asks the publisher, which has to answer. For callers that need the
    /// descriptor that is published now. The answer that it is unchanged counts.
    ///
    /// # Errors
    /// As [`Self::discover`].
    pub async fn revalidate(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        self.inner.discover(key, Copying::Confirmed).await
    }

    /// Steps 6 and 7: returns the component that a descriptor names. A component in the store is
    /// not downloaded again.
    ///
    /// # Errors
    /// If the component could not be loaded, or differs from the descriptor.
    pub async fn fetch(&self, discovered: &Discovered) -> Result<VerifiedComponent, CatalogueError> {
        self.inner.fetch(discovered).await
    }

    /// Returns `true` if [`Self::fetch`] would return a component of this length, in bytes, with
    /// the digest in the descriptor. Conditions: the descriptor states a digest, the component may
    /// come from its location, and neither its size nor a revocation forbids it. A caller that has
    /// the component already need not fetch it then (steps 6 and 7).
    #[must_use]
    pub fn admits(&self, discovered: &Discovered, bytes: usize) -> bool {
        self.inner.admits(discovered, bytes)
    }

    /// Stores the accepted version of a stub, which is about to be live. `before` is the version
    /// that [`Self::committed`] returned when this one was judged. With a
    /// [cache](CatalogueConfig::cache_dir), the version is durable when this returns, and known to
    /// the next process. The catalogue only stores it: the caller decides if an older version may
    /// be deployed later.
    ///
    /// # Errors
    /// If the version could not be stored after a few retries. Then it must not be live.
    pub async fn commit(
        &self,
        key: &StubKey,
        committed: &AcceptedRelease,
        before: Option<&AcceptedRelease>,
    ) -> Result<(), TrustStateError> {
        self.inner.commits.save(key, committed, before).await
    }

    /// Returns the last accepted version of a stub: by this process or, with a
    /// [cache](CatalogueConfig::cache_dir), by any process that shares it.
    ///
    /// # Errors
    /// If there may be such a version, and it cannot be read. Then no version must be deployed.
    pub async fn committed(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        self.inner.commits.load(key).await
    }

    /// Forgets the last accepted version of a stub. The next version that the domain publishes
    /// counts as its first. Other processes that share the [cache](CatalogueConfig::cache_dir) and
    /// have judged by the version remember it until they end.
    ///
    /// # Errors
    /// If the version cannot be removed after a few retries. Then it still counts.
    pub async fn forget_committed(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.inner.commits.remove(key).await
    }

    /// Checks if a version of a stub could be accepted now, before any of its code runs.
    ///
    /// # Errors
    /// If [`Self::commit`] would fail now.
    pub async fn check_commit(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.inner.commits.check_room(key).await
    }
}

impl CatalogueInner {
    async fn discover(&self, key: &StubKey, copying: Copying) -> Result<Discovered, CatalogueError> {
        let domain = key.domain();
        let mut asked = Vec::new();
        if let Some(found) = self.ask(key, domain, &key.descriptor_name(), copying, &mut asked).await? {
            self.remember_served(domain);
            return Ok(found);
        }
        if let Some(name) = well_known::fallback_name(key).filter(|_| *domain != self.config.home)
            && !self.has_served(key).await.map_err(|error| self.vain(key, vec![unread(domain, error)]))?
        {
            debug!(%domain, home = %self.config.home, "the domain publishes no stub; asking the home domain for one");
            if let Some(found) = self.ask(key, &self.config.home, &name, copying, &mut asked).await? {
                return Ok(found);
            }
        }
        Err(self.vain(key, asked))
    }

    /// Asks every source for the stub of this name that `publisher` publishes. Returns `None` if no
    /// source has it.
    async fn ask(
        &self,
        key: &StubKey,
        publisher: &Domain,
        name: &str,
        copying: Copying,
        asked: &mut Vec<Attempt>,
    ) -> Result<Option<Discovered>, CatalogueError> {
        let urls = self.well_known_urls(publisher, name);
        for source in self.sources.iter().chain(&self.network) {
            let found = |asked: &Url, given: Given| {
                let Given { descriptor, url, component, provenance, authenticity, .. } = given;
                debug!(%url, version = %descriptor.version, ?provenance, "found a descriptor");
                let (key, publisher, source) = (key.clone(), publisher.clone(), Arc::clone(source));
                let asked = asked.clone();
                Some(Discovered { key, descriptor, url, publisher, provenance, authenticity, source, asked, component })
            };
            let is_last = self.network.as_ref().is_none_or(|network| Arc::ptr_eq(network, source));
            let copies = self.copies.as_ref().filter(|_| is_last && self.network.is_some());
            let known = match copies {
                Some(copies) => copies.recall(&urls).await,
                None => Vec::new(),
            };
            // Finds the first copy that `judge` allows.
            let usable = |known: &[Option<Copy>], judge: &dyn Fn(&Kept) -> Option<Provenance>| {
                let mut all = urls.iter().zip(known).filter(|_| copying == Copying::Usual);
                all.find_map(|(url, copy)| {
                    let kept = copy.as_ref()?.kept()?;
                    judge(kept).map(|provenance| (url, kept.clone().give(provenance)))
                })
            };
            let by = |given| self.authenticate(key.domain(), publisher, name, source.as_ref(), given);
            if let Some((url, given)) = usable(&known, &fresh) {
                match by(given).await {
                    Ok(given) => return Ok(found(url, given)),
                    Err(fault) => debug!(%url, %fault, "the copy of the descriptor is no longer valid"),
                }
            }
            for (nth, url) in urls.iter().enumerate() {
                let kept = known.get(nth).and_then(|copy| copy.as_ref()?.kept());
                let given = match self.descriptor(source.as_ref(), publisher, url, copies.map(|copies| (copies, kept))).await {
                    Ok(given) => by(given).await,
                    Err(fault) => Err(fault),
                };
                let fault = match given {
                    Ok(given) => return Ok(found(url, given)),
                    Err(fault) => fault,
                };
                debug!(%url, %fault, "found no descriptor");
                if fault.is_unreachable()
                    && let Some(copies) = copies
                    && let Some((url, given)) = usable(&copies.load(&urls).await, &|kept| self.offline(kept))
                {
                    let provenance = given.provenance;
                    asked.push(Attempt { url: url.as_str().into(), fault });
                    match by(given).await {
                        Ok(given) => {
                            let fault = asked.pop().map(|attempt| attempt.fault.to_string()).unwrap_or_default();
                            warn!(%url, fault, ?provenance, "the domain cannot be reached for its descriptor; using a copy");
                            return Ok(found(url, given));
                        }
                        Err(fault) => asked.push(Attempt { url: SafeText::display(format_args!("the copy of {url}")), fault }),
                    }
                    return Err(self.vain(key, std::mem::take(asked)));
                }
                let (is_not_found, is_no_host) = (fault.is_not_found(), matches!(fault, Fault::NoSuchHost { .. }));
                // A missing document in a local source is worth reporting only if no other source
                // is asked.
                if is_last || !is_not_found {
                    asked.push(Attempt { url: url.as_str().into(), fault });
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

    /// Returns the provenance of a copy that may be used because the publisher cannot be reached.
    fn offline(&self, kept: &Kept) -> Option<Provenance> {
        let age = kept.age(SystemTime::now())?;
        (age < self.config.max_offline_age).then_some(Provenance::Offline { age })
    }

    /// Verifies the signatures of a descriptor, of any provenance, as the operator demands for this
    /// domain. If one is verified, the returned descriptor is the signed one.
    async fn authenticate(
        &self,
        domain: &Domain,
        publisher: &Domain,
        name: &str,
        source: &dyn Source,
        given: Given,
    ) -> Result<Given, Fault> {
        let policy = &self.config.trust;
        let mode = policy.signatures_of(domain);
        if let Some(digest) = given.descriptor.digest() {
            policy.check_component(digest)?;
        }
        let signatures = given.descriptor.signatures.clone();
        match (mode, signatures.is_empty()) {
            (Signatures::Off, _) => return Ok(given),
            (Signatures::Require, true) => return Err(SignatureError::Missing { domain: domain.clone() }.into()),
            (Signatures::VerifyIfPresent, true) => return Ok(Given { authenticity: Authenticity::Unsigned, ..given }),
            (_, false) => {}
        }
        let judgement = Judgement { policy, domain, name, json: &given.json, signatures: &signatures };
        let (mut keys, are_asked) = judgement.operators_keys();
        let mut no_keys = None;
        if are_asked && judgement.by(&keys).is_err() {
            match self.published_keys(publisher, source, &judgement).await? {
                Ok(own) => keys.extend(own),
                Err(error) => no_keys = Some(error),
            }
        }
        let outcome = judgement.by(&keys);
        match (outcome, no_keys) {
            (Ok((signed, descriptor)), _) => {
                let authenticity = Authenticity::Verified(Box::new(signed));
                Ok(Given { descriptor, authenticity, ..given })
            }
            (Err(SignatureError::UnknownKey { .. }), Some(error)) if mode == Signatures::Require => Err(error.into()),
            (Err(SignatureError::UnknownKey { .. }), Some(error)) => {
                warn!(%domain, %error, "no key to verify the descriptor's signature; using the descriptor, since no signature is required");
                Ok(Given { authenticity: Authenticity::Unverified { reason: SafeText::display(error) }, ..given })
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Returns the keys that a domain publishes. The kept keys are used as long as they are fresh
    /// and verify one of the signatures. The inner error means that there are no keys. A domain
    /// that requires no signature is still served then.
    async fn published_keys(
        &self,
        publisher: &Domain,
        source: &dyn Source,
        judgement: &Judgement<'_>,
    ) -> Result<Result<Vec<PublicKey>, SignatureError>, Fault> {
        let no_keys = |url: &str, reason: String| SignatureError::NoKeys { reason: reason.into(), url: url.into() };
        let Some(url) = trust::url(self.scheme(publisher), publisher) else {
            return Ok(Err(no_keys("", "the domain has no URL for its keys".to_owned())));
        };
        let no_keys = |reason: String| no_keys(url.as_str(), reason);
        let read = |set: &KeySet| PublicKey::read_set(set.json.as_bytes());
        let kept = self.keys.load(&url, publisher).await?;
        if let Some(kept) = &kept
            && let Ok(keys) = read(kept)
            && kept.is_fresh()
            && judgement.by(&keys).is_ok()
        {
            return Ok(Ok(keys));
        }
        let limits = Limits {
            bytes: trust::MAX_SET_BYTES.min(self.config.descriptor_bytes(publisher)),
            setting: "descriptor-bytes",
            total: self.config.descriptor_timeout,
        };
        let request = Request { subject: Subject::Keys, domain: publisher, url: &url, held: Held::Nothing };
        let mut outcome = receive(source, request, &self.config, limits, &|_| ()).await;
        if let (Err(fault), Some(network)) = (&outcome, &self.network)
            && fault.is_not_found()
            && !std::ptr::addr_eq(source, Arc::as_ptr(network))
        {
            outcome = receive(network.as_ref(), request, &self.config, limits, &|_| ()).await;
        }
        Ok(match outcome {
            Ok(received) => {
                let Ok(json) = String::from_utf8(received.bytes.to_vec()) else {
                    return Ok(Err(no_keys("the key set is not UTF-8".to_owned())));
                };
                let set = KeySet::new(&url, json, received.keep.unwrap_or_default());
                let keys = read(&set).map_err(|error| no_keys(error.to_string()));
                if let Ok(keys) = &keys {
                    debug!(%url, keys = keys.len(), "received the domain's keys");
                    match received.keep {
                        Some(_) => self.keys.save(&url, publisher, set).await?,
                        None => self.keys.hold(&url, publisher, set).await?,
                    }
                }
                keys
            }
            Err(fault) if fault.is_unreachable() => match kept.map(|kept| (kept.age(), kept)) {
                // Its age is unknown: the keys may have been withdrawn long ago.
                Some((None, _)) => {
                    let reason = format!("the kept keys were confirmed at a time ahead of this machine's clock, and {fault}");
                    return Err(no_keys(reason).into());
                }
                Some((Some(age), kept)) if age < self.config.max_offline_age => {
                    warn!(%url, %fault, "the domain cannot be reached for its keys; using its earlier ones");
                    read(&kept).map_err(|error| no_keys(error.to_string()))
                }
                _ => Err(no_keys(fault.to_string())),
            },
            Err(Fault::TooLarge { limit: trust::MAX_SET_BYTES, .. }) => {
                Err(no_keys(format!("the key set is larger than the limit of {} bytes", trust::MAX_SET_BYTES)))
            }
            Err(fault) => {
                if matches!(fault, Fault::NotFound { .. }) {
                    self.keys.remove(&url, publisher).await?;
                }
                Err(no_keys(fault.to_string()))
            }
        })
    }

    /// Returns the scheme of a domain's well-known URLs.
    fn scheme(&self, publisher: &Domain) -> &'static str {
        let is_plain = self.config.allow_http || (publisher.is_loopback() && self.config.reaches_loopback(publisher));
        if is_plain { "http" } else { "https" }
    }

    /// Returns both spellings of the URL. Empty if no stub can have this name.
    fn well_known_urls(&self, publisher: &Domain, name: &str) -> Vec<Url> {
        if !well_known::is_name(name) {
            return Vec::new();
        }
        let scheme = self.scheme(publisher);
        well_known::SPELLINGS.iter().filter_map(|spelling| well_known::url(scheme, publisher, spelling, name)).collect()
    }

    /// Asks a source for the descriptor at a URL, and keeps the answer in `copies`.
    async fn descriptor(
        &self,
        source: &dyn Source,
        domain: &Domain,
        url: &Url,
        copies: Option<(&Copies, Option<&Kept>)>,
    ) -> Result<Given, Fault> {
        let limits = Limits {
            bytes: self.config.descriptor_bytes(domain),
            setting: "descriptor-bytes",
            total: self.config.descriptor_timeout,
        };
        let ask = async |held| {
            receive(source, Request { subject: Subject::Descriptor, domain, url, held }, &self.config, limits, &|_| ()).await
        };
        let Some((copies, kept)) = copies else {
            let received = ask(Held::Nothing).await?;
            let descriptor = read(&received)?;
            return Ok(Given::new(descriptor, received.bytes, received.url.unwrap_or_else(|| url.clone())));
        };
        let outcome = match kept {
            Some(kept) => match ask(Held::Whole(&kept.validators)).await {
                // The answer confirms another document: the redirect now leads elsewhere.
                Ok(received) if received.unchanged && received.url.as_ref() != Some(&kept.url) => ask(Held::Nothing).await,
                outcome => outcome,
            },
            None => ask(Held::Nothing).await,
        };
        let received = match outcome {
            Err(fault) => {
                if matches!(fault, Fault::NotFound { .. }) {
                    copies.withdraw(url).await;
                }
                return Err(fault);
            }
            Ok(received) => received,
        };
        let Received { unchanged, validators, keep, .. } = &received;
        let now = match kept {
            Some(kept) if *unchanged => {
                // Validators that the answer leaves out stay as they were.
                let etag = validators.etag.as_ref().or(kept.validators.etag.as_ref()).cloned();
                let last_modified = validators.last_modified.as_ref().or(kept.validators.last_modified.as_ref()).cloned();
                Kept { validators: Validators { etag, last_modified }, ..kept.clone() }
            }
            kept => Kept {
                descriptor: read(&received)?,
                url: received.url.clone().unwrap_or_else(|| url.clone()),
                validators: validators.clone(),
                component: kept.filter(|kept| kept.json == received.bytes).and_then(|kept| kept.component),
                json: received.bytes.clone(),
                confirmed: SystemTime::UNIX_EPOCH,
                keep: Duration::ZERO,
            },
        };
        match *keep {
            Some(keep) => {
                let now = Kept { confirmed: SystemTime::now(), keep, ..now };
                if !kept.is_some_and(|before| before.is_as_good_as(&now)) {
                    copies.save(url, &now).await;
                }
                Ok(now.give(Provenance::Asked))
            }
            None => {
                copies.remove(url).await;
                Ok(now.give(Provenance::Asked))
            }
        }
    }

    fn vain(&self, key: &StubKey, mut asked: Vec<Attempt>) -> CatalogueError {
        let last = asked.pop().unwrap_or_else(|| {
            let name = key.descriptor_name();
            let answer = if well_known::is_name(&name) { "no source is configured" } else { "a stub cannot have this name" };
            let url = format!("https://{}/.well-known/{}/{}", key.domain(), well_known::SPELLINGS[0], name);
            Attempt { url: url.into(), fault: Fault::NotFound { answer: answer.into() } }
        });
        CatalogueError::new(Subject::Descriptor, key.domain().clone(), asked, last)
    }

    fn remember_served(&self, domain: &Domain) {
        let mut served = self.served.lock().unwrap_or_else(|error| error.into_inner());
        if served.len() < MAX_SERVED && !served.contains(domain) {
            served.insert(domain.clone());
        }
    }

    /// Returns `true` if the domain has served a descriptor of its own, to this process or an
    /// earlier one.
    async fn has_served(&self, key: &StubKey) -> Result<bool, TrustStateError> {
        if self.served.lock().unwrap_or_else(|error| error.into_inner()).contains(key.domain()) {
            return Ok(true);
        }
        let Some(copies) = &self.copies else { return Ok(false) };
        let urls = ["default", &key.descriptor_name()].map(|name| self.well_known_urls(key.domain(), name)).concat();
        copies.any(&urls).await.map_err(|(path, error)| {
            let (what, domain) = ("the copy of the descriptor", key.domain().clone());
            TrustStateError::Read { what, domain, path, error: Arc::new(error) }
        })
    }
}

impl Given {
    fn new(descriptor: Descriptor, json: Bytes, url: Url) -> Self {
        let (provenance, authenticity) = (Provenance::Asked, Authenticity::NotChecked);
        Self { descriptor, json, url, component: None, provenance, authenticity }
    }
}

impl Kept {
    fn give(self, provenance: Provenance) -> Given {
        Given { component: self.component, provenance, ..Given::new(self.descriptor, self.json, self.url) }
    }
}

/// Returns a failed check for an earlier descriptor of the domain, as an attempt.
fn unread(domain: &Domain, error: TrustStateError) -> Attempt {
    Attempt { url: format!("the copies of {domain}").into(), fault: error.into() }
}

/// Returns the provenance of a copy that may be used without asking.
fn fresh(kept: &Kept) -> Option<Provenance> {
    let now = SystemTime::now();
    kept.fresh(now).map(|age| Provenance::Fresh { age })
}

/// Reads a descriptor that can be deployed.
fn read(received: &Received) -> Result<Descriptor, Fault> {
    let start = received.bytes.trim_ascii_start();
    match Descriptor::parse(&received.bytes) {
        Ok(descriptor) => {
            descriptor.check_deployable()?;
            Ok(descriptor)
        }
        Err(error) if start.starts_with(b"{") || start.starts_with(b"[") || error.path() != "$" => Err(error.into()),
        Err(_) => Err(Fault::NotJson { what: received.what(), beginning: beginning(&received.bytes) }),
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
            .field("provenance", &self.provenance)
            .field("authenticity", &self.authenticity)
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}
