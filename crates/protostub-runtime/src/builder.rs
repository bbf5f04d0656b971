//! The settings of a runtime, and its start.

use std::{fmt, num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use protostub_bus::{Bus, BusConfig, Inbox, InboxLimits, Policy};
use protostub_catalogue::{Bounds, Catalogue, CatalogueConfig, Sizes, Source, trust::TrustPolicy};
use protostub_egress::{Egress, EgressConfig, Resolver};
use protostub_sandbox::{CompileWorker, CrashReport, Engine, EngineConfig, HostImport, Import, Limits};
use protostub_types::{Address, Domain, StubKey};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;
use uuid::Uuid;

use crate::{
    config::{Config, DomainSettings},
    context::RuntimeContext,
    endpoints,
    error::BuildError,
    identity::{CredentialProvider, IdentityModule, Network},
    launch::DeployOnDemand,
    observer::{Observer, Progress},
    registry::Registry,
    restart::RestartPolicy,
    runtime::{Runtime, Started},
    status::StatusForm,
    triggers::Triggers,
};

/// The least number of threads: the worst stubs hold up three for a moment.
const MIN_THREADS: usize = 4;

/// Builds a [`Runtime`]. Only the home domain is required.
#[must_use]
pub struct RuntimeBuilder {
    home_domain: Option<String>,
    cache_dir: Option<PathBuf>,
    code_dir: Option<PathBuf>,
    cache_key: Option<PathBuf>,
    max_offline_age: Option<Duration>,
    accepted_versions: Option<Bounds>,
    key_sets: Option<Bounds>,
    max_descriptor_bytes: Option<usize>,
    max_component_bytes: Option<usize>,
    sources: Vec<Arc<dyn Source>>,
    credentials: Vec<Arc<dyn CredentialProvider>>,
    roots: Vec<Vec<u8>>,
    proxy: Option<Url>,
    resolver: Option<Arc<dyn Resolver>>,
    max_sockets: Option<usize>,
    allow_http: bool,
    worker_threads: usize,
    request_timeout: Duration,
    policy: Option<Arc<dyn Policy>>,
    trust: TrustPolicy,
    imports: Vec<Import>,
    compile_worker: Option<PathBuf>,
    compile_memory_bytes: Option<u64>,
    config: Config,
}

impl Runtime {
    /// Begins to build a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::new()
    }
}

impl RuntimeBuilder {
    fn new() -> Self {
        Self {
            home_domain: None,
            cache_dir: None,
            code_dir: None,
            cache_key: None,
            max_offline_age: None,
            accepted_versions: None,
            key_sets: None,
            max_descriptor_bytes: None,
            max_component_bytes: None,
            sources: Vec::new(),
            credentials: Vec::new(),
            roots: Vec::new(),
            proxy: None,
            resolver: None,
            max_sockets: None,
            allow_http: false,
            worker_threads: std::thread::available_parallelism().map_or(1, NonZero::get).max(MIN_THREADS),
            request_timeout: Duration::from_secs(15),
            policy: None,
            trust: TrustPolicy::default(),
            imports: Vec::new(),
            compile_worker: None,
            compile_memory_bytes: None,
            config: Config::default(),
        }
    }

    /// The domain that the runtime belongs to. Its catalogue is asked for stubs of domains that have none themselves.
    pub fn home_domain(mut self, domain: impl Into<String>) -> Self {
        self.home_domain = Some(domain.into());
        self
    }

    /// Where descriptors, components and their compiled forms are kept, for this and other processes of the same user. Without it, nothing
    /// outlives the process. Nobody else may be able to write to it, nor to replace a folder on the way to it; that is checked.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(dir.into());
        self
    }

    /// Where the compiled forms of components are kept, if not in the folder `compiled` of [`Self::cache_dir`]: by several runtimes that share nothing
    /// else, say, or without anything else being kept. Who may write to it is checked in the same way.
    pub fn code_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.code_dir = Some(dir.into());
        self
    }

    /// The file with the key by which compiled code in the cache is authenticated before it is loaded. It is made if it is not there. Default:
    /// beside the folder with the code, with its name and `.key`. Where that folder is copied, restored from a backup, or kept on a disk that others can
    /// write to, the key belongs elsewhere.
    pub fn cache_key(mut self, file: impl Into<PathBuf>) -> Self {
        self.cache_key = Some(file.into());
        self
    }

    /// The number of accepted versions of stubs that are remembered, so that none older is deployed
    /// afterwards. Without a [cache](Self::cache_dir) they are remembered as long as the runtime is
    /// there. Default: 16,384 in all, and 256 of one registrable domain, of which the one that was
    /// not used for the longest time gives way. If there are as many as there may be in all, stubs
    /// of further domains are not deployed.
    pub fn accepted_versions(mut self, bounds: Bounds) -> Self {
        self.accepted_versions = Some(bounds);
        self
    }

    /// The number of key sets that domains publish, and that are kept for when they cannot be
    /// asked, bounded as [`Self::accepted_versions`] are. Default: 1,024 in all, and 16 of one
    /// registrable domain.
    pub fn key_sets(mut self, bounds: Bounds) -> Self {
        self.key_sets = Some(bounds);
        self
    }

    /// How old a domain's last answer may be for its stub to be deployed from the cache while the domain's catalogue cannot be reached. Default:
    /// 30 days. Zero: then it is not deployed.
    pub fn max_offline_age(mut self, age: Duration) -> Self {
        self.max_offline_age = Some(age);
        self
    }

    /// Asks this source for descriptors and components, before the network and after the sources that were given before it.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Asks this provider for credentials of domains, after those that were given before it: the first that knows the domain answers. Default: none,
    /// stubs connect without a credential.
    pub fn credentials(mut self, provider: impl CredentialProvider) -> Self {
        self.credentials.push(Arc::new(provider));
        self
    }

    /// Trusts these certificates (PEM) as roots too, beside those of the Mozilla root programme: a private CA.
    pub fn trust_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Sends every connection through this HTTP proxy. No environment variable is ever read.
    pub fn proxy(mut self, url: Url) -> Self {
        self.proxy = Some(url);
        self
    }

    /// Asks this resolver for the addresses of names, in place of the operating system's: DNS over HTTPS, say, or a name service of the operator's own. What it
    /// answers is judged as any answer is: it can lead nobody to an address that is not granted. It is asked on the library's threads, and must not block; a
    /// [proxy](Self::proxy) resolves by itself what is reached through it. Default: the operating system's.
    pub fn resolver(mut self, resolver: impl Resolver + 'static) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Grants descriptors, components and stubs of loopback domains the way to this machine,
    /// without TLS too: for development and tests. Loopback domains are `localhost`, names below
    /// it, 127/8 and ::1. Another domain needs [`DomainSettings::allow_loopback`]. Default:
    /// refused.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.config.allow_loopback = allow;
        self
    }

    /// Asks all catalogues over plain HTTP instead of HTTPS: for laboratories without certificates. Default: no, whoever is in between could replace the stub.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Sets what the operator says about one domain. [`Self::build`] refuses a domain that was
    /// given twice.
    pub fn domain(mut self, domain: Domain, settings: DomainSettings) -> Self {
        self.config.domains.add(domain, settings);
        self
    }

    /// Offers an interface of the program's own to the stubs of those domains to whom it is granted ([`DomainSettings::imports`]). See
    /// [`imports`](crate::imports).
    pub fn host_import(mut self, import: impl HostImport) -> Self {
        self.imports.push(Import::new(import));
        self
    }

    /// The limits of every stub whose domain has none of its own.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// How much may wait for a stub, or a hyperty.
    pub fn inbox(mut self, limits: InboxLimits) -> Self {
        self.config.inbox = limits;
        self
    }

    /// How large descriptors may be, in bytes; code inside them counts. Default: 256 KiB.
    pub fn max_descriptor_bytes(mut self, bytes: usize) -> Self {
        self.max_descriptor_bytes = Some(bytes);
        self
    }

    /// How large components may be, in bytes. Default: 64 MiB.
    pub fn max_component_bytes(mut self, bytes: usize) -> Self {
        self.max_component_bytes = Some(bytes);
        self
    }

    /// How long a component may take to be compiled, the turns of those before it included. Default: 60 s. In this process, one is compiled after
    /// the other, in one thread; the compiler cannot be interrupted, and goes on with what took too long. A [worker](Self::compile_worker) is ended.
    pub fn compile_timeout(mut self, timeout: Duration) -> Self {
        self.config.compile_timeout = timeout;
        self
    }

    /// Compiles each component in a process of its own, which is ended when [`compile_timeout`](Self::compile_timeout) is over, and may take no more
    /// than so much computing time, and [`compile_memory_bytes`](Self::compile_memory_bytes): a component that is made to be hard to compile costs
    /// nobody else anything. The executable is called as `<program> compile-worker` and has to call [`compile_worker`](crate::compile_worker) then:
    /// the program itself, mostly ([`std::env::current_exe`]), or the `protostub` command of the same version. There is no other way to compile if it
    /// fails. Default: none, components are compiled in this process.
    pub fn compile_worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.compile_worker = Some(program.into());
        self
    }

    /// How much address space a [compile worker](Self::compile_worker) may take, in bytes. Default: 4 GiB.
    pub fn compile_memory_bytes(mut self, bytes: u64) -> Self {
        self.compile_memory_bytes = Some(bytes);
        self
    }

    /// How many stubs may be deployed at a time. Default: 1000.
    pub fn max_stubs(mut self, stubs: usize) -> Self {
        self.config.max_stubs = stubs;
        self
    }

    /// How many of them may have a sandbox at a time. Default: all, or as many as the machine allows a process; it is an error to set it to more than
    /// that. When all are taken and one more is needed, the stub that has had nothing to do for longest, and for a second at least, is
    /// [retired](Self::retire_after).
    pub fn max_sandboxes(mut self, sandboxes: usize) -> Self {
        self.config.max_sandboxes = Some(sandboxes);
        self
    }

    /// Sets the maximum number of sockets that all stubs and the runtime itself have open at a
    /// time. An eighth (at most 128) is kept for the runtime. A stub gets no more than are left.
    /// Default: the process's soft limit on descriptors, less a quarter (64 to 1024). The library
    /// never changes that limit; the `protostub` command raises it.
    pub fn max_sockets(mut self, sockets: usize) -> Self {
        self.max_sockets = Some(sockets);
        self
    }

    /// Retires a stub once it has had nothing to do for so long: no message, no timer, nothing from its connections. Default: never; zero means
    /// never too.
    ///
    /// A stub that is retired says good-bye to its domain ([`DisconnectReason::Idle`](protostub_sandbox::DisconnectReason::Idle)), its status is
    /// `disconnected`, and its sandbox goes. Its address, its subscribers and what it has saved stay, and so does its compiled code: with the next
    /// message for it, or [`Runtime::deploy_protostub`], a new instance starts and connects. No message is lost over that; but what the
    /// domain itself sends meanwhile finds nobody connected. Stubs with a request that is still open, and those through which something is registered at
    /// their domain, are not idle.
    pub fn retire_after(mut self, idle: Duration) -> Self {
        self.config.retire_after = Some(idle);
        self
    }

    /// How many deployments each hyperty, and each stub that is granted any, may trigger in a minute. What is beyond is refused with 429. Default:
    /// 60. The host program's own calls are not counted.
    pub fn deployments_per_minute(mut self, deployments: u32) -> Self {
        self.config.deployments_per_minute = deployments;
        self
    }

    /// How many threads run guests and the bus. Default: as many as there are processors, and at least four, since a guest that does something that
    /// cannot be interrupted, fill its memory say, holds up its thread. They are the library's own: a stub that spins takes none of the program's.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = threads.max(1);
        self
    }

    /// How long a stub may take from being told to connect to being live. Default: 30 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// How long a stub may take to say good-bye. Default: 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// When a stub gets a new instance after it broke. Default: see [`RestartPolicy`].
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.config.restart = policy;
        self
    }

    /// How long a request waits for its response unless it says otherwise. Default: 15 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The operator's rules: asked before every hop of every message, the runtime's own included. Default: none, everything that may be said by the
    /// rules that always hold is let pass. [`Runtime::set_policy`] replaces it later.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// Whose signatures on stubs are trusted, of whom they are required, and what is revoked: see [`trust`](crate::trust). Default: those that are there are
    /// verified, by keys that the domains publish. What [`DomainSettings`] say of a domain comes over what is said of it here.
    pub fn trust(mut self, policy: TrustPolicy) -> Self {
        self.trust = policy;
        self
    }

    /// How statuses look on the bus. Default: as in the specification's first phase.
    pub fn status_form(mut self, form: StatusForm) -> Self {
        self.config.status_form = form;
        self
    }

    /// Calls this while a component is downloaded or compiled, for a progress bar. It is called in the task of the deployment: it must not block,
    /// and should not take long.
    pub fn progress(mut self, hook: impl Fn(&StubKey, Progress) + Send + Sync + 'static) -> Self {
        self.config.progress = Observer::new(move |key, progress: &Progress| hook(key, *progress));
        self
    }

    /// Calls this with the report of every instance that crashed or ran into a limit, also while it was starting. It is called in the task of the
    /// stub: it must not block, and should not take long. A deployed stub's last one is [`Protostub::last_crash`](crate::Protostub::last_crash).
    pub fn on_crash(mut self, hook: impl Fn(&StubKey, &CrashReport) + Send + Sync + 'static) -> Self {
        self.config.crashes = Observer::new(hook);
        self
    }

    /// Starts the runtime.
    ///
    /// # Errors
    /// If something of what was given cannot be used, or the machine refuses threads or memory.
    pub async fn build(self) -> Result<Runtime, BuildError> {
        start(self).await
    }
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("home_domain", &self.home_domain)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

async fn start(builder: RuntimeBuilder) -> Result<Runtime, BuildError> {
    let home = builder.home_domain.as_deref().ok_or(BuildError::NoHomeDomain)?;
    let home = Domain::parse(home).map_err(BuildError::HomeDomain)?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(builder.worker_threads)
        .thread_name("protostub")
        .enable_all()
        .build()
        .map_err(BuildError::Threads)?;
    let on_threads = threads.handle().clone();
    // Reading roots, reserving memory for the sandboxes and looking at the store take their time, and none of the program's threads.
    let starting = on_threads.spawn_blocking(move || match start_parts(home, builder, threads.handle()) {
        Ok(started) => Ok(Runtime::new(started, threads)),
        Err(error) => {
            // This is one of the threads: it must not wait for itself.
            threads.shutdown_background();
            Err(error)
        }
    });
    let started = starting.await;
    started.map_err(|error| BuildError::Threads(std::io::Error::other(error)))?
}

fn sizes(settings: &DomainSettings) -> Sizes {
    Sizes { descriptor_bytes: settings.max_descriptor_bytes, component_bytes: settings.max_component_bytes }
}

fn start_parts(home: Domain, builder: RuntimeBuilder, threads: &Handle) -> Result<Started, BuildError> {
    builder.config.domains.check().map_err(BuildError::Domains)?;
    builder.credentials.iter().try_for_each(|provider| provider.check()).map_err(BuildError::Credentials)?;
    let runtime_url = Address::parse(&format!("runtime://{home}/{}", Uuid::new_v4()))?;
    let status_url = runtime_url.join("status")?;
    let egress = EgressConfig {
        extra_roots_pem: builder.roots,
        proxy: builder.proxy,
        resolver: builder.resolver,
        max_sockets: builder.max_sockets,
        ..EgressConfig::default()
    };
    let egress = Egress::new(egress).map_err(BuildError::Egress)?;
    let domains_where = |says: fn(&DomainSettings) -> bool| {
        let domains = builder.config.domains.iter().filter(|(_, settings)| says(settings));
        domains.map(|(domain, _)| domain.clone()).collect()
    };
    let mut catalogue = CatalogueConfig::new(home.clone());
    catalogue.cache_dir.clone_from(&builder.cache_dir);
    catalogue.max_offline_age = builder.max_offline_age.unwrap_or(catalogue.max_offline_age);
    catalogue.accepted_versions = builder.accepted_versions.unwrap_or(catalogue.accepted_versions);
    catalogue.key_sets = builder.key_sets.unwrap_or(catalogue.key_sets);
    catalogue.allow_loopback = builder.config.allow_loopback;
    catalogue.allow_http = builder.allow_http;
    catalogue.progress = Some(Arc::new(builder.config.progress.clone()));
    catalogue.private = domains_where(|settings| settings.allow_private);
    catalogue.loopback = domains_where(|settings| settings.allow_loopback);
    catalogue.unpinned = domains_where(|settings| settings.waive_digest);
    catalogue.trust = builder.trust;
    for (domain, settings) in builder.config.domains.iter() {
        let of_domain = catalogue.trust.domains.entry(domain.clone()).or_default();
        of_domain.signatures = settings.signatures.or(of_domain.signatures);
        of_domain.keys.extend(settings.trusted_keys.iter().cloned());
    }
    catalogue.max_descriptor_bytes = builder.max_descriptor_bytes.unwrap_or(catalogue.max_descriptor_bytes);
    catalogue.max_component_bytes = builder.max_component_bytes.unwrap_or(catalogue.max_component_bytes);
    catalogue.sizes = builder.config.domains.iter().map(|(domain, settings)| (domain.clone(), sizes(settings))).collect();
    let of_domains = builder.config.domains.values().filter_map(|settings| settings.max_component_bytes);
    let max_component_bytes = of_domains.fold(catalogue.max_component_bytes, usize::max);
    let catalogue = Catalogue::new(catalogue, egress.clone(), builder.sources).map_err(BuildError::Catalogue)?;
    for (domain, settings) in builder.config.domains.iter() {
        let offered = |interface: &&String| builder.imports.iter().any(|import| import.interface() == interface.as_str());
        if let Some(interface) = settings.imports.iter().find(|interface| !offered(interface)) {
            return Err(BuildError::UnknownImport { domain: domain.clone(), interface: interface.clone() });
        }
    }
    let mut engine = EngineConfig::default();
    engine.imports = builder.imports;
    engine.max_component_bytes = max_component_bytes;
    engine.cache_dir = builder.code_dir.or_else(|| builder.cache_dir.map(|dir| dir.join("compiled")));
    engine.cache_key = builder.cache_key;
    engine.compile_worker = builder.compile_worker.map(|program| {
        let mut worker = CompileWorker::new(program);
        worker.memory_bytes = builder.compile_memory_bytes.unwrap_or(worker.memory_bytes);
        // It has one thread: more than that it cannot compute in this time.
        worker.cpu_seconds = builder.config.compile_timeout.as_secs().saturating_add(1);
        worker
    });
    engine.max_sandboxes = max_sandboxes(&builder.config);
    let engine = Engine::new(&engine).map_err(BuildError::Engine)?;
    let mut bus = BusConfig::new(home.clone(), runtime_url.clone());
    bus.request_timeout = builder.request_timeout;
    let bus = Bus::new(bus);
    bus.set_policy(builder.policy);

    let registry_inbox = bus.inbox(builder.config.inbox);
    let ua_inbox = bus.inbox(builder.config.inbox);
    let identity_inbox = bus.inbox(builder.config.inbox);
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
    let loopback = builder.config.domains.iter().filter(|(_, settings)| settings.allow_loopback);
    let network = Network {
        egress: egress.clone(),
        allow_loopback: builder.config.allow_loopback,
        loopback: Arc::new(loopback.map(|(domain, _)| domain.clone()).collect()),
    };
    // What is left of the time in which a stub has to be live is for its connection.
    let identity = IdentityModule::new(builder.credentials, network, builder.config.connect_timeout / 2);

    let context = Arc::new(RuntimeContext {
        registry: Registry::new(
            runtime_url.clone(),
            builder.config.max_stubs,
            Triggers::new(builder.config.deployments_per_minute),
        ),
        registry_mailbox: registry_inbox.mailbox(),
        config: builder.config,
        home,
        runtime_url,
        status_url,
        bus,
        catalogue,
        egress,
        engine,
        identity: Arc::new(identity),
        threads: threads.clone(),
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

/// How many sandboxes there are: what the operator says; else one for each stub, as far as the machine allows that.
fn max_sandboxes(config: &Config) -> usize {
    // In an update that overlaps, a stub has two for a while.
    let wanted = config.max_stubs.saturating_add(1);
    let most = Engine::most_sandboxes().unwrap_or(usize::MAX);
    if config.max_sandboxes.is_none() && wanted > most {
        tracing::warn!(
            target: "protostub", stubs = config.max_stubs, sandboxes = most,
            "this machine allows fewer sandboxes than stubs: idle stubs are retired when others need theirs (raise `vm.max_map_count` to have more)"
        );
    }
    config.max_sandboxes.unwrap_or_else(|| wanted.min(most))
}
