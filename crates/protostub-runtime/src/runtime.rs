use std::{
    collections::HashSet,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use protostub_bus::{BusCounts, Origin, Policy, RequestError, Route};
use protostub_catalogue::{AcceptedRelease, TrustStateError};
use protostub_types::{Address, AddressError, Domain, Message, StubKey, StubStatus, deadline};
use tokio::{
    runtime::{self, Handle, Runtime as Threads},
    sync::SetOnce,
    task::{self, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use url::Url;

use crate::{
    config::hyperty_inbox,
    context::RuntimeContext,
    error::{DeployError, RegisterError, SHUTTING_DOWN, StubGone},
    explain::{self, EgressExplanation, ExplainError},
    hyperty::Hyperty,
    launch::{key_of, load_stub},
    record::StubRecord,
    registration::HypertyDescriptor,
    registry::Retry,
    status::StatusChanges,
    stub::{Liveness, Protostub},
};

/// A core runtime: the message bus, the Registry, the Runtime UA and the stubs that they deployed.
///
/// The handle is cloneable. The runtime has threads of its own, so its methods can be called from
/// any async runtime. [`Runtime::shutdown`] ends the stubs gracefully. When the last clone is
/// dropped, everything stops at once.
///
/// # After the shutdown
///
/// After the call of [`Runtime::shutdown`], clones still work but refuse:
/// [`Runtime::deploy_protostub`] and [`Runtime::load_stub`] fail with
/// [`DeployErrorKind::ShutDown`](crate::DeployErrorKind::ShutDown), registrations of hyperties with
/// [`RegisterError::ShutDown`].
///
/// [`StatusWatch`](crate::StatusWatch)es end with the last status of their stub.
///
/// After the end of the shutdown, requests and posts fail with 503, and [`Hyperty::recv`] ends
/// after the last message. [`StatusChanges`] end after the last change. [`Runtime::protostubs`] is
/// empty, calls of a [`Protostub`] fail with [`StubGone`], and [`Runtime::spawn_inside`] drops its
/// future. Addresses and counts stay readable.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

/// The runtime behind all clones of its handle.
struct Inner {
    context: Arc<RuntimeContext>,
    threads: Arc<OwnThreads>,
    /// Listens until the last stub has ended. Taken by the first shutdown.
    registry: Mutex<Option<JoinHandle<()>>>,
    /// The outcome of the shutdown, once it has ended.
    outcome: Arc<SetOnce<Shutdown>>,
    callers_inside: Arc<CallersInside>,
    /// The runtime's own addresses.
    _routes: Vec<Route>,
}

/// The threads of a runtime. They end without a wait, because the end may run on one of them, or in
/// the host program's async tasks.
pub(crate) struct OwnThreads(Mutex<Option<Threads>>);

impl OwnThreads {
    pub(crate) fn new(threads: Threads) -> Self {
        Self(Mutex::new(Some(threads)))
    }

    fn stop(&self) {
        if let Some(threads) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            threads.shutdown_background();
        }
    }
}

impl Drop for OwnThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The tasks on the runtime's own threads that wait for the outcome of the shutdown.
#[derive(Default)]
struct CallersInside {
    tasks: Mutex<HashSet<task::Id>>,
    waiting: TaskTracker,
}

impl CallersInside {
    /// Notes that the calling task waits for the outcome, if it runs on these threads. The threads
    /// stay until the token is dropped.
    fn enter(&self, threads: &Handle) -> Option<TaskTrackerToken> {
        if Handle::try_current().ok()?.id() != threads.id() {
            return None;
        }
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(task::try_id());
        Some(self.waiting.token())
    }

    /// Returns `true` if the task waits for the outcome.
    fn has(&self, task: task::Id) -> bool {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).contains(&task)
    }

    /// Waits until all callers have the outcome.
    async fn have_outcome(&self) {
        self.waiting.close();
        self.waiting.wait().await;
    }
}

/// The running parts of a runtime.
pub(crate) struct Started {
    pub(crate) context: Arc<RuntimeContext>,
    /// The Registry's task.
    pub(crate) registry: JoinHandle<()>,
    /// The runtime's own addresses.
    pub(crate) routes: Vec<Route>,
}

/// The outcome of a shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The stubs that ended in time.
    pub stopped: Vec<StubKey>,
    /// The stubs that had not ended in time. The runtime abandons their threads and does not wait
    /// for them.
    pub abandoned: Vec<StubKey>,
}

impl Runtime {
    /// Returns the handle of a runtime that has just started.
    pub(crate) fn new(started: Started, threads: OwnThreads) -> Self {
        let Started { context, registry, routes } = started;
        let inner = Inner {
            context,
            threads: Arc::new(threads),
            registry: Mutex::new(Some(registry)),
            outcome: Arc::default(),
            callers_inside: Arc::default(),
            _routes: routes,
        };
        Self { inner: Arc::new(inner) }
    }

    fn context(&self) -> &Arc<RuntimeContext> {
        &self.inner.context
    }

    /// Returns the domain that the runtime belongs to.
    #[must_use]
    pub fn home_domain(&self) -> &Domain {
        &self.context().home
    }

    /// Returns the runtime's own address: `runtime://<home domain>/<id>`.
    #[must_use]
    pub fn url(&self) -> &Address {
        &self.context().runtime_url
    }

    /// Registers a part of the host program with an address on the bus. Its messages may deploy
    /// stubs.
    ///
    /// # Errors
    /// If the address is invalid or taken.
    pub async fn register_hyperty<A>(&self, address: A) -> Result<Hyperty, RegisterError>
    where
        A: TryInto<Address>,
        AddressError: From<A::Error>,
    {
        let address = address.try_into().map_err(AddressError::from)?;
        let inbox = self.context().bus.inbox(hyperty_inbox(&self.context().config.limits));
        let attached = self.context().bus.attach(&address, &inbox.mailbox());
        let route = attached.map_err(|source| RegisterError::Bus { address: address.clone(), source })?;
        Hyperty::new(Arc::clone(self.context()), address, inbox, route)
    }

    /// Registers a hyperty with a descriptor. If the stub of the hyperty's domain is not deployed,
    /// its deployment starts at once (step 1). The runtime registers the hyperty at the domain's
    /// Registry for as long as it lives, unless the descriptor says otherwise.
    /// [`Hyperty::until_registered`] waits for that. Until then, the domain may not know where to
    /// send messages for the hyperty.
    ///
    /// # Errors
    /// If the address is invalid, has no domain, or is taken. Also if the deployment is refused at
    /// once: too many stubs, too many deployments within a minute, or a stub that failed a moment
    /// ago.
    pub async fn register_hyperty_with<A>(&self, address: A, descriptor: HypertyDescriptor) -> Result<Hyperty, RegisterError>
    where
        A: TryInto<Address>,
        AddressError: From<A::Error>,
    {
        self.register_hyperty(address).await?.describe(&descriptor)
    }

    /// Returns a stub that is deployed and live: the existing one, or a new one (steps 1 to 22).
    /// `target` is a domain (`sp1.example`), an address (`hyperty://sp1.example/alice`), or the URL
    /// of a stub in a catalogue (`https://sp1.example/.well-known/protostub/chat`,
    /// `hyperty-catalogue://…`).
    ///
    /// # Errors
    /// If the stub cannot be deployed, or is not live within
    /// [`LifecycleSettings::connect_timeout`](crate::LifecycleSettings::connect_timeout). A later
    /// call tries again. A stub that was live before stays deployed, and continues to try. A stub
    /// that was told to [disconnect](Protostub::disconnect) is an error at once
    /// ([`DeployErrorKind::Disconnected`](crate::DeployErrorKind::Disconnected)).
    pub async fn deploy_protostub(&self, target: &str) -> Result<Protostub, DeployError> {
        let record = self.loading(target)?;
        let stub = Protostub::new(self.context(), record);
        let live = stub.live_in_time();
        // A new stub connects by itself.
        if stub.is_deployed() {
            stub.wake().await;
        }
        match live.await? {
            Liveness::Live => Ok(stub),
            other => Err(stub.not_live(other)),
        }
    }

    /// Returns a stub like [`Self::deploy_protostub`], but waits only until it is deployed (step
    /// 20), not until it is live: `loadStub` of the specification's first phase.
    ///
    /// # Errors
    /// If the stub cannot be deployed.
    pub async fn load_stub(&self, target: &str) -> Result<Protostub, DeployError> {
        let record = self.loading(target)?;
        record.until_deployed().await?;
        Ok(Protostub::new(self.context(), record))
    }

    fn loading(&self, target: &str) -> Result<Arc<StubRecord>, DeployError> {
        let key = key_of(target, &self.context().home).map_err(|error| DeployError {
            key: StubKey::Domain(self.context().home.clone()),
            phase: crate::error::Phase::Reserving,
            kind: crate::error::DeployErrorKind::Address(error),
        })?;
        load_stub(self.context(), &key, &Origin::Host, Retry::Now)
    }

    /// Returns the stubs that are deployed or being deployed.
    #[must_use]
    pub fn protostubs(&self) -> Vec<Protostub> {
        let records = self.context().registry.records();
        records.into_iter().map(|record| Protostub::new(self.context(), record)).collect()
    }

    /// Returns the status changes of all stubs, from this call on.
    ///
    /// The changes come from the host itself. They have no address on the bus, and no policy
    /// applies to them. No message can forge a change.
    ///
    /// The stream never delays a stub. A reader that lags 1024 changes behind misses the oldest
    /// ones, and gets their number ([`StatusUpdate::Missed`](crate::StatusUpdate::Missed)). A
    /// program that also needs the current statuses calls [`Self::protostubs`] afterwards. The
    /// stream ends with the runtime.
    ///
    /// ```no_run
    /// # async fn example(runtime: protostub_runtime::Runtime) {
    /// use protostub_runtime::StatusUpdate;
    ///
    /// let mut changes = runtime.status_changes();
    /// while let Some(update) = changes.recv().await {
    ///     match update {
    ///         StatusUpdate::Changed(change) => println!("{}", change.report.status),
    ///         StatusUpdate::Missed { changes } => println!("{changes} changes were missed"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn status_changes(&self) -> StatusChanges {
        self.context().changes.subscribe()
    }

    /// Returns the key of the stub for a domain, an address, or the URL of a stub in a catalogue:
    /// every form that [`Self::deploy_protostub`] takes.
    ///
    /// # Errors
    /// If the target has none of these forms, or has no domain.
    pub fn stub_key(&self, target: &str) -> Result<StubKey, AddressError> {
        key_of(target, &self.context().home)
    }

    /// Returns the stub with this key, if it is deployed or being deployed.
    #[must_use]
    pub fn protostub(&self, key: &StubKey) -> Option<Protostub> {
        self.context().registry.record(key).map(|record| Protostub::new(self.context(), record))
    }

    /// Returns the last accepted version of a stub. The runtime deploys no older version. Returns
    /// `None` if no version was accepted.
    ///
    /// # Errors
    /// If the version cannot be read.
    pub async fn accepted_release(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        self.context().catalogue.committed(key).await
    }

    /// Forgets the last accepted version of a stub, and returns it. The next deployment accepts any
    /// version, also an unsigned one if no signature is required.
    ///
    /// For a domain that has published too high a version by mistake. A deployed stub keeps its
    /// version, and an update never goes back: undeploy the stub first.
    ///
    /// # Errors
    /// If the version cannot be read or removed. Then it still counts.
    pub async fn forget_accepted_release(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        let accepted = self.accepted_release(key).await?;
        self.context().catalogue.forget_committed(key).await?;
        // The refusals of older versions count no more.
        self.context().registry.clear_failures(key);
        Ok(accepted)
    }

    /// Explains why a stub may or may not connect to the host of a URL, by its rules in this
    /// runtime. `target` is the stub's domain, or an address of the domain. The URL has the scheme
    /// `https`, `wss`, `http` or `ws`, or `tls` or `tcp` with a port. The runtime asks the domain
    /// for its descriptor, whose `ports` count, and resolves the name if a rule allows that. It
    /// does not connect to the host.
    ///
    /// # Errors
    /// If the target names no stub, or a stub cannot connect to such a URL.
    pub async fn explain_egress(&self, target: &str, url: &Url) -> Result<EgressExplanation, ExplainError> {
        let key = self.stub_key(target)?;
        let task = self.context().spawn(explain::explain(Arc::clone(self.context()), key, url.clone()));
        let ended = task.await;
        ended.unwrap_or_else(|_| Err(ExplainError::ShutDown))
    }

    /// Posts a request in the runtime's own name, and waits for its final response.
    ///
    /// # Errors
    /// As [`Hyperty::request`].
    pub async fn request(&self, mut message: Message) -> Result<Message, RequestError> {
        if message.from.is_unset() {
            message.from = self.context().runtime_url.clone();
        }
        self.context().bus.request(&Origin::Host, message, None).await
    }

    /// Replaces the operator's rules, for all messages posted after the call. The runtime continues
    /// meanwhile. With `None`, only the rules that always hold remain.
    pub fn set_policy(&self, policy: Option<Arc<dyn Policy>>) {
        self.context().bus.set_policy(policy);
    }

    /// Returns the counters of the bus since the start.
    #[must_use]
    pub fn counts(&self) -> BusCounts {
        self.context().bus.counts()
    }

    /// Runs a future on the library's own threads, where a round trip over the bus is fastest. Use
    /// it for a listener that must not wait to be woken on other threads. The shutdown drops the
    /// future. A future that itself calls [`Self::shutdown`] continues with the outcome, up to its
    /// next wait.
    pub fn spawn_inside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, callers) = (self.context().stop.clone(), Arc::clone(&self.inner.callers_inside));
        // The shutdown waits for the second task alone: the future may wait for the shutdown.
        let mut task = self.context().threads.spawn(task);
        // This is a task of its own, so that the future does not check for the shutdown at each
        // message.
        self.context().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // The result does not matter: no caller waits for it.
                _ = &mut task => return,
            }
            if !callers.has(task.id()) {
                task.abort();
                let _ = task.await;
            }
        });
    }

    /// Shuts down gracefully: deployments stop, stubs disconnect within their grace time, and
    /// waiting messages are answered with 503. Returns when all of it is done, or after `deadline`,
    /// even if a callback or a rule of the host program blocks the runtime's threads.
    ///
    /// The shutdown continues if the future is dropped. Further calls, on any clone, wait for the
    /// same shutdown and return its outcome: the first call's `deadline` counts. After its end, the
    /// threads of the runtime are gone; see [what methods return then](Runtime#after-the-shutdown).
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        let _inside = self.inner.callers_inside.enter(&self.context().threads);
        let registry = self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(registry) = registry {
            let (context, threads) = (Arc::clone(self.context()), Arc::clone(&self.inner.threads));
            let (outcome, callers) = (Arc::clone(&self.inner.outcome), Arc::clone(&self.inner.callers_inside));
            let ending = async move {
                let ended = end(&context, registry, deadline).await;
                stop_at_once(&context);
                let _ = outcome.set(ended);
                let _in_time = timeout(HANDOVER, callers.have_outcome()).await;
                threads.stop();
            };
            run_apart(&self.context().threads, ending);
        }
        self.inner.outcome.wait().await.clone()
    }
}

/// Maximum time for which the runtime's threads stay for the callers of the shutdown that run on
/// them.
const HANDOVER: Duration = Duration::from_secs(1);
/// Maximum part of a shutdown's deadline that is left for the last statuses of the stubs.
const LAST_STATUSES: Duration = Duration::from_millis(100);

/// Runs the end of a runtime on a thread of its own, because the runtime's threads may be blocked.
/// Without such a thread, it runs on the runtime's threads.
fn run_apart(threads: &Handle, ending: impl Future<Output = ()> + Send + 'static) {
    let (give, take) = std::sync::mpsc::channel();
    let clock = runtime::Builder::new_current_thread().enable_time().build();
    let apart = clock.and_then(|clock| {
        thread::Builder::new().name("protostub-end".to_owned()).spawn(move || {
            if let Ok(ending) = take.recv() {
                clock.block_on(ending);
            }
        })
    });
    match apart {
        Ok(_) => drop(give.send(ending)),
        Err(error) => {
            tracing::debug!(target: "protostub", %error, "failed to start a thread for the shutdown");
            threads.spawn(ending);
        }
    }
}

/// Lets the stubs end, and returns the outcome.
async fn end(context: &RuntimeContext, registry: JoinHandle<()>, within: Duration) -> Shutdown {
    let by = deadline(Instant::now(), within);
    let before = context.registry.records();
    context.registry.close();
    context.bus.announce_shutdown(SHUTTING_DOWN);
    context.stop.cancel();
    context.tasks.close();
    let _in_time = timeout_at(by - LAST_STATUSES.min(within / 10), context.tasks.wait()).await;
    context.stubs_ended.cancel();
    let _heard_all = timeout_at(by, registry).await;
    // Stubs have disconnected over the bus. The open requests of hyperties end here.
    context.end(SHUTTING_DOWN);
    let left = context.registry.records();
    let abandoned: Vec<_> = left.iter().map(|record| record.key.clone()).collect();
    let stopped = before.into_iter().map(|record| record.key.clone()).filter(|key| !abandoned.contains(key)).collect();
    Shutdown { stopped, abandoned }
}

/// Ends the rest of a runtime without waiting.
fn stop_at_once(context: &RuntimeContext) {
    context.registry.close();
    context.stop.cancel();
    context.end("the runtime is gone");
    // Holders of a stub's handle learn here that the stub has ended. The stub's own task may be
    // lost with the threads.
    for record in context.registry.records() {
        let _ = record.status.advance(StubStatus::Dead, Some(SHUTTING_DOWN.into()));
        context.registry.remove(&record, StubGone::shut_down(&record.key));
    }
    context.changes.close();
    context.engine.clear();
}

impl Drop for Inner {
    fn drop(&mut self) {
        stop_at_once(&self.context);
        self.threads.stop();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("url", self.url()).finish_non_exhaustive()
    }
}
