//! The builder of a runtime, and its start.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use protostub_bus::{Bus, BusConfig, Inbox, Policy};
use protostub_catalogue::{Bounds, Catalogue, CatalogueConfig, DomainLimits, Source, trust::TrustPolicy};
use protostub_egress::{Egress, EgressConfig, Resolver};
use protostub_sandbox::{CompileWorker, CrashReport, Engine, EngineConfig, HostImport, Import, LimitOverrides, Limits};
use protostub_types::{Address, Allowances, Domain, DomainError, StubKey, call_hook};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;
use uuid::Uuid;

use crate::{
    config::{Config, hyperty_inbox},
    context::{EngineSlot, RuntimeContext},
    crash_reports::CrashReports,
    domain_settings::DomainSettings,
    endpoints,
    error::BuildError,
    identity::{CredentialError, CredentialProvider, IdentityModule, Network, provider_panicked},
    launch::DeployOnDemand,
    observer::{Observer, Progress},
    registry::Registry,
    restart::RestartPolicy,
    retirement::Retire,
    runtime::{OwnThreads, Runtime, Started},
    settings::{CacheSettings, LifecycleSettings, Settings, TotalSettings},
    status::{ChangeFeed, StatusForm},
    threads::probe_threads,
    triggers::Triggers,
    turns::Turns,
};

/// The time of a limit of a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Builds a [`Runtime`]. Only the home domain is required.
///
/// Plain values are [`Settings`]. [`Self::settings`] sets all of them, for example from a file.
/// Each also has a method of its own. The program alone sets everything else.
#[must_use]
#[derive(Default)]
pub struct RuntimeBuilder {
    settings: Settings,
    /// The error of the last home domain.
    home_error: Option<DomainError>,
    sources: Vec<Arc<dyn Source>>,
    credentials: Vec<Arc<dyn CredentialProvider>>,
    roots: Vec<Vec<u8>>,
    resolver: Option<Arc<dyn Resolver>>,
    policy: Option<Arc<dyn Policy>>,
    imports: Vec<Import>,
    compile_worker: Option<PathBuf>,
    status_form: StatusForm,
    progress: Observer<Progress>,
    crashes: Observer<CrashReport>,
}

impl Runtime {
    /// Begins to build a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }
}

/// All settings, or one of them.
impl RuntimeBuilder {
    /// Replaces all settings, including those that earlier calls have set.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self.home_error = None;
        self
    }

    /// Sets [`Settings::home`].
    pub fn home_domain(mut self, domain: impl Into<String>) -> Self {
        match Domain::parse(&domain.into()) {
            Ok(home) => (self.settings.home, self.home_error) = (Some(home), None),
            Err(error) => self.home_error = Some(error),
        }
        self
    }

    /// Sets [`Settings::worker_threads`].
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.settings.worker_threads = threads;
        self
    }

    /// Sets [`Settings::request_timeout`].
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Sets [`Settings::max_queued_bytes`].
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_queued_bytes = bytes;
        self
    }

    /// Sets [`NetworkSettings::allow_loopback`](crate::NetworkSettings::allow_loopback).
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.settings.network.allow_loopback = allow;
        self
    }

    /// Sets [`NetworkSettings::allow_http`](crate::NetworkSettings::allow_http).
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.settings.network.allow_http = allow;
        self
    }

    /// Sets [`NetworkSettings::proxy`](crate::NetworkSettings::proxy).
    pub fn proxy(mut self, url: Url) -> Self {
        self.settings.network.proxy = Some(url);
        self
    }

    /// Sets [`NetworkSettings::max_sockets`](crate::NetworkSettings::max_sockets).
    pub fn max_sockets(mut self, sockets: usize) -> Self {
        self.settings.network.max_sockets = Some(sockets);
        self
    }

    /// Sets [`CacheSettings::dir`](crate::CacheSettings::dir).
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.settings.cache.dir = Some(dir.into());
        self
    }

    /// Sets [`CacheSettings::code_dir`](crate::CacheSettings::code_dir).
    pub fn code_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.settings.cache.code_dir = Some(dir.into());
        self
    }

    /// Sets [`CacheSettings::key`](crate::CacheSettings::key).
    pub fn cache_key(mut self, file: impl Into<PathBuf>) -> Self {
        self.settings.cache.key = Some(file.into());
        self
    }

    /// Sets [`CacheSettings::allow_other_writers`](crate::CacheSettings::allow_other_writers).
    pub fn allow_other_writers(mut self, allow: bool) -> Self {
        self.settings.cache.allow_other_writers = allow;
        self
    }

    /// Sets [`CacheSettings::max_offline_age`](crate::CacheSettings::max_offline_age).
    pub fn max_offline_age(mut self, age: Duration) -> Self {
        self.settings.cache.max_offline_age = age;
        self
    }

    /// Sets the [bounds](crate::CacheSettings::max_accepted_versions) of the accepted versions of
    /// stubs.
    pub fn accepted_versions(mut self, bounds: Bounds) -> Self {
        let cache = &mut self.settings.cache;
        (cache.max_accepted_versions, cache.max_accepted_versions_per_domain) = (bounds.total, bounds.per_domain);
        self
    }

    /// Sets the [bounds](crate::CacheSettings::max_key_sets) of the key sets that domains publish.
    pub fn key_sets(mut self, bounds: Bounds) -> Self {
        let cache = &mut self.settings.cache;
        (cache.max_key_sets, cache.max_key_sets_per_domain) = (bounds.total, bounds.per_domain);
        self
    }

    /// Sets [`Settings::totals`].
    pub fn totals(mut self, totals: TotalSettings) -> Self {
        self.settings.totals = totals;
        self
    }

    /// Sets [`Settings::limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets [`LifecycleSettings::max_stubs`].
    pub fn max_stubs(mut self, stubs: usize) -> Self {
        self.settings.lifecycle.max_stubs = stubs;
        self
    }

    /// Sets [`LifecycleSettings::max_sandboxes`].
    pub fn max_sandboxes(mut self, sandboxes: usize) -> Self {
        self.settings.lifecycle.max_sandboxes = Some(sandboxes);
        self
    }

    /// Sets [`LifecycleSettings::retire_after`]: a time, or [`Retire::Never`].
    pub fn retire_after(mut self, retire: impl Into<Retire>) -> Self {
        self.settings.lifecycle.retire_after = retire.into();
        self
    }

    /// Sets [`LifecycleSettings::deployments_per_minute`].
    pub fn deployments_per_minute(mut self, deployments: u32) -> Self {
        self.settings.lifecycle.deployments_per_minute = deployments;
        self
    }

    /// Sets [`LifecycleSettings::compile_timeout`].
    pub fn compile_timeout(mut self, timeout: Duration) -> Self {
        self.settings.lifecycle.compile_timeout = timeout;
        self
    }

    /// Sets [`LifecycleSettings::compile_memory_bytes`].
    pub fn compile_memory_bytes(mut self, bytes: u64) -> Self {
        self.settings.lifecycle.compile_memory_bytes = bytes;
        self
    }

    /// Sets [`LifecycleSettings::connect_timeout`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.lifecycle.connect_timeout = timeout;
        self
    }

    /// Sets [`LifecycleSettings::grace`].
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.lifecycle.grace = grace;
        self
    }

    /// Sets [`Settings::restart`].
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.settings.restart = policy;
        self
    }

    /// Sets [`Settings::trust`]: see [`trust`](crate::trust).
    pub fn trust(mut self, policy: TrustPolicy) -> Self {
        self.settings.trust = policy;
        self
    }

    /// Adds the settings of one domain. [`Self::build`] fails if a domain was given twice.
    pub fn domain(mut self, domain: Domain, settings: DomainSettings) -> Self {
        self.settings.domains.add(domain, settings);
        self
    }
}

/// Values that only the program has.
impl RuntimeBuilder {
    /// Adds a source of descriptors and components. The runtime asks it after earlier sources and
    /// before the network.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Adds a provider of credentials. The runtime asks it after earlier providers. The first one
    /// that knows the domain answers. Default: none, stubs connect without a credential.
    pub fn credentials(mut self, provider: impl CredentialProvider) -> Self {
        self.credentials.push(Arc::new(provider));
        self
    }

    /// Adds trusted root certificates (PEM), such as those of a private CA, to those of the Mozilla
    /// root programme.
    pub fn trust_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Sets the resolver of names: a resolver for DNS over HTTPS, for example.
    ///
    /// The runtime checks its answers like all others, so they lead only to granted addresses. The
    /// library asks it on its own threads, and it must not block. A [proxy](Self::proxy) resolves
    /// names by itself. Default: the operating system's resolver.
    pub fn resolver(mut self, resolver: impl Resolver + 'static) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Offers an interface of the program's own to the stubs of domains that are granted it
    /// ([`DomainSettings::imports`]). See [`imports`](crate::imports).
    pub fn host_import(mut self, import: impl HostImport) -> Self {
        self.imports.push(Import::new(import));
        self
    }

    /// Compiles each component in a process of its own, which is killed after
    /// [`LifecycleSettings::compile_timeout`]. Default: none, this process compiles.
    ///
    /// The process has limits of computing time and memory
    /// ([`LifecycleSettings::compile_memory_bytes`]), so a component that is made to be hard to
    /// compile costs other stubs nothing. If the worker fails, the compilation fails: the runtime
    /// has no fallback.
    ///
    /// The runtime calls the executable as `<program> compile-worker`, and the executable has to
    /// call [`compile_worker`](crate::compile_worker) then. It is usually the program itself
    /// ([`std::env::current_exe`]), or the `protostub` command of the same version.
    pub fn compile_worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.compile_worker = Some(program.into());
        self
    }

    /// Sets the operator's rules. The bus asks them before every hop of every message, the
    /// runtime's own included. Default: none, only the rules that always hold.
    /// [`Runtime::set_policy`] replaces them later.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Sets the form of statuses on the bus. Default: that of the specification's first phase.
    pub fn status_form(mut self, form: StatusForm) -> Self {
        self.status_form = form;
        self
    }

    /// Sets a callback for the progress of downloads and compilations, for a progress bar. The
    /// callback runs in the task of the deployment: it must not block, and should be fast. A panic
    /// is logged, and the deployment continues.
    pub fn progress(mut self, hook: impl Fn(&StubKey, Progress) + Send + Sync + 'static) -> Self {
        self.progress = Observer::new("progress", move |key, progress: &Progress| hook(key, *progress));
        self
    }

    /// Sets a callback for crash reports. It gets the report of every instance that crashed or
    /// exceeded a limit, also during its start. The callback runs in the task of the stub: it must
    /// not block, and should be fast. A panic is logged, and has no effect on the stub.
    ///
    /// Reports over [`Limits::crash_reports_per_hour`] or
    /// [`TotalSettings::max_crash_reports_per_hour`] are left out, and counted.
    /// [`Protostub::last_crash`](crate::Protostub::last_crash) returns a deployed stub's last
    /// report.
    pub fn on_crash(mut self, hook: impl Fn(&StubKey, &CrashReport) + Send + Sync + 'static) -> Self {
        self.crashes = Observer::new("on_crash", hook);
        self
    }

    /// Starts the runtime.
    ///
    /// # Errors
    /// If a value cannot be used, or the machine refuses threads or memory.
    pub async fn build(self) -> Result<Runtime, BuildError> {
        start(self).await
    }
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

async fn start(builder: RuntimeBuilder) -> Result<Runtime, BuildError> {
    if let Some(error) = builder.home_error {
        return Err(BuildError::HomeDomain(error));
    }
    let home = builder.settings.home.clone().ok_or(BuildError::NoHomeDomain)?;
    builder.settings.check()?;
    probe_threads(builder.settings.worker_threads).map_err(BuildError::Threads)?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(builder.settings.worker_threads)
        .thread_name("protostub")
        .enable_all()
        .build()
        .map_err(BuildError::Threads)?;
    let (on_threads, on_these) = (threads.handle().clone(), threads.handle().clone());
    // Reading roots, reserving memory for sandboxes and opening the store take time. Doing that
    // here keeps the program's threads free.
    let threads = OwnThreads::new(threads);
    let starting = on_threads.spawn_blocking(move || Ok(Runtime::new(start_parts(home, builder, on_these)?, threads)));
    let started = starting.await;
    started.map_err(|error| BuildError::Threads(std::io::Error::other(error)))?
}

fn check_provider(provider: &dyn CredentialProvider) -> Result<(), CredentialError> {
    call_hook("CredentialProvider::check", || provider.check()).map_err(provider_panicked).flatten()
}

/// Returns the domain's own limits of the documents in its catalogue.
fn of_catalogue(limits: &LimitOverrides) -> DomainLimits {
    DomainLimits {
        descriptor_bytes: limits.descriptor_bytes,
        component_bytes: limits.component_bytes,
        downloads_per_hour: limits.downloads_per_hour,
        download_bytes_per_hour: limits.download_bytes_per_hour,
    }
}

fn start_parts(home: Domain, builder: RuntimeBuilder, threads: Handle) -> Result<Started, BuildError> {
    let Settings {
        worker_threads,
        request_timeout,
        max_queued_bytes,
        network,
        cache,
        limits,
        totals,
        lifecycle,
        restart,
        trust,
        domains,
        ..
    } = builder.settings;
    domains.check().map_err(BuildError::Domains)?;
    builder.credentials.iter().try_for_each(|provider| check_provider(&**provider)).map_err(BuildError::Credentials)?;
    if let Some(warning) = access_warning(protostub_files::CHECKS_OTHER_USERS, &cache, !builder.credentials.is_empty()) {
        tracing::warn!(target: "protostub", "{warning}");
    }
    let runtime_url = Address::parse(&format!("runtime://{home}/{}", Uuid::new_v4()))?;
    let status_url = runtime_url.join("status")?;
    let mut egress = EgressConfig::default();
    egress.extra_roots_pem = builder.roots;
    egress.proxy = network.proxy;
    egress.resolver = builder.resolver;
    egress.max_sockets = network.max_sockets;
    let egress = Egress::new(egress).map_err(BuildError::Egress)?;
    let domains_where = |says: fn(&DomainSettings) -> bool| {
        let domains = domains.iter().filter(|(_, settings)| says(settings));
        domains.map(|(domain, _)| domain.clone()).collect()
    };
    let mut catalogue = CatalogueConfig::new(home.clone());
    catalogue.cache_dir.clone_from(&cache.dir);
    catalogue.cache_key.clone_from(&cache.key);
    catalogue.allow_other_writers = cache.allow_other_writers;
    catalogue.max_offline_age = cache.max_offline_age;
    catalogue.accepted_versions = cache.accepted_versions();
    catalogue.key_sets = cache.key_sets();
    catalogue.allow_loopback = network.allow_loopback;
    catalogue.allow_http = network.allow_http;
    catalogue.progress = Some(Arc::new(builder.progress.clone()));
    catalogue.private = domains_where(|settings| settings.allow_private);
    catalogue.loopback = domains_where(|settings| settings.allow_loopback);
    catalogue.unpinned = domains_where(|settings| settings.waive_digest);
    catalogue.trust = trust;
    for (domain, settings) in domains.iter() {
        let of_domain = catalogue.trust.domains.entry(domain.clone()).or_default();
        of_domain.signatures = settings.signatures.or(of_domain.signatures);
        of_domain.keys.extend(settings.trusted_keys.iter().cloned());
    }
    catalogue.max_descriptor_bytes = limits.descriptor_bytes;
    catalogue.max_component_bytes = limits.component_bytes;
    catalogue.max_downloads_per_hour = limits.downloads_per_hour;
    catalogue.max_download_bytes_per_hour = limits.download_bytes_per_hour;
    catalogue.downloads = totals.downloads();
    catalogue.of_domains = domains.iter().map(|(domain, settings)| (domain.clone(), of_catalogue(&settings.limits))).collect();
    let of_domains = domains.values().filter_map(|settings| settings.limits.component_bytes);
    let max_component_bytes = of_domains.fold(catalogue.max_component_bytes, usize::max);
    let catalogue = Catalogue::new(catalogue, egress.clone(), builder.sources).map_err(BuildError::Catalogue)?;
    for (domain, settings) in domains.iter() {
        let offered = |interface: &&String| builder.imports.iter().any(|import| import.interface() == interface.as_str());
        if let Some(interface) = settings.imports.iter().find(|interface| !offered(interface)) {
            return Err(BuildError::UnknownImport { domain: domain.clone(), interface: interface.clone() });
        }
    }
    let mut engine = EngineConfig::default();
    engine.imports = builder.imports;
    engine.max_component_bytes = max_component_bytes;
    engine.cache_dir = cache.compiled_code_dir();
    engine.cache_key = cache.key;
    engine.allow_other_writers = cache.allow_other_writers;
    engine.compile_worker = builder.compile_worker.map(|program| {
        let mut worker = CompileWorker::new(program);
        worker.memory_bytes = lifecycle.compile_memory_bytes;
        // The worker has one thread, so it cannot compute more in this time.
        worker.cpu_seconds = lifecycle.compile_timeout.as_secs().saturating_add(1);
        worker
    });
    engine.max_sandboxes = max_sandboxes(&lifecycle);
    engine.max_total_memory_bytes = totals.max_memory_bytes;
    let engine = Engine::new(&engine).map_err(BuildError::Engine)?;
    let mut bus = BusConfig::new(home.clone(), runtime_url.clone());
    bus.request_timeout = request_timeout;
    bus.max_queued_bytes = max_queued_bytes;
    let bus = Bus::new(bus);
    bus.set_policy(builder.policy);

    let registry_inbox = bus.inbox(hyperty_inbox(&limits));
    let ua_inbox = bus.inbox(hyperty_inbox(&limits));
    let identity_inbox = bus.inbox(hyperty_inbox(&limits));
    let listen = |segment: &str, inbox: &Inbox| {
        let address = runtime_url.join(segment)?;
        bus.attach(&address, &inbox.mailbox()).map_err(BuildError::Bus)
    };
    let routes = vec![
        listen("status", &registry_inbox)?,
        listen("registry", &registry_inbox)?,
        listen("ua", &ua_inbox)?,
        listen("identity", &identity_inbox)?,
    ];
    let loopback = domains.iter().filter(|(_, settings)| settings.allow_loopback);
    let token_network = Network {
        egress: egress.clone(),
        allow_loopback: network.allow_loopback,
        loopback: Arc::new(loopback.map(|(domain, _)| domain.clone()).collect()),
    };
    // The other half of the timeout is for the stub's connection.
    let identity = IdentityModule::new(builder.credentials, token_network, lifecycle.connect_timeout / 2);

    let context = Arc::new(RuntimeContext {
        registry: Registry::new(runtime_url.clone(), lifecycle.max_stubs, Triggers::new(lifecycle.deployments_per_minute)),
        changes: ChangeFeed::default(),
        registry_mailbox: registry_inbox.mailbox(),
        config: Config {
            allow_loopback: network.allow_loopback,
            limits,
            lifecycle,
            restart,
            domains,
            status_form: builder.status_form,
            progress: builder.progress,
        },
        log: Allowances::new(totals.max_log_bytes_per_day, DAY),
        crashes: CrashReports::new(builder.crashes, &totals),
        home,
        runtime_url,
        status_url,
        bus,
        catalogue,
        egress,
        engine: EngineSlot::new(engine),
        identity: Arc::new(identity),
        threads,
        turns: Turns::new(worker_threads),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        stubs_ended: CancellationToken::new(),
    });
    context.bus.set_unroutable(Arc::new(DeployOnDemand { context: Arc::downgrade(&context) }));
    let registry = context.threads.spawn(endpoints::registry::listen(Arc::clone(&context), registry_inbox));
    context.spawn(endpoints::ua::listen(Arc::clone(&context), ua_inbox));
    context.spawn(endpoints::identity::listen(Arc::clone(&context), identity_inbox));
    let (bus, stop) = (context.bus.clone(), context.stop.clone());
    context.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = bus.run_deadlines() => {}
        }
    });
    Ok(Started { context, registry, routes })
}

/// Returns a warning if the runtime cannot check who else has access to its files.
fn access_warning(checks_other_users: bool, cache: &CacheSettings, has_credentials: bool) -> Option<&'static str> {
    let has_files = has_credentials || cache.compiled_code_dir().is_some();
    (has_files && !checks_other_users).then_some(
        "the access of other users to the cache, its keys and files of credentials is not checked on this system; keep these \
         files where no other user can read or write them",
    )
}

/// Returns the number of sandboxes: the operator's, or one for each stub if the machine allows
/// that.
fn max_sandboxes(lifecycle: &LifecycleSettings) -> usize {
    // During an overlapping update, a stub has two sandboxes.
    let wanted = lifecycle.max_stubs.saturating_add(1);
    let most = Engine::most_sandboxes().unwrap_or(usize::MAX);
    if lifecycle.max_sandboxes.is_none() && wanted > most {
        tracing::warn!(
            target: "protostub", stubs = lifecycle.max_stubs, sandboxes = most,
            "this machine allows fewer sandboxes than stubs: the runtime retires idle stubs when others need a sandbox; raise `vm.max_map_count` to allow more"
        );
    }
    lifecycle.max_sandboxes.unwrap_or_else(|| wanted.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchecked_access_to_files_is_a_warning() {
        let (none, mut dir, mut code) = (CacheSettings::default(), CacheSettings::default(), CacheSettings::default());
        dir.dir = Some("cache".into());
        code.code_dir = Some("code".into());
        for (cache, has_credentials, warns) in
            [(&none, false, false), (&none, true, true), (&dir, false, true), (&code, false, true)]
        {
            assert_eq!(access_warning(false, cache, has_credentials).is_some(), warns);
            assert_eq!(access_warning(true, cache, has_credentials), None);
        }
        assert_eq!(protostub_files::CHECKS_OTHER_USERS, cfg!(unix));
    }
}
