//! What is deployed, and under which address: one record for each stub key, from its reservation to its end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use protostub_bus::{Inbox, Mailbox, Route};
use protostub_egress::Quota;
use protostub_sandbox::{CrashReport, Idleness, Session};
use protostub_types::{Address, AddressError, SafeText, Sha256Digest, StubKey, Version};
use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;
use uuid::Uuid;

use crate::{
    context::RuntimeContext,
    error::{DeployError, DeployErrorKind, Phase, StubGone, StubGoneReason, in_full},
    identity::ExplicitLogin,
    registration::RegistrationHandle,
    status::{LimitsHit, StatusCell},
    steps::Steps,
    supervise::Command,
};

/// How many failures are remembered. The oldest is forgotten first: a flood of made-up domains costs no more memory than this.
const MAX_REMEMBERED: usize = 1024;
/// For how long the first failure of a stub is remembered; each further one doubles it, up to [`LONGEST_MEMORY`].
const FIRST_MEMORY: Duration = Duration::from_secs(1);
const LONGEST_MEMORY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Registry {
    runtime: Address,
    max_stubs: usize,
    state: Mutex<RegistryState>,
    /// Changes whenever a deployment begins.
    deployments: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct RegistryState {
    /// Everything that is deployed, or being deployed.
    records: HashMap<StubKey, Arc<StubRecord>>,
    /// Of those, the ones that have their URL.
    by_url: HashMap<Address, Arc<StubRecord>>,
    failures: HashMap<StubKey, RememberedFailure>,
    /// Sandboxes by their addresses.
    sandboxes: BTreeMap<Address, StubKey>,
    hyperties: HashMap<Address, Mailbox>,
    closing: bool,
}

#[derive(Debug)]
struct RememberedFailure {
    /// Made once, however many ask while it is remembered.
    reason: SafeText,
    times: u32,
    at: Instant,
}

impl RememberedFailure {
    fn memory(&self) -> Duration {
        FIRST_MEMORY.saturating_mul(1 << self.times.min(8)).min(LONGEST_MEMORY)
    }

    fn remaining(&self) -> Option<Duration> {
        self.memory().checked_sub(self.at.elapsed()).filter(|left| !left.is_zero())
    }
}

/// One stub, from its reservation to its end; shared by everybody who waits for it or uses it.
#[derive(Debug)]
pub(crate) struct StubRecord {
    pub(crate) key: StubKey,
    /// Where the messages for its domain go, also while it is not there yet.
    pub(crate) mailbox: Mailbox,
    pub(crate) status: Arc<StatusCell>,
    pub(crate) steps: Arc<Steps>,
    pub(crate) commands: mpsc::Sender<Box<Command>>,
    /// Known from step 9 on.
    pub(crate) url: OnceLock<Address>,
    /// Known from step 15 on.
    pub(crate) sandbox_url: OnceLock<Address>,
    /// What its instances save for one another.
    pub(crate) session: Session,
    /// The account for the connections of all its instances. Opened with the first instance.
    pub(crate) quota: OnceLock<Quota>,
    /// What it was explicitly logged in with.
    pub(crate) login: Arc<ExplicitLogin>,
    /// Known from step 5 on.
    published: Mutex<Option<Release>>,
    /// Of its instance, while it has one.
    idleness: Mutex<Option<Idleness>>,
    restarts: AtomicU64,
    last_crash: Mutex<Option<Arc<CrashReport>>>,
    pub(crate) limits_hit: Arc<LimitsHit>,
    /// Its own registration at its domain's Registry, if the operator wants it.
    pub(crate) registration: OnceLock<RegistrationHandle>,
    /// What is registered through it.
    pub(crate) registrations: TaskTracker,
    /// It is about to end: whoever has registered something through it has a moment to remove it.
    pub(crate) leaving: CancellationToken,
    /// Step 20.
    deployed: SetOnce<()>,
    /// It did not come to be, or it is over.
    over: SetOnce<StubGone>,
}

/// What the stub is made of, as its domain publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) descriptor_url: Url,
    pub(crate) version: Version,
    /// Of the component: known from step 7 on, if the descriptor does not state it.
    pub(crate) digest: Option<Sha256Digest>,
    /// Whether it had a good signature.
    pub(crate) signed: bool,
}

impl StubRecord {
    /// Asks the stub's supervisor for something.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StubGone> {
        let (done, mut answer) = oneshot::channel();
        // What cannot be sent is dropped, and `done` with it.
        let _ = self.commands.send(Box::new(command(done))).await;
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            // What is sent while the receiver is dropped stays in the channel, unread, for as long as there is a sender.
            () = self.commands.closed() => answer.try_recv().ok(),
        };
        match answer {
            Some(answer) => Ok(answer),
            None => Err(self.until_over().await),
        }
    }

    pub(crate) fn published(&self) -> Option<Release> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn publish(&self, published: Release) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published);
    }

    /// How long its instance has had nothing to do; none: it has no instance.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idleness.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Idleness::duration)
    }

    /// It has another instance, or none any more.
    pub(crate) fn set_idleness(&self, idleness: Option<Idleness>) {
        *self.idleness.lock().unwrap_or_else(PoisonError::into_inner) = idleness;
    }

    /// How many instances followed the first one.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn last_crash(&self) -> Option<Arc<CrashReport>> {
        self.last_crash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn deployed(&self) {
        let _ = self.deployed.set(());
    }

    fn over(&self, gone: StubGone) {
        let _ = self.over.set(gone);
    }

    /// How the stub ended, if it has.
    pub(crate) fn gone(&self) -> Option<StubGone> {
        self.over.get().cloned()
    }

    /// Whether step 20 was done.
    pub(crate) fn is_deployed(&self) -> bool {
        self.deployed.initialized()
    }

    /// Waits for step 20.
    pub(crate) async fn until_deployed(&self) -> Result<(), DeployError> {
        tokio::select! {
            biased;
            gone = self.until_over() => Err(gone.into()),
            () = async { self.deployed.wait().await; } => Ok(()),
        }
    }

    /// Waits until it is over, and tells why.
    pub(crate) async fn until_over(&self) -> StubGone {
        self.over.wait().await.clone()
    }
}

/// What the registry knows of a key (step 3).
pub(crate) enum Discovery {
    /// It is there, or will be.
    Available(Arc<StubRecord>),
    /// It was not; now it is reserved for whoever asked.
    Reserved(Reservation),
}

/// The right, and the duty, to deploy a stub. Dropped without [`Deployed`](crate::deploy::Deployed) having come of it, everything is as before.
pub(crate) struct Reservation {
    pub(crate) record: Arc<StubRecord>,
    pub(crate) inbox: Inbox,
    pub(crate) commands: mpsc::Receiver<Box<Command>>,
    pub(crate) key_route: Route,
}

impl RuntimeContext {
    /// An instance crashed or ran into a limit, if there is a report of it.
    pub(crate) fn report(&self, record: &StubRecord, crash: Option<Arc<CrashReport>>) {
        let Some(crash) = crash else { return };
        *record.last_crash.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&crash));
        self.config.crashes.tell(&record.key, &crash);
    }
}

impl Registry {
    pub(crate) fn new(runtime: Address, max_stubs: usize) -> Self {
        Self { runtime, max_stubs, state: Mutex::default(), deployments: watch::Sender::default() }
    }

    fn state(&self) -> MutexGuard<'_, RegistryState> {
        // The state is plain data, whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps 2 and 3: the record of a key, or its reservation, whose inbox and route `open` makes. `patient`: a failure of a moment ago is
    /// not held against it.
    pub(crate) fn discover(
        &self,
        key: &StubKey,
        patient: bool,
        open: impl FnOnce() -> Result<(Inbox, Route), DeployErrorKind>,
    ) -> Result<Discovery, DeployError> {
        let fail = |kind| DeployError { key: key.clone(), phase: Phase::Reserving, kind };
        let mut state = self.state();
        if state.closing {
            return Err(DeployError::shut_down(key));
        }
        if let Some(record) = state.records.get(key) {
            return Ok(Discovery::Available(Arc::clone(record)));
        }
        if let Some(failure) = state.failures.get(key).filter(|_| !patient)
            && let Some(again_in) = failure.remaining()
        {
            return Err(fail(DeployErrorKind::Remembered { reason: failure.reason.clone(), again_in }));
        }
        if state.records.len() >= self.max_stubs {
            return Err(fail(DeployErrorKind::TooMany { limit: self.max_stubs }));
        }
        let (inbox, key_route) = open().map_err(fail)?;
        let (sender, commands) = mpsc::channel(8);
        let record = Arc::new(StubRecord {
            key: key.clone(),
            mailbox: inbox.mailbox(),
            status: Arc::new(StatusCell::new()),
            steps: Arc::new(Steps::of(key)),
            commands: sender,
            url: OnceLock::new(),
            sandbox_url: OnceLock::new(),
            session: Session::new(),
            quota: OnceLock::new(),
            login: Arc::default(),
            published: Mutex::default(),
            idleness: Mutex::default(),
            restarts: AtomicU64::new(0),
            last_crash: Mutex::default(),
            limits_hit: Arc::default(),
            registration: OnceLock::new(),
            registrations: TaskTracker::new(),
            leaving: CancellationToken::new(),
            deployed: SetOnce::new(),
            over: SetOnce::new(),
        });
        state.records.insert(key.clone(), Arc::clone(&record));
        self.deployments.send_replace(());
        Ok(Discovery::Reserved(Reservation { record, inbox, commands, key_route }))
    }

    /// Step 9: unique for the whole life of the runtime, and beyond (a UUID).
    pub(crate) fn generate_stub_url(&self, record: &Arc<StubRecord>) -> Result<Address, AddressError> {
        let url = Address::parse(&format!("hyperty-runtime://{}/protostub/{}", record.key.domain(), Uuid::new_v4()))?;
        let _ = record.url.set(url.clone());
        self.state().by_url.insert(url.clone(), Arc::clone(record));
        Ok(url)
    }

    /// Steps 14 and 15.
    pub(crate) fn register_sandbox(&self, record: &StubRecord) -> Result<Address, AddressError> {
        let url = self.runtime.join(&format!("sandbox/{}", Uuid::new_v4()))?;
        self.state().sandboxes.insert(url.clone(), record.key.clone());
        let _ = record.sandbox_url.set(url.clone());
        Ok(url)
    }

    /// The end of a stub that was reserved: its key is free, and whoever waits for it learns why. A
    /// failure of the domain is remembered for a while.
    pub(crate) fn remove(&self, record: &Arc<StubRecord>, gone: StubGone) {
        let mut state = self.state();
        if state.records.get(&record.key).is_some_and(|held| Arc::ptr_eq(held, record)) {
            state.records.remove(&record.key);
        }
        if let Some(url) = record.url.get() {
            state.by_url.remove(url);
        }
        if let Some(url) = record.sandbox_url.get() {
            state.sandboxes.remove(url);
        }
        match &gone.reason {
            StubGoneReason::Undeployed | StubGoneReason::ShutDown => drop(state.failures.remove(&record.key)),
            StubGoneReason::Failed(error) if error.kind.is_trust_state() => {}
            StubGoneReason::Failed(error) => {
                let times = state.failures.get(&record.key).map_or(0, |failure| failure.times + 1);
                if times == 0 && state.failures.len() >= MAX_REMEMBERED {
                    let oldest = state.failures.iter().min_by_key(|(_, failure)| failure.at).map(|(key, _)| key.clone());
                    oldest.and_then(|key| state.failures.remove(&key));
                }
                let failure = RememberedFailure { reason: in_full(error), times, at: Instant::now() };
                state.failures.insert(record.key.clone(), failure);
            }
        }
        drop(state);
        record.over(gone);
    }

    /// A stub that is live has left its failures behind.
    pub(crate) fn forgive(&self, key: &StubKey) {
        self.state().failures.remove(key);
    }

    /// Changes whenever a deployment begins.
    pub(crate) fn deployments(&self) -> watch::Receiver<()> {
        self.deployments.subscribe()
    }

    /// The stubs whose instances have had nothing to do for `least` or longer, the longest first; no more than `most` of them.
    pub(crate) fn longest_idle(&self, least: Duration, most: usize) -> Vec<Arc<StubRecord>> {
        let with_idle = |record: &Arc<StubRecord>| Some((record.idle().filter(|idle| *idle >= least)?, Arc::clone(record)));
        let mut idle: Vec<_> = self.state().records.values().filter_map(with_idle).collect();
        idle.sort_unstable_by_key(|(idle, _)| Reverse(*idle));
        idle.into_iter().take(most).map(|(_, record)| record).collect()
    }

    pub(crate) fn records(&self) -> Vec<Arc<StubRecord>> {
        self.state().records.values().cloned().collect()
    }

    pub(crate) fn record(&self, key: &StubKey) -> Option<Arc<StubRecord>> {
        self.state().records.get(key).cloned()
    }

    /// The record of the stub with this URL.
    pub(crate) fn record_of(&self, stub: &Address) -> Option<Arc<StubRecord>> {
        self.state().by_url.get(stub).cloned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<(Address, StubKey)> {
        self.state().sandboxes.iter().map(|(url, key)| (url.clone(), key.clone())).collect()
    }

    /// Adds a hyperty. Returns `false` if the runtime is shutting down: the hyperty would never
    /// learn of the end.
    pub(crate) fn add_hyperty(&self, address: &Address, mailbox: Mailbox) -> bool {
        let mut state = self.state();
        if !state.closing {
            state.hyperties.insert(address.clone(), mailbox);
        }
        !state.closing
    }

    /// Nothing is posted to hyperties any more: each learns that once it has taken what waits for it.
    pub(crate) fn end_hyperties(&self, reason: &str) {
        let hyperties = mem::take(&mut self.state().hyperties);
        hyperties.values().for_each(|mailbox| mailbox.seal(503, reason));
    }

    pub(crate) fn remove_hyperty(&self, address: &Address) {
        self.state().hyperties.remove(address);
    }

    pub(crate) fn is_hyperty(&self, address: &Address) -> bool {
        self.state().hyperties.contains_key(address)
    }

    /// From now on nothing is reserved.
    pub(crate) fn close(&self) {
        self.state().closing = true;
    }
}
