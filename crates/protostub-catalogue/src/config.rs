use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use protostub_types::{DEFAULT_COMPONENT_BYTES, DEFAULT_DESCRIPTOR_BYTES, Domain};

use crate::{DownloadProgress, trust::TrustPolicy};

/// What a [`Catalogue`](crate::Catalogue) may do, and for how long. [`Self::new`] gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CatalogueConfig {
    /// The runtime's own domain, whose catalogue is asked for the stubs of domains that publish none.
    pub home: Domain,
    /// Where components, copies of descriptors, domains' keys and accepted versions are kept, in the folders `components`, `descriptors`, `keys` and
    /// `committed`. None keeps accepted versions and keys in memory, and nothing else. Any number
    /// of processes may share it; they trust each other with the descriptors, so it has to be one
    /// user's own.
    pub cache_dir: Option<PathBuf>,
    /// How much the components that are kept may be together, in bytes: 1 GiB. What was not used for the longest time goes first.
    pub max_store_bytes: u64,
    /// The most accepted versions of stubs that are remembered: 16,384 in all, and 256 of one
    /// registrable domain.
    pub accepted_versions: Bounds,
    /// The most key sets of domains that are kept: 1,024 in all, and 16 of one registrable
    /// domain.
    pub key_sets: Bounds,
    /// How long ago a domain may have confirmed its descriptor for the copy to be used while the domain cannot be reached: 30 days. Zero: such
    /// copies are not used at all.
    pub max_offline_age: Duration,
    /// Whether domains are asked over the network at all. Without it, only the sources that were added are asked.
    pub network: bool,
    /// How large a descriptor may be, in bytes: 256 KiB. Code inside it counts.
    pub max_descriptor_bytes: usize,
    /// How large a component may be, in bytes: 64 MiB.
    pub max_component_bytes: usize,
    /// The same, where it is another for a domain.
    pub sizes: BTreeMap<Domain, Sizes>,
    /// How long one URL may take to give a descriptor, with all retries: 15 s.
    pub descriptor_timeout: Duration,
    /// How long a component may take, with all retries: 5 min.
    pub component_timeout: Duration,
    /// How long nothing at all may come before an attempt counts as failed: 10 s.
    pub idle_timeout: Duration,
    /// How often a failed attempt is repeated, if the fault may pass: 2 times. Counted anew after an attempt that brought 64 KiB of a download
    /// which can be resumed.
    pub retries: usize,
    /// How long to wait before the first repetition, 200 ms; doubled for each further one, up to 2 s, and extended by chance to at most
    /// twice as long.
    pub retry_delay: Duration,
    /// Asks domains that are loopback by their own name ([`Domain::is_loopback`]), over plain HTTP.
    /// Default: no.
    pub allow_loopback: bool,
    /// Domains that may be on this machine by any name, with the code that they serve themselves.
    /// Default: empty.
    pub loopback: BTreeSet<Domain>,
    /// The domains that may be in private networks, and their code too. None.
    pub private: BTreeSet<Domain>,
    /// Whether all domains are asked over plain HTTP instead of HTTPS: for laboratories without certificates. No.
    pub allow_http: bool,
    /// The domains whose stubs need no digest, as long as their code comes from the domain itself. None.
    pub unpinned: BTreeSet<Domain>,
    /// Whose signatures are trusted, and of whom they are required. Those that are there are verified by the domains' own keys.
    pub trust: TrustPolicy,
    /// Who is told how downloads of components go on. Nobody.
    pub progress: Option<Arc<dyn DownloadProgress>>,
}

/// Default of [`CatalogueConfig::max_offline_age`]: 30 days.
pub const DEFAULT_MAX_OFFLINE_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The number of records of trust state that are kept. A record gives way only to others of its own
/// registrable domain. If there are as many as there may be in all, stubs of further domains are
/// not deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "records are counted in all and for each registrable domain")]
pub struct Bounds {
    /// The most in all.
    pub total: usize,
    /// The most of one registrable domain. At least one is kept.
    pub per_domain: usize,
}

/// How large what a domain publishes may be, where that is not what holds for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there are a descriptor and a component, and nothing else")]
pub struct Sizes {
    /// Its descriptors, in bytes, in place of [`CatalogueConfig::max_descriptor_bytes`].
    pub descriptor_bytes: Option<usize>,
    /// The component of its stub, in bytes, in place of [`CatalogueConfig::max_component_bytes`].
    pub component_bytes: Option<usize>,
}

impl Bounds {
    /// Default bounds of the accepted versions of stubs.
    pub const ACCEPTED_VERSIONS: Self = Self { total: 16_384, per_domain: 256 };
    /// Default bounds of the key sets that domains publish.
    pub const KEY_SETS: Self = Self { total: 1_024, per_domain: 16 };
}

impl CatalogueConfig {
    /// Returns whether what a domain publishes may be on this machine.
    pub(crate) fn reaches_loopback(&self, domain: &Domain) -> bool {
        self.loopback.contains(domain) || (self.allow_loopback && domain.is_loopback())
    }

    pub(crate) fn descriptor_bytes(&self, domain: &Domain) -> usize {
        self.sizes.get(domain).and_then(|sizes| sizes.descriptor_bytes).unwrap_or(self.max_descriptor_bytes)
    }

    /// Of all domains.
    pub(crate) fn most_descriptor_bytes(&self) -> usize {
        self.sizes.values().filter_map(|sizes| sizes.descriptor_bytes).fold(self.max_descriptor_bytes, usize::max)
    }

    pub(crate) fn component_bytes(&self, domain: &Domain) -> usize {
        self.sizes.get(domain).and_then(|sizes| sizes.component_bytes).unwrap_or(self.max_component_bytes)
    }

    /// The defaults, for a runtime of this domain.
    #[must_use]
    pub fn new(home: Domain) -> Self {
        Self {
            home,
            cache_dir: None,
            max_store_bytes: 1024 * 1024 * 1024,
            accepted_versions: Bounds::ACCEPTED_VERSIONS,
            key_sets: Bounds::KEY_SETS,
            max_offline_age: DEFAULT_MAX_OFFLINE_AGE,
            network: true,
            max_descriptor_bytes: DEFAULT_DESCRIPTOR_BYTES,
            max_component_bytes: DEFAULT_COMPONENT_BYTES,
            sizes: BTreeMap::new(),
            descriptor_timeout: Duration::from_secs(15),
            component_timeout: Duration::from_secs(5 * 60),
            idle_timeout: Duration::from_secs(10),
            retries: 2,
            retry_delay: Duration::from_millis(200),
            allow_loopback: false,
            loopback: BTreeSet::new(),
            private: BTreeSet::new(),
            allow_http: false,
            unpinned: BTreeSet::new(),
            trust: TrustPolicy::default(),
            progress: None,
        }
    }
}
