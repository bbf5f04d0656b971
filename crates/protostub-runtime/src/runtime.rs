use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protostub_bus::{Bus, BusConfig, BusCounts, Inbox, Origin, Policy, RequestError, Route};
use protostub_catalogue::{Catalogue, CatalogueConfig, Sizes};
use protostub_egress::{Egress, EgressConfig};
use protostub_sandbox::{CompileWorker, Engine, EngineConfig};
use protostub_types::{Address, AddressError, Domain, Message, StubKey, StubStatus};
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;
use uuid::Uuid;

use crate::{
    config::{Config, DomainSettings, RuntimeBuilder},
    core::{Core, DeployOnDemand, SHUTTING_DOWN},
    deploy::load_stub,
    error::{BuildError, DeployError, RegisterError},
    explain::{self, EgressExplanation, ExplainError},
    hyperty::Hyperty,
    identity::{self, IdentityModule, Network},
    registration::HypertyDescriptor,
    registry::{Record, Registry, stopped},
    services,
    stub::Protostub,
    triggers::Triggers,
};

/// A core runtime: the message bus, the Registry, the Runtime UA and the stubs that they deployed.
///
/// It runs on threads of its own, so its methods can be called from any async runtime. Dropped, it stops at once; [`Runtime::shutdown`] lets
/// stubs say good-bye.
pub struct Runtime {
    core: Arc<Core>,
    /// Taken by whoever ends it.
    threads: Mutex<Option<tokio::runtime::Runtime>>,
    /// It listens until the last stub has ended.
    registry: JoinHandle<()>,
    /// The runtime's own addresses.
    _routes: Vec<Route>,
}

/// What a shutdown left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The stubs that ended in time.
    pub stopped: Vec<StubKey>,
    /// The stubs that had not when the time was over. Their threads are abandoned, not waited for.
    pub abandoned: Vec<StubKey>,
}

impl Runtime {
    /// Begins to build a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::new()
    }

    pub(crate) async fn start(builder: RuntimeBuilder) -> Result<Self, BuildError> {
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
        let starting = on_threads.spawn_blocking(move || match start_core(home, builder, threads.handle()) {
            Ok(Started { core, registry, routes }) => {
                Ok(Self { core, threads: Mutex::new(Some(threads)), registry, _routes: routes })
            }
            Err(error) => {
                // This is one of the threads: it must not wait for itself.
                threads.shutdown_background();
                Err(error)
            }
        });
        let started = starting.await;
        started.map_err(|error| BuildError::Threads(std::io::Error::other(error)))?
    }

    /// The domain that the runtime belongs to.
    #[must_use]
    pub fn home_domain(&self) -> &Domain {
        &self.core.home
    }

    /// The runtime's own address: `runtime://<home domain>/<id>`.
    #[must_use]
    pub fn url(&self) -> &Address {
        &self.core.runtime_url
    }

    /// Gives a part of the host program an address on the bus. Its messages may deploy stubs.
    ///
    /// # Errors
    /// If the address is none, or somebody has it already.
    pub async fn register_hyperty<A>(&self, address: A) -> Result<Hyperty, RegisterError>
    where
        A: TryInto<Address>,
        AddressError: From<A::Error>,
    {
        let address = address.try_into().map_err(AddressError::from)?;
        let inbox = self.core.bus.inbox(self.core.config.inbox);
        let attached = self.core.bus.attach(&address, &inbox.mailbox());
        let route = attached.map_err(|source| RegisterError::Bus { address: address.clone(), source })?;
        Ok(Hyperty::new(Arc::clone(&self.core), address, inbox, route))
    }

    /// The same, for a hyperty that says what it is: the stub of its domain is deployed at once, if it is not there (step 1), and the domain's
    /// Registry is told where the hyperty is for as long as it is there, unless the descriptor says otherwise.
    /// [`Hyperty::until_registered`] waits for that; until then the domain may not know where messages to the hyperty go.
    ///
    /// # Errors
    /// If the address is none, has no domain, or somebody has it already; or if a deployment is refused at once: too many stubs, too many
    /// deployments within a minute, or one that failed a moment ago.
    pub async fn register_hyperty_with<A>(&self, address: A, descriptor: HypertyDescriptor) -> Result<Hyperty, RegisterError>
    where
        A: TryInto<Address>,
        AddressError: From<A::Error>,
    {
        self.register_hyperty(address).await?.describe(&descriptor)
    }

    /// The stub of a domain (`sp1.example`) or an address (`hyperty://sp1.example/alice`), or the one that a catalogue publishes at a URL
    /// (`https://sp1.example/.well-known/protostub/chat`, `hyperty-catalogue://…`), deployed and live: the one that is there, or a new one. Steps 1
    /// to 22.
    ///
    /// # Errors
    /// If it cannot be deployed, or does not become live in time. A later call tries again.
    pub async fn deploy_protostub(&self, target: &str) -> Result<Protostub, DeployError> {
        let record = self.loading(target)?;
        let stub = Protostub::new(&self.core, record);
        let live = stub.live_from_now();
        // A new one connects by itself.
        if stub.is_deployed() {
            stub.wake().await;
        }
        live.await?;
        Ok(stub)
    }

    /// The same, but waits only until the stub is deployed (step 20), not until it is live: `loadStub` of the specification's first phase.
    ///
    /// # Errors
    /// If it cannot be deployed.
    pub async fn load_stub(&self, target: &str) -> Result<Protostub, DeployError> {
        let record = self.loading(target)?;
        record.until_deployed().await?;
        Ok(Protostub::new(&self.core, record))
    }

    fn loading(&self, target: &str) -> Result<Arc<Record>, DeployError> {
        let key = key_of(target, &self.core.home).map_err(|error| DeployError {
            key: StubKey::Domain(self.core.home.clone()),
            phase: crate::error::Phase::Reserving,
            kind: crate::error::DeployErrorKind::Address(error),
        })?;
        load_stub(&self.core, &key, &Origin::Host, true)
    }

    /// The stubs that are deployed, or being deployed.
    #[must_use]
    pub fn protostubs(&self) -> Vec<Protostub> {
        let records = self.core.registry.records();
        records.into_iter().map(|record| Protostub::new(&self.core, record)).collect()
    }

    /// The key of the stub for a domain, an address, or the URL of a stub in a catalogue: whatever [`Self::deploy_protostub`] takes.
    ///
    /// # Errors
    /// If it is none of these, or has no domain.
    pub fn stub_key(&self, target: &str) -> Result<StubKey, AddressError> {
        key_of(target, &self.core.home)
    }

    /// The stub with this key, if it is deployed, or being deployed.
    #[must_use]
    pub fn protostub(&self, key: &StubKey) -> Option<Protostub> {
        self.core.registry.record(key).map(|record| Protostub::new(&self.core, record))
    }

    /// Why the stub of a domain, or an address, may or may not connect to the host of a URL, by the rules that it would have in this runtime: `https`, `wss`,
    /// `http` and `ws`, or `tls` and `tcp` with a port. The domain is asked for its descriptor, whose `ports` count; a name is resolved if a rule allows it;
    /// nothing is connected to.
    ///
    /// # Errors
    /// If the target is none, or the URL is nothing that a stub connects to.
    pub async fn explain_egress(&self, target: &str, url: &Url) -> Result<EgressExplanation, ExplainError> {
        let key = self.stub_key(target)?;
        let task = self.core.spawn(explain::explain(Arc::clone(&self.core), key, url.clone()));
        let ended = task.await;
        ended.unwrap_or_else(|_| Err(ExplainError::Url { url: String::new(), problem: SHUTTING_DOWN }))
    }

    /// Posts a request in the runtime's own name, and waits for its final response.
    ///
    /// # Errors
    /// As [`Hyperty::request`].
    pub async fn request(&self, mut message: Message) -> Result<Message, RequestError> {
        if message.from.is_unset() {
            message.from = self.core.runtime_url.clone();
        }
        self.core.bus.request(&Origin::Host, message, None).await
    }

    /// Puts other rules of the operator's in force, for whatever is posted from now on; none: whatever the rules that always hold let pass. Nothing has to
    /// stop for it.
    pub fn set_policy(&self, policy: Option<Arc<dyn Policy>>) {
        self.core.bus.set_policy(policy);
    }

    /// What the bus has counted since the start.
    #[must_use]
    pub fn counts(&self) -> BusCounts {
        self.core.bus.counts()
    }

    /// Runs a future on the library's own threads, where a round trip over the bus is quickest: a listener that must not wait to be woken on
    /// other threads lives here. It is dropped at shutdown.
    pub fn spawn_inside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.core.stop.clone();
        let mut task = self.core.spawn(task);
        // In a task of its own: looked at by that one, the shutdown would be looked at whenever a message comes.
        self.core.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => task.abort(),
                // However it ended: nobody asks.
                _ = &mut task => {}
            }
        });
    }

    /// Ends everything: deployments stop, stubs say good-bye within their grace time, what waits is answered with 503. Returns when all of it is
    /// done, or `deadline` is over.
    pub async fn shutdown(mut self, deadline: Duration) -> Shutdown {
        let before = self.core.registry.records();
        self.core.registry.close();
        self.core.stop.cancel();
        self.core.tasks.close();
        let tasks = self.core.tasks.clone();
        let waiting = self.core.threads.spawn(async move { tokio::time::timeout(deadline, tasks.wait()).await.is_ok() });
        let _in_time = waiting.await;
        self.core.stubs_ended.cancel();
        let _heard_all = (&mut self.registry).await;
        // Stubs have said good-bye over it. What hyperties still hold open ends here.
        self.core.end(SHUTTING_DOWN);
        let left = self.core.registry.records();
        let abandoned: Vec<_> = left.iter().map(|record| record.key.clone()).collect();
        let stopped = before.into_iter().map(|record| record.key.clone()).filter(|key| !abandoned.contains(key)).collect();
        Shutdown { stopped, abandoned }
    }
}

/// What runs of a runtime.
struct Started {
    core: Arc<Core>,
    /// The Registry's task.
    registry: JoinHandle<()>,
    /// The runtime's own addresses.
    routes: Vec<Route>,
}

fn sizes(settings: &DomainSettings) -> Sizes {
    Sizes { descriptor_bytes: settings.max_descriptor_bytes, component_bytes: settings.max_component_bytes }
}

fn start_core(home: Domain, builder: RuntimeBuilder, threads: &Handle) -> Result<Started, BuildError> {
    builder.config.domains.check().map_err(BuildError::Domains)?;
    builder.credentials.iter().try_for_each(|provider| provider.check()).map_err(BuildError::Credentials)?;
    let runtime_url = Address::parse(&format!("runtime://{home}/{}", Uuid::new_v4()))?;
    let status_url = runtime_url.join("status")?;
    let mut egress = EgressConfig::default().with_extra_roots_pem(builder.roots);
    egress.proxy = builder.proxy;
    egress.resolver = builder.resolver;
    egress.max_sockets = builder.max_sockets;
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

    let core = Arc::new(Core {
        registry: Registry::new(runtime_url.clone(), builder.config.max_stubs),
        triggers: Triggers::new(builder.config.deployments_per_minute),
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
    core.bus.set_unroutable(Arc::new(DeployOnDemand { core: Arc::downgrade(&core) }));
    let registry = core.threads.spawn(services::registry(Arc::clone(&core), registry_inbox));
    core.spawn(services::runtime_ua(Arc::clone(&core), ua_inbox));
    core.spawn(identity::identity(Arc::clone(&core), identity_inbox));
    let (bus, stop) = (core.bus.clone(), core.stop.clone());
    core.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = bus.run_deadlines() => {}
        }
    });
    Ok(Started { core, registry, routes })
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

/// The key of a domain, an address, or the URL of a stub in a catalogue.
pub(crate) fn key_of(target: &str, home: &Domain) -> Result<StubKey, AddressError> {
    if let Some(key) = StubKey::of_catalogue_url(target) {
        return Ok(key);
    }
    let address = Address::parse(target)?;
    StubKey::of(&address, home).ok_or_else(|| AddressError::without_domain(&address))
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.core.registry.close();
        self.core.stop.cancel();
        self.core.end("the runtime is gone");
        // Whoever has a stub's handle learns that it is over: the stub's own task may be lost with the threads.
        for record in self.core.registry.records() {
            let _ = record.status.advance(StubStatus::Dead, Some(SHUTTING_DOWN.into()));
            let over = stopped(&record.key, SHUTTING_DOWN);
            self.core.registry.remove(&record, over);
        }
        // A runtime must not wait for its threads where the host program's async tasks run.
        if let Some(threads) = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            threads.shutdown_background();
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("url", self.url()).finish_non_exhaustive()
    }
}
