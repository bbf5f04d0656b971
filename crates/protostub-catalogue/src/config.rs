use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use protostub_types::{DEFAULT_COMPONENT_BYTES, DEFAULT_DESCRIPTOR_BYTES, Domain};

use crate::{DownloadProgress, trust::TrustPolicy};

/// Settings of a [`Catalogue`](crate::Catalogue). [`Self::new`] gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CatalogueConfig {
    /// The runtime's own domain. Its catalogue is asked for the stubs of domains that publish none.
    pub home: Domain,
    /// Folder for components, copies of descriptors, domains' keys and accepted versions. They go
    /// into its folders `components`, `descriptors`, `keys` and `committed`. With `None`, only
    /// accepted versions and keys are kept, in memory. Several processes of one user may share the
    /// folder. No other user may be able to replace it, or a folder on the path to it.
    pub cache_dir: Option<PathBuf>,
    /// File with the key that authenticates copies of descriptors, domains' keys and accepted
    /// versions in [`Self::cache_dir`]. If the file is missing, the catalogue creates it, for its
    /// owner only. The file may not be in the folders that it authenticates.
    ///
    /// `None` puts the key into the folder itself, as `trust.key`. With another key, copies are
    /// fetched again, and accepted versions refuse their stubs as damaged records.
    pub cache_key: Option<PathBuf>,
    /// If other users may own, or write to, the folders on the path to [`Self::cache_dir`] and that
    /// folder itself: `false`. They can then remove records, or put earlier ones in their place.
    pub allow_other_writers: bool,
    /// Maximum size of the stored components together, in bytes: 1 GiB. The component that was not
    /// used for the longest time is removed first.
    pub max_store_bytes: u64,
    /// Maximum number of accepted versions of stubs: 16,384 in all, and 256 for each registrable
    /// domain.
    pub accepted_versions: Bounds,
    /// Maximum number of key sets of domains: 1,024 in all, and 16 for each registrable domain.
    pub key_sets: Bounds,
    /// Maximum age of a copy of a descriptor, since the domain last confirmed it, for use while the
    /// domain cannot be reached: 30 days. With zero, such copies are not used at all.
    pub max_offline_age: Duration,
    /// Asks domains over the network. With `false`, only the added sources are asked. Default:
    /// `true`.
    pub network: bool,
    /// Maximum size of a descriptor, in bytes: 256 KiB. Code inside the descriptor counts.
    pub max_descriptor_bytes: usize,
    /// Maximum size of a component, in bytes: 64 MiB.
    pub max_component_bytes: usize,
    /// Maximum number of downloads per hour from a registrable domain: 3600. Each attempt counts.
    /// The home domain has no limit of its own.
    pub max_downloads_per_hour: u64,
    /// Maximum number of bytes per hour from a registrable domain: 1 GiB. The home domain has no
    /// limit of its own.
    pub max_download_bytes_per_hour: u64,
    /// Limits of the downloads of all domains together.
    pub downloads: DownloadTotals,
    /// Limits of single domains, where they differ from the ones for all.
    pub of_domains: BTreeMap<Domain, DomainLimits>,
    /// Timeout of one URL for a descriptor, with all retries: 15 s.
    pub descriptor_timeout: Duration,
    /// Timeout of a component, with all retries: 5 min.
    pub component_timeout: Duration,
    /// Timeout of an attempt that receives no data: 10 s.
    pub idle_timeout: Duration,
    /// Number of retries after a transient fault: 2. The count restarts after an attempt that
    /// received at least 64 KiB of a download which can be resumed.
    pub retries: usize,
    /// Delay before the first retry: 200 ms. It doubles with each further retry, up to 2 s. A
    /// random extension makes it at most twice as long.
    pub retry_delay: Duration,
    /// Asks domains that are loopback by their own name ([`Domain::is_loopback`]), over plain HTTP.
    /// Default: no.
    pub allow_loopback: bool,
    /// Domains that may be on this machine by any name, with the code that they serve themselves.
    /// Default: empty.
    pub loopback: BTreeSet<Domain>,
    /// Domains that may be in private networks, with the code that their descriptors name. Default:
    /// empty.
    pub private: BTreeSet<Domain>,
    /// Asks all domains over plain HTTP instead of HTTPS: for laboratories without certificates.
    /// Default: no.
    pub allow_http: bool,
    /// Domains whose stubs need no digest, as long as their code comes from the domain itself.
    /// Default: empty.
    pub unpinned: BTreeSet<Domain>,
    /// Trusted signers, and the domains that must sign. Signatures that are present are verified by
    /// the domains' own keys.
    pub trust: TrustPolicy,
    /// Receiver of the progress of component downloads. Default: `None`.
    pub progress: Option<Arc<dyn DownloadProgress>>,
}

/// Default of [`CatalogueConfig::max_offline_age`]: 30 days.
pub const DEFAULT_MAX_OFFLINE_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Maximum number of records of trust state. A record is replaced only by another one of the same
/// registrable domain. When the total is reached, stubs of further domains are not deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "records are counted in all and for each registrable domain")]
pub struct Bounds {
    /// Maximum in all.
    pub total: usize,
    /// Maximum for each registrable domain. At least one record is kept.
    pub per_domain: usize,
}

/// Limits of the documents of one domain, where they differ from the ones for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the limits that a domain can have of its own, and nothing else")]
pub struct DomainLimits {
    /// Maximum size of its descriptors, in bytes, in place of
    /// [`CatalogueConfig::max_descriptor_bytes`].
    pub descriptor_bytes: Option<usize>,
    /// Maximum size of its stub's component, in bytes, in place of
    /// [`CatalogueConfig::max_component_bytes`].
    pub component_bytes: Option<usize>,
    /// Maximum number of downloads per hour, in place of
    /// [`CatalogueConfig::max_downloads_per_hour`].
    pub downloads_per_hour: Option<u64>,
    /// Maximum number of bytes per hour, in place of
    /// [`CatalogueConfig::max_download_bytes_per_hour`].
    pub download_bytes_per_hour: Option<u64>,
}

/// Limits of the downloads of all domains together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the limits of downloads in all, and nothing else")]
pub struct DownloadTotals {
    /// Maximum number of downloads per hour: 36,000. An attempt counts as one.
    pub per_hour: u64,
    /// Maximum number of bytes per hour: 10 GiB.
    pub bytes_per_hour: u64,
    /// Maximum number of downloads at a time: 128. Further ones wait.
    pub concurrent: u64,
    /// Maximum number of bytes in memory, from the answer's head until the component is compiled:
    /// 512 MiB. Further downloads wait.
    pub memory_bytes: u64,
}

impl Default for DownloadTotals {
    fn default() -> Self {
        Self { per_hour: 36_000, bytes_per_hour: 10 << 30, concurrent: 128, memory_bytes: 512 << 20 }
    }
}

impl Bounds {
    /// Default limits for the accepted versions of stubs.
    pub const ACCEPTED_VERSIONS: Self = Self { total: 16_384, per_domain: 256 };
    /// Default limits for the key sets that domains publish.
    pub const KEY_SETS: Self = Self { total: 1_024, per_domain: 16 };
}

impl CatalogueConfig {
    /// Returns `true` if the documents of this domain may be on this machine.
    pub(crate) fn reaches_loopback(&self, domain: &Domain) -> bool {
        self.loopback.contains(domain) || (self.allow_loopback && domain.is_loopback())
    }

    pub(crate) fn descriptor_bytes(&self, domain: &Domain) -> usize {
        self.of_domains.get(domain).and_then(|limits| limits.descriptor_bytes).unwrap_or(self.max_descriptor_bytes)
    }

    /// Returns the largest limit of descriptors of all domains.
    pub(crate) fn most_descriptor_bytes(&self) -> usize {
        self.of_domains.values().filter_map(|limits| limits.descriptor_bytes).fold(self.max_descriptor_bytes, usize::max)
    }

    pub(crate) fn component_bytes(&self, domain: &Domain) -> usize {
        self.of_domains.get(domain).and_then(|limits| limits.component_bytes).unwrap_or(self.max_component_bytes)
    }

    pub(crate) fn downloads_per_hour(&self, domain: &Domain) -> u64 {
        self.of_domains.get(domain).and_then(|limits| limits.downloads_per_hour).unwrap_or(self.max_downloads_per_hour)
    }

    pub(crate) fn download_bytes_per_hour(&self, domain: &Domain) -> u64 {
        self.of_domains.get(domain).and_then(|limits| limits.download_bytes_per_hour).unwrap_or(self.max_download_bytes_per_hour)
    }

    /// Returns the defaults, for a runtime of this domain.
    #[must_use]
    pub fn new(home: Domain) -> Self {
        Self {
            home,
            cache_dir: None,
            cache_key: None,
            allow_other_writers: false,
            max_store_bytes: 1024 * 1024 * 1024,
            accepted_versions: Bounds::ACCEPTED_VERSIONS,
            key_sets: Bounds::KEY_SETS,
            max_offline_age: DEFAULT_MAX_OFFLINE_AGE,
            network: true,
            max_descriptor_bytes: DEFAULT_DESCRIPTOR_BYTES,
            max_component_bytes: DEFAULT_COMPONENT_BYTES,
            max_downloads_per_hour: 3_600,
            max_download_bytes_per_hour: 1 << 30,
            downloads: DownloadTotals::default(),
            of_domains: BTreeMap::new(),
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
