//! Settings of a runtime, as its builder and a settings file state them.

use std::{fmt, num::NonZero, path::PathBuf, time::Duration};

use protostub_bus::{DEFAULT_QUEUED_BYTES, DEFAULT_REQUEST_TIMEOUT};
use protostub_catalogue::{Bounds, DEFAULT_MAX_OFFLINE_AGE, DownloadTotals, trust::TrustPolicy};
use protostub_sandbox::{CompileWorker, Limits};
use protostub_types::{Domain, UniqueMap, settings::seconds};
use serde::Deserialize;
use url::Url;

use crate::{domain_settings::DomainSettings, restart::RestartPolicy, retirement::Retire};

/// Minimum number of threads. The worst stubs block three threads for a moment.
const MIN_THREADS: usize = 4;

/// Settings of a runtime: plain values, which a program can read from a file.
///
/// Keys are the fields' names in kebab-case. The name of a time ends with its unit
/// (`grace-seconds`). A missing key has its default. Unknown keys are errors. [`Self::check`]
/// refuses values that cannot work. Zero is such a value, unless the field says otherwise.
///
/// The program gives all other values to the [`RuntimeBuilder`](crate::RuntimeBuilder): sources,
/// credentials, root certificates, the policy, the resolver, callbacks and the executable that
/// compiles. [Keys that sign](DomainSettings::trusted_keys) come from the program too.
///
/// ```
/// use protostub_runtime::{Runtime, Settings};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings: Settings = toml::from_str(
///     r#"
///     home = "home.example"
///
///     [lifecycle]
///     max-stubs = 100
///     retire-after-seconds = 600
///
///     [limits]
///     timers = 32
///
///     [domains."sp1.example"]
///     grants = ["*.cdn.example:443"]
///     limits = { memory-bytes = 134217728 }
///     retire-after-seconds = "never"
///     "#,
/// )?;
/// let runtime = Runtime::builder().settings(settings).build().await?;
/// assert_eq!(runtime.home_domain().as_str(), "home.example");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct Settings {
    /// The domain that the runtime belongs to. The runtime asks the catalogue of this domain for
    /// stubs of domains that publish none themselves. Required.
    pub home: Option<Domain>,
    /// Number of threads that run guests and the bus: 1 to 1024. Default: one for each processor,
    /// and at least four.
    ///
    /// A guest in an operation that cannot be interrupted, such as filling its memory, blocks its
    /// thread. The threads are the library's own: a stub in an endless loop takes none of the
    /// program's. At most half of them compute deployments at a time.
    pub worker_threads: usize,
    /// Time that a request waits for its response, unless it has a timeout of its own: 600 s at
    /// most. Default: 15 s.
    #[serde(rename = "request-timeout-seconds", deserialize_with = "seconds")]
    pub request_timeout: Duration,
    /// Maximum memory of all messages that wait in inboxes, in bytes: twice `body-bytes` at least.
    /// Default: 256 MiB.
    ///
    /// The runtime refuses further messages with 429. An eighth of the memory is a reserve for
    /// receivers that keep up: the first 32 KiB of each inbox (an 8192nd of the maximum). More than
    /// 1024 inboxes may exceed the maximum by their reserves. Another eighth is for what the
    /// allocator adds. A sender gets no more of the rest than is left, so one sender gets at most
    /// half.
    pub max_queued_bytes: usize,
    /// Connections of the runtime and of all stubs.
    pub network: NetworkSettings,
    /// Files that outlive the process, and the trust state.
    pub cache: CacheSettings,
    /// Limits of each stub whose domain does not override them.
    pub limits: Limits,
    /// Limits of all stubs together.
    pub totals: TotalSettings,
    /// Deployment and retirement of stubs.
    pub lifecycle: LifecycleSettings,
    /// Restarts of each stub whose domain does not override them.
    pub restart: RestartPolicy,
    /// Trusted signatures. The [`DomainSettings`] of a domain override them.
    pub trust: TrustPolicy,
    /// Settings of single domains.
    pub domains: UniqueMap<Domain, DomainSettings>,
}

/// Connections of the runtime and of all stubs.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct NetworkSettings {
    /// Lets descriptors, components and stubs of loopback domains come from, and connect to, this
    /// machine, without TLS too. For development and tests. Loopback domains are `localhost`, names
    /// below it, 127/8 and ::1. Another domain needs [`DomainSettings::allow_loopback`]. Default:
    /// no.
    pub allow_loopback: bool,
    /// Asks all catalogues over plain HTTP instead of HTTPS: for laboratories without certificates.
    /// An attacker between the runtime and a catalogue can replace the stub. Default: no.
    pub allow_http: bool,
    /// HTTP proxy for every connection. The proxy resolves the names of hosts. The runtime reads no
    /// environment variable for it. Default: none.
    pub proxy: Option<Url>,
    /// Maximum number of sockets that all stubs and the runtime itself have open at a time: 8 to
    /// the process's soft limit on descriptors. Default: that limit, less a quarter (64 to 1024).
    ///
    /// The runtime keeps an eighth of them (at most 128) for itself. A stub gets no more than the
    /// rest. The library never changes the process's limit; the `protostub` command raises it.
    pub max_sockets: Option<usize>,
}

/// Files that outlive the process, and the trust state: accepted versions and domains' keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct CacheSettings {
    /// Folder of descriptors, components, their compiled forms and the trust state, for this and
    /// other processes of the same user. Default: none, nothing outlives the process.
    ///
    /// Other users must not be able to replace a folder on the path, or in the folder. The runtime
    /// checks that. A shared folder like `/tmp`, where only the owner of a file can replace it, is
    /// possible.
    pub dir: Option<PathBuf>,
    /// Folder of the compiled forms of components. Default: `compiled` in [`Self::dir`].
    ///
    /// Runtimes that share nothing else can share this folder. It has the same access rules as
    /// [`Self::dir`].
    pub code_dir: Option<PathBuf>,
    /// File with the key that authenticates compiled code before it is loaded, and the copies of
    /// descriptors and the trust state before they count. The runtime creates the file if it is
    /// missing. Default: two keys, one next to the folder of the code, with its name and `.key`,
    /// and `trust.key` in [`Self::dir`].
    ///
    /// Put the key elsewhere if these folders are copied, restored from a backup, or on a disk that
    /// other users can write to. Keep the key: accepted versions that another key has authenticated
    /// refuse their stubs as damaged records.
    pub key: Option<PathBuf>,
    /// Allows other users to own, or to write to, the folders on the path to [`Self::dir`],
    /// [`Self::code_dir`] and [`Self::key`], and [`Self::dir`] itself. Default: `false`.
    ///
    /// This is for volumes that the process cannot close, as those of Kubernetes: they belong to
    /// the superuser and are open to all, or to a group (`fsGroup`). The folders that the runtime
    /// creates there are still the user's alone, and keys authenticate their files.
    ///
    /// Other writers can remove the folders, and put an earlier state in their place. Then
    /// accepted versions are lost, and older versions of stubs can be deployed. With each mount,
    /// Kubernetes gives the volume's group access to the keys, until the runtime starts. A member
    /// of the group who reads a key then can have the runtime execute any code. If other containers
    /// have the volume, put [`Self::key`] on another one.
    pub allow_other_writers: bool,
    /// Maximum age of a domain's last answer for a deployment from the cache while the domain's
    /// catalogue cannot be reached. Default: 30 days. Zero disables deployments from the cache.
    #[serde(rename = "max-offline-seconds", deserialize_with = "seconds")]
    pub max_offline_age: Duration,
    /// Maximum number of accepted versions of stubs. An accepted version prevents the deployment of
    /// older ones. Default: 16,384.
    ///
    /// At this limit, stubs of further domains are not deployed. Without a [folder](Self::dir), the
    /// runtime forgets the versions when it ends.
    pub max_accepted_versions: usize,
    /// Maximum number of accepted versions of one registrable domain. At this limit, the least
    /// recently used one is removed. Default: 256.
    pub max_accepted_versions_per_domain: usize,
    /// Maximum number of published key sets of domains. The runtime keeps them for when a domain
    /// cannot be asked. Default: 1,024.
    pub max_key_sets: usize,
    /// Maximum number of key sets of one registrable domain. Default: 16.
    pub max_key_sets_per_domain: usize,
}

/// Limits of all stubs together. A stub, or the registrable domain of a download, gets no more than
/// is left for all others, so one of them never has more than half.
///
/// The hour or day of a limit begins with the first use, and the next one with the first use after
/// that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct TotalSettings {
    /// Maximum size of the linear memories of all instances together, in bytes, touched or not.
    /// Beyond it, memories do not grow, and stubs do not start. Default: the size of the machine's
    /// memory. In a container with less, set its size.
    pub max_memory_bytes: Option<usize>,
    /// Maximum size of the log lines of all stubs in a day, in bytes. Zero drops all lines.
    /// Default: 1 GiB.
    pub max_log_bytes_per_day: u64,
    /// Maximum number of downloads of all domains in an hour. Each attempt counts. Default: 36,000.
    pub max_downloads_per_hour: u64,
    /// Maximum size of the downloads of all domains in an hour, in bytes. Default: 10 GiB.
    pub max_download_bytes_per_hour: u64,
    /// Maximum number of downloads at a time. Further ones wait. Default: 128.
    pub max_concurrent_downloads: u64,
    /// Maximum size of the downloads in memory, in bytes, until their components are compiled.
    /// Further ones wait. At least twice [`Limits::component_bytes`]. Default: 512 MiB.
    pub max_download_memory_bytes: u64,
    /// Maximum number of crash reports of all stubs in an hour that the runtime passes on. Zero
    /// passes none on. Default: 1000.
    pub max_crash_reports_per_hour: u64,
    /// Maximum number of stubs whose last crash report is kept. The oldest report gives way. Zero
    /// keeps none. Default: 128.
    pub max_kept_crash_reports: usize,
}

/// Deployment and retirement of stubs: numbers and times.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct LifecycleSettings {
    /// Maximum number of deployed stubs. Default: 1000.
    pub max_stubs: usize,
    /// Maximum number of stubs that have a sandbox at a time. Default: all stubs, or as many as the
    /// machine allows a process. A number above the machine's is an error.
    ///
    /// When a stub needs a sandbox and none is free, the runtime retires the stub that has been
    /// idle for longest, and for at least a second.
    pub max_sandboxes: Option<usize>,
    /// Time after which an idle stub is retired. Default: never.
    #[serde(rename = "retire-after-seconds")]
    pub retire_after: Retire,
    /// Maximum number of deployments per minute that each hyperty, and each stub that may deploy
    /// others, triggers. The runtime refuses further ones with 429. The host program's own calls do
    /// not count. With zero, only they deploy stubs. Default: 60.
    pub deployments_per_minute: u32,
    /// Maximum time for compiling a component, including the wait for earlier components. Default:
    /// 60 s.
    ///
    /// Without a [compile worker](crate::RuntimeBuilder::compile_worker), this process compiles one
    /// component after another, in one thread. The compiler cannot be interrupted and continues
    /// after the timeout. A compile worker is killed at the timeout.
    #[serde(rename = "compile-timeout-seconds", deserialize_with = "seconds")]
    pub compile_timeout: Duration,
    /// Maximum address space of a [compile worker](crate::RuntimeBuilder::compile_worker), in
    /// bytes: 64 MiB at least. Default: 4 GiB.
    pub compile_memory_bytes: u64,
    /// Maximum time from the order to connect until the stub is live. Default: 30 s.
    ///
    /// A stub that was never live has failed after this time. A stub that was live before has this
    /// time to report that it cannot connect. It then keeps its instance and tries again, because
    /// the instance may hold messages that it could not send. Without a report, the instance ends.
    #[serde(rename = "connect-timeout-seconds", deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// Maximum time that a stub takes to disconnect from its domain. With zero, a stub ends at
    /// once. Default: 5 s.
    #[serde(rename = "grace-seconds", deserialize_with = "seconds")]
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            home: None,
            worker_threads: std::thread::available_parallelism().map_or(1, NonZero::get).max(MIN_THREADS),
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            max_queued_bytes: DEFAULT_QUEUED_BYTES,
            network: NetworkSettings::default(),
            cache: CacheSettings::default(),
            limits: Limits::default(),
            totals: TotalSettings::default(),
            lifecycle: LifecycleSettings::default(),
            restart: RestartPolicy::default(),
            trust: TrustPolicy::default(),
            domains: UniqueMap::new(),
        }
    }
}

impl Settings {
    /// Returns the default settings of a runtime of this domain.
    #[must_use]
    pub fn new(home: Domain) -> Self {
        Self { home: Some(home), ..Self::default() }
    }
}

/// Leaves out the user and the password of the proxy.
impl fmt::Debug for NetworkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allow_loopback, allow_http, proxy, max_sockets } = self;
        f.debug_struct("NetworkSettings")
            .field("allow_loopback", allow_loopback)
            .field("allow_http", allow_http)
            .field("proxy", &proxy.as_ref().and_then(Url::host_str))
            .field("max_sockets", max_sockets)
            .finish()
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        let (versions, key_sets) = (Bounds::ACCEPTED_VERSIONS, Bounds::KEY_SETS);
        Self {
            dir: None,
            code_dir: None,
            key: None,
            allow_other_writers: false,
            max_offline_age: DEFAULT_MAX_OFFLINE_AGE,
            max_accepted_versions: versions.total,
            max_accepted_versions_per_domain: versions.per_domain,
            max_key_sets: key_sets.total,
            max_key_sets_per_domain: key_sets.per_domain,
        }
    }
}

impl CacheSettings {
    /// Returns the bounds of the accepted versions of stubs.
    #[must_use]
    pub fn accepted_versions(&self) -> Bounds {
        Bounds { total: self.max_accepted_versions, per_domain: self.max_accepted_versions_per_domain }
    }

    /// Returns the bounds of the key sets that domains publish.
    #[must_use]
    pub fn key_sets(&self) -> Bounds {
        Bounds { total: self.max_key_sets, per_domain: self.max_key_sets_per_domain }
    }

    /// Returns the folder of the compiled forms of components: [`Self::code_dir`], or its default.
    #[must_use]
    pub fn compiled_code_dir(&self) -> Option<PathBuf> {
        self.code_dir.clone().or_else(|| self.dir.as_ref().map(|dir| dir.join("compiled")))
    }
}

impl Default for TotalSettings {
    fn default() -> Self {
        let DownloadTotals { per_hour, bytes_per_hour, concurrent, memory_bytes } = DownloadTotals::default();
        Self {
            max_memory_bytes: None,
            max_log_bytes_per_day: 1 << 30,
            max_downloads_per_hour: per_hour,
            max_download_bytes_per_hour: bytes_per_hour,
            max_concurrent_downloads: concurrent,
            max_download_memory_bytes: memory_bytes,
            max_crash_reports_per_hour: 1_000,
            max_kept_crash_reports: 128,
        }
    }
}

impl TotalSettings {
    /// Returns the limits of the downloads of all domains.
    #[must_use]
    pub fn downloads(&self) -> DownloadTotals {
        DownloadTotals {
            per_hour: self.max_downloads_per_hour,
            bytes_per_hour: self.max_download_bytes_per_hour,
            concurrent: self.max_concurrent_downloads,
            memory_bytes: self.max_download_memory_bytes,
        }
    }
}

impl Default for LifecycleSettings {
    fn default() -> Self {
        Self {
            max_stubs: 1000,
            max_sandboxes: None,
            retire_after: Retire::default(),
            deployments_per_minute: 60,
            compile_timeout: Duration::from_secs(60),
            compile_memory_bytes: CompileWorker::MEMORY_BYTES,
            connect_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_debug_shows_no_password_of_the_proxy() {
        let network: NetworkSettings = toml::from_str("proxy = 'http://user:sesame@proxy.example'").unwrap();
        let debug = format!("{network:?}");
        assert!(debug.contains("proxy.example") && !debug.contains("sesame") && !debug.contains("user"), "{debug}");
    }

    #[test]
    fn settings_of_an_empty_file_are_the_defaults() {
        let settings: Settings = toml::from_str("").unwrap();
        assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
        let groups: Settings =
            toml::from_str("[network]\n[cache]\n[limits]\n[totals]\n[lifecycle]\n[restart]\n[trust]\n").unwrap();
        assert_eq!(format!("{groups:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn settings_with_an_unknown_key_are_refused() {
        for text in ["hom = 1", "[network]\nprox = 1", "[limits]\ntimer = 1", "[domains.'a.example']\nlimits = { timer = 1 }"] {
            let error = toml::from_str::<Settings>(text).unwrap_err();
            assert!(error.message().starts_with("unknown field"), "{text}: {error}");
        }
    }

    #[test]
    fn retire_is_seconds_or_never() {
        let check = |text: &str, expected: Option<Retire>| {
            let read: Result<LifecycleSettings, _> = toml::from_str(&format!("retire-after-seconds = {text}"));
            assert_eq!(read.ok().map(|settings| settings.retire_after), expected, "{text}");
        };
        check("'never'", Some(Retire::Never));
        check("0", Some(Retire::Never));
        check("600", Some(Retire::After(Duration::from_secs(600))));
        check("-1", None);
        check("'soon'", None);
        check("1.5", None);
        check("true", None);
        assert_eq!(Retire::After(Duration::ZERO).time(), None);
    }
}
