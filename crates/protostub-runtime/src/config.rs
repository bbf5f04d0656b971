use std::{collections::BTreeSet, fmt, num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use protostub_bus::{InboxLimits, Policy};
use protostub_catalogue::{
    Bounds, Source,
    trust::{PublicKey, Signatures, TrustPolicy},
};
use protostub_egress::{Resolver, Rule};
use protostub_sandbox::{CrashReport, CredentialOrigin, HostImport, Import, Limits};
use protostub_types::{Domain, StubKey, UniqueMap};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    error::BuildError,
    identity::CredentialProvider,
    observer::{Observer, Progress},
    restart::RestartPolicy,
    runtime::Runtime,
    status::StatusForm,
    triggers::DomainPattern,
};

/// How many threads there are at least: the three that the worst of stubs hold up for a moment, and one.
const MIN_THREADS: usize = 4;

/// What an operator says about one domain, over what the domain says itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DomainSettings {
    /// Overrides the descriptor's `configuration`, key by key.
    pub configuration: Map<String, Value>,
    /// Where the domain's stub may connect to, beside the domain itself.
    pub grants: Vec<Rule>,
    /// Whether names may lead the domain's stub, its descriptor and its component into private networks.
    pub allow_private: bool,
    /// Lets names lead the domain's stub, and requests for what the domain publishes, to this
    /// machine. A domain that is loopback by its own name ([`Domain::is_loopback`]) needs only
    /// [`RuntimeBuilder::allow_loopback`]. Default: no.
    pub allow_loopback: bool,
    /// The limits of the domain's stub, in place of the runtime's.
    pub limits: Option<Limits>,
    /// How much may wait for the domain's stub, in place of what the runtime says.
    pub inbox: Option<InboxLimits>,
    /// How large the domain's descriptors may be, in bytes, in place of what the runtime says.
    pub max_descriptor_bytes: Option<usize>,
    /// How large the component of the domain's stub may be, in bytes, in place of what the runtime says.
    pub max_component_bytes: Option<usize>,
    /// The host program's own interfaces that the domain's stub may import, by name: `acme:store/kv@1.0.0`. See [`imports`](crate::imports).
    pub imports: BTreeSet<String>,
    /// Other domains in whose name the domain's stub may post messages.
    pub relays: Vec<Domain>,
    /// The domains whose stubs the domain's own may have deployed, by posting to their addresses or with `loadStub`. Default: none.
    pub may_deploy: Vec<DomainPattern>,
    /// Where the domain's credential may go that its stub refers to in the header `authorization` of HTTP requests and WebSocket handshakes
    /// (`{credential}`): exactly these origins. If there are any, the stub is never given the credential's value. Default: none, it is given the value.
    pub credential_origins: Vec<CredentialOrigin>,
    /// The domain's own Registry is told of its stub while that is deployed (steps 8 and 9).
    pub register: bool,
    /// The descriptor need not have a digest of the component.
    pub waive_digest: bool,
    /// A version may be followed by an older one, or a signed one by one that is not, which is refused otherwise: in an update, and in a deployment
    /// after the other was live.
    pub allow_older: bool,
    /// What is asked of the signatures of the domain's stubs, in place of what the runtime's [`TrustPolicy`] says.
    pub signatures: Option<Signatures>,
    /// The keys that the domain signs with. If there are any, those that it publishes itself are not asked for.
    pub trusted_keys: Vec<PublicKey>,
    /// When the domain's stub gets a new instance after it broke, in place of the runtime's policy.
    pub restart: Option<RestartPolicy>,
    /// After how long without anything to do the domain's stub is retired, in place of what the runtime says. Zero: never, not even to make
    /// room for others.
    pub retire_after: Option<Duration>,
}

/// Everything that a runtime is told before it starts.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) inbox: InboxLimits,
    pub(crate) limits: Limits,
    pub(crate) domains: UniqueMap<Domain, DomainSettings>,
    pub(crate) allow_loopback: bool,
    pub(crate) max_stubs: usize,
    pub(crate) max_sandboxes: Option<usize>,
    pub(crate) retire_after: Option<Duration>,
    pub(crate) deployments_per_minute: u32,
    pub(crate) compile_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) grace: Duration,
    pub(crate) restart: RestartPolicy,
    pub(crate) status_form: StatusForm,
    pub(crate) progress: Observer<Progress>,
    pub(crate) crashes: Observer<CrashReport>,
}

static NO_SETTINGS: std::sync::LazyLock<DomainSettings> = std::sync::LazyLock::new(DomainSettings::default);

impl Config {
    pub(crate) fn settings(&self, domain: &Domain) -> &DomainSettings {
        self.domains.get(domain).unwrap_or(&NO_SETTINGS)
    }

    /// Returns whether the stub of a domain, and what the domain publishes, may be on this machine.
    pub(crate) fn reaches_loopback(&self, domain: &Domain) -> bool {
        self.settings(domain).allow_loopback || (self.allow_loopback && domain.is_loopback())
    }

    pub(crate) fn inbox_of(&self, domain: &Domain) -> InboxLimits {
        self.settings(domain).inbox.unwrap_or(self.inbox)
    }
}

/// Builds a [`Runtime`]. Only the home domain is required.
#[must_use]
pub struct RuntimeBuilder {
    pub(crate) home_domain: Option<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) code_dir: Option<PathBuf>,
    pub(crate) cache_key: Option<PathBuf>,
    pub(crate) max_offline_age: Option<Duration>,
    pub(crate) accepted_versions: Option<Bounds>,
    pub(crate) key_sets: Option<Bounds>,
    pub(crate) max_descriptor_bytes: Option<usize>,
    pub(crate) max_component_bytes: Option<usize>,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) credentials: Vec<Arc<dyn CredentialProvider>>,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) proxy: Option<Url>,
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
    pub(crate) max_sockets: Option<usize>,
    pub(crate) allow_http: bool,
    pub(crate) worker_threads: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) policy: Option<Arc<dyn Policy>>,
    pub(crate) trust: TrustPolicy,
    pub(crate) imports: Vec<Import>,
    pub(crate) compile_worker: Option<PathBuf>,
    pub(crate) compile_memory_bytes: Option<u64>,
    pub(crate) config: Config,
}

impl RuntimeBuilder {
    pub(crate) fn new() -> Self {
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
            config: Config {
                inbox: InboxLimits::default(),
                limits: Limits::default(),
                domains: UniqueMap::new(),
                allow_loopback: false,
                max_stubs: 1000,
                max_sandboxes: None,
                retire_after: None,
                deployments_per_minute: 60,
                compile_timeout: Duration::from_secs(60),
                connect_timeout: Duration::from_secs(30),
                grace: Duration::from_secs(5),
                restart: RestartPolicy::default(),
                status_form: StatusForm::default(),
                progress: Observer::default(),
                crashes: Observer::default(),
            },
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
        Runtime::start(self).await
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
