//! What is deployed, and under which address: one record for each stub key, from its reservation to its end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protostub_bus::{Inbox, Mailbox, Route};
use protostub_types::{Address, AddressError, SafeText, StubKey};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    command::Command,
    error::{DeployError, DeployErrorKind, Phase, SHUTTING_DOWN, in_full, stopped},
    record::StubRecord,
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
            return Err(stopped(key, SHUTTING_DOWN));
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
        let record = Arc::new(StubRecord::new(key.clone(), inbox.mailbox(), sender));
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
    pub(crate) fn remove(&self, record: &Arc<StubRecord>, error: DeployError) {
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
        if matches!(error.kind, DeployErrorKind::Stopped(_)) {
            state.failures.remove(&record.key);
        } else if !error.kind.is_trust_state() {
            let times = state.failures.get(&record.key).map_or(0, |failure| failure.times + 1);
            if times == 0 && state.failures.len() >= MAX_REMEMBERED {
                let oldest = state.failures.iter().min_by_key(|(_, failure)| failure.at).map(|(key, _)| key.clone());
                oldest.and_then(|key| state.failures.remove(&key));
            }
            state.failures.insert(record.key.clone(), RememberedFailure { reason: in_full(&error), times, at: Instant::now() });
        }
        drop(state);
        record.over(error);
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

    pub(crate) fn add_hyperty(&self, address: &Address, mailbox: Mailbox) {
        self.state().hyperties.insert(address.clone(), mailbox);
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
