mod fetch;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use protostub_egress::Egress;
use protostub_types::{Descriptor, Domain, SafeText, Sha256Digest, StubKey};
use tracing::{debug, warn};
use url::Url;

use crate::{
    AcceptedRelease, Attempt, CatalogueConfig, CatalogueError, Fault, Held, HttpsSource, Request, Source, StoreError, Subject,
    TrustStateError, Validators, VerifiedComponent,
    committed::Commits,
    copies::{Copies, Copy, Kept},
    error::beginning,
    receive::{Limits, Received, receive},
    store::Store,
    trust::{self, Authenticity, Judgement, KeySet, PublicKey, Published, SignatureError, Signatures},
    well_known,
};

/// How many domains are remembered for having served a descriptor of their own.
const MAX_SERVED: usize = 65_536;

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
    inner: Arc<CatalogueInner>,
}

struct CatalogueInner {
    config: CatalogueConfig,
    /// In the order in which they are asked; the network last.
    sources: Vec<Arc<dyn Source>>,
    network: Option<Arc<dyn Source>>,
    store: Option<Store>,
    /// Of what the network has answered.
    copies: Option<Copies>,
    /// The versions that were accepted.
    commits: Commits,
    /// The keys that domains publish.
    keys: Published,
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
    /// Whether the publisher has said so just now.
    pub provenance: Provenance,
    /// Whether it is signed, and by whom. If it is, `descriptor` is what was signed.
    pub authenticity: Authenticity,
    source: Arc<dyn Source>,
    /// What was asked; another URL than `url` after a redirect.
    asked: Url,
    /// The digest of the code that came with it when the publisher could be asked, where the descriptor states none.
    component: Option<Sha256Digest>,
}

/// How a descriptor was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provenance {
    /// The publisher, or a source that stands in front of the network, was asked and this is its answer; or it has confirmed a copy.
    Asked,
    /// It is a copy, and the publisher had said that it may be used for longer than that without asking.
    Fresh {
        /// How long ago the publisher confirmed it last.
        age: Duration,
    },
    /// It is a copy, because the publisher cannot be reached.
    Offline {
        /// How long ago the publisher confirmed it last.
        age: Duration,
    },
}

/// What the copies in the cache may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copying {
    /// Not to ask, and to do without an answer.
    Usual,
    /// Only to be confirmed.
    Confirmed,
}

/// A descriptor as a source gave it.
struct Given {
    descriptor: Descriptor,
    /// As it came.
    json: Bytes,
    url: Url,
    component: Option<Sha256Digest>,
    provenance: Provenance,
    authenticity: Authenticity,
}

impl Catalogue {
    /// A catalogue that asks `sources` in this order and then, unless it is turned off, the network.
    ///
    /// # Errors
    /// If the folder for components cannot be made.
    pub fn new(config: CatalogueConfig, egress: Egress, sources: Vec<Arc<dyn Source>>) -> Result<Self, StoreError> {
        let dir = config.cache_dir.as_deref();
        let store = dir.map(|dir| Store::open(dir, config.max_store_bytes)).transpose()?;
        let copies = dir.map(|dir| Copies::open(dir, config.most_descriptor_bytes())).transpose()?;
        let commits = Commits::open(dir, config.accepted_versions)?;
        let keys = Published::open(dir, config.key_sets)?;
        let network = config.network.then(|| Arc::new(HttpsSource::new(egress, &config)) as Arc<dyn Source>);
        Ok(Self {
            inner: Arc::new(CatalogueInner { config, sources, network, store, copies, commits, keys, served: Mutex::default() }),
        })
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
    /// With a [cache](CatalogueConfig::cache_dir), a copy may be the answer: see [`Discovered::provenance`] and [the crate](crate#copies).
    ///
    /// # Errors
    /// If there is none ([`CatalogueError::is_not_found`]), it could not be had, or it is not one that can be deployed.
    pub async fn discover(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        self.inner.discover(key, Copying::Usual).await
    }

    /// The same, but the publisher is asked in any case, and has to answer: for whoever wants to know what is published now. That nothing has
    /// changed is an answer.
    ///
    /// # Errors
    /// As [`Self::discover`].
    pub async fn revalidate(&self, key: &StubKey) -> Result<Discovered, CatalogueError> {
        self.inner.discover(key, Copying::Confirmed).await
    }

    /// Steps 6 and 7: the component that a descriptor names. One that is in the store is not downloaded again.
    ///
    /// # Errors
    /// If it could not be had, or is not what the descriptor promises.
    pub async fn fetch(&self, discovered: &Discovered) -> Result<VerifiedComponent, CatalogueError> {
        self.inner.fetch(discovered).await
    }

    /// Whether [`Self::fetch`] would return a component of this length, in bytes, with the digest that the descriptor states: the descriptor states
    /// one, the component may come from where it is, and neither its size nor a revocation is in the way. Whoever has it already need not fetch it
    /// then (steps 6 and 7).
    #[must_use]
    pub fn admits(&self, discovered: &Discovered, bytes: usize) -> bool {
        self.inner.admits(discovered, bytes)
    }

    /// Remembers the version of a stub that is accepted: it is about to be live. `before` is what
    /// [`Self::committed`] said when it was judged. With a [cache](CatalogueConfig::cache_dir) the
    /// version is durable when this returns, and known to the next process. The catalogue itself
    /// draws no conclusions: whether an older version may be deployed later is for whoever deploys.
    ///
    /// # Errors If it could not be kept, also when tried again a few times. Then the version must
    /// not be live.
    pub async fn commit(
        &self,
        key: &StubKey,
        committed: &AcceptedRelease,
        before: Option<&AcceptedRelease>,
    ) -> Result<(), TrustStateError> {
        self.inner.commits.save(key, committed, before).await
    }

    /// The version of a stub that was accepted last, by this process or, with a
    /// [cache](CatalogueConfig::cache_dir), by any that shares it.
    ///
    /// # Errors
    /// If there may be one, and it cannot be read. Then nothing must be deployed.
    pub async fn committed(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        self.inner.commits.load(key).await
    }

    /// Finds out whether a version of a stub could be accepted now, before anything of it runs.
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

    /// Asks every source for the stub of this name that `publisher` publishes. None if none has it.
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
            // The first one that may be used, as `judge` says.
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
                    Err(fault) => debug!(%url, %fault, "the copy of a descriptor does not count any more"),
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
                            warn!(%url, fault, ?provenance, "a domain cannot be asked for its descriptor; a copy is used");
                            return Ok(found(url, given));
                        }
                        Err(fault) => asked.push(Attempt { url: SafeText::display(format_args!("the copy of {url}")), fault }),
                    }
                    return Err(self.vain(key, std::mem::take(asked)));
                }
                let (is_not_found, is_no_host) = (fault.is_not_found(), matches!(fault, Fault::NoSuchHost { .. }));
                // That a local source has nothing is worth telling only where nobody else is asked.
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

    /// Whether a copy may be used since the publisher cannot be reached.
    fn offline(&self, kept: &Kept) -> Option<Provenance> {
        let age = kept.age(SystemTime::now())?;
        (age < self.config.max_offline_age).then_some(Provenance::Offline { age })
    }

    /// Judges the signatures of a descriptor, of whatever provenance, as the operator asks for this domain; the descriptor is what was signed then.
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
                warn!(%domain, %error, "the signature of a descriptor is not verified");
                Ok(Given { authenticity: Authenticity::Unverified { reason: SafeText::display(error) }, ..given })
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The keys that a domain publishes: those that are kept, as long as they need not be asked for
    /// again and one of the signatures is good by them. The inner error says that no key can be
    /// had, which a domain that requires no signature survives.
    async fn published_keys(
        &self,
        publisher: &Domain,
        source: &dyn Source,
        judgement: &Judgement<'_>,
    ) -> Result<Result<Vec<PublicKey>, SignatureError>, Fault> {
        let no_keys = |url: &str, reason: String| SignatureError::NoKeys { reason: reason.into(), url: url.into() };
        let Some(url) = trust::url(self.scheme(publisher), publisher) else {
            return Ok(Err(no_keys("", "the domain has no URL".to_owned())));
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
                    return Ok(Err(no_keys("they are no text".to_owned())));
                };
                let set = KeySet::new(&url, json, received.keep.unwrap_or_default());
                let keys = read(&set).map_err(|error| no_keys(error.to_string()));
                if let Ok(keys) = &keys {
                    debug!(%url, keys = keys.len(), "a domain's keys");
                    match received.keep {
                        Some(_) => self.keys.save(&url, publisher, set).await?,
                        None => self.keys.hold(&url, publisher, set).await?,
                    }
                }
                keys
            }
            Err(fault) if fault.is_unreachable() => match kept.map(|kept| (kept.age(), kept)) {
                // The time since then is not known: the keys may have been withdrawn long ago.
                Some((None, _)) => {
                    let reason =
                        format!("those that are kept were confirmed later than this machine's clock says it is, and {fault}");
                    return Err(no_keys(reason).into());
                }
                Some((Some(age), kept)) if age < self.config.max_offline_age => {
                    warn!(%url, %fault, "a domain cannot be asked for its keys; those that it published before are used");
                    read(&kept).map_err(|error| no_keys(error.to_string()))
                }
                _ => Err(no_keys(fault.to_string())),
            },
            Err(Fault::TooLarge { limit: trust::MAX_SET_BYTES, .. }) => {
                Err(no_keys(format!("they are larger than {} bytes, the most that a set of keys may have", trust::MAX_SET_BYTES)))
            }
            Err(fault) => {
                if matches!(fault, Fault::NotFound { .. }) {
                    self.keys.remove(&url, publisher).await?;
                }
                Err(no_keys(fault.to_string()))
            }
        })
    }

    /// By what a domain is asked for what is well-known of it.
    fn scheme(&self, publisher: &Domain) -> &'static str {
        let is_plain = self.config.allow_http || (publisher.is_loopback() && self.config.reaches_loopback(publisher));
        if is_plain { "http" } else { "https" }
    }

    /// Both spellings; none if there can be no stub of this name.
    fn well_known_urls(&self, publisher: &Domain, name: &str) -> Vec<Url> {
        if !well_known::is_name(name) {
            return Vec::new();
        }
        let scheme = self.scheme(publisher);
        well_known::SPELLINGS.iter().filter_map(|spelling| well_known::url(scheme, publisher, spelling, name)).collect()
    }

    /// Asks a source for the descriptor at a URL, and keeps what it answers in `copies`.
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
                // It is about what another redirect led to.
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
                // What is not said again stays as it was.
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
            let answer =
                if well_known::is_name(&name) { "there is no source to ask" } else { "the name is not one that a stub can have" };
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

    /// Whether the domain has served a descriptor of its own, now or before this process was started.
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

/// The attempt to find out what a domain has served before.
fn unread(domain: &Domain, error: TrustStateError) -> Attempt {
    Attempt { url: format!("the copies of {domain}").into(), fault: error.into() }
}

/// Whether a copy may be used without asking.
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
