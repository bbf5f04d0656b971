//! Deployed stubs and their addresses: one record for each stub key, from its reservation to its
//! end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protostub_bus::{Inbox, Mailbox, Origin, Route};
use protostub_types::{Address, AddressError, SafeText, StubKey};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    command::Command,
    error::{DeployError, DeployErrorKind, Phase, StubGone, StubGoneReason, in_full},
    record::StubRecord,
    triggers::Triggers,
};

/// Maximum number of remembered failures. The oldest is forgotten first, so a flood of made-up
/// domains costs no more memory than this.
const MAX_REMEMBERED: usize = 1024;
/// Time for which the first failure of a stub is remembered. Each further failure doubles it, up to
/// [`LONGEST_MEMORY`].
const FIRST_MEMORY: Duration = Duration::from_secs(1);
const LONGEST_MEMORY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Registry {
    runtime: Address,
    max_stubs: usize,
    triggers: Triggers,
    state: Mutex<RegistryState>,
    /// Changes when a deployment begins.
    deployments: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct RegistryState {
    /// All stubs that are deployed or being deployed.
    records: HashMap<StubKey, Arc<StubRecord>>,
    /// The records of those stubs that have a URL.
    by_url: HashMap<Address, Arc<StubRecord>>,
    failures: HashMap<StubKey, RememberedFailure>,
    /// Sandboxes by their addresses.
    sandboxes: BTreeMap<Address, StubKey>,
    hyperties: HashMap<Address, Mailbox>,
    closing: bool,
}

impl RegistryState {
    fn discover(&self, key: &StubKey, retry: Retry, max_stubs: usize) -> Result<Option<Arc<StubRecord>>, DeployError> {
        let fail = |kind| DeployError { key: key.clone(), phase: Phase::Reserving, kind };
        if self.closing {
            return Err(DeployError::shut_down(key));
        }
        if let Some(record) = self.records.get(key) {
            return Ok(Some(Arc::clone(record)));
        }
        if retry == Retry::AfterPause
            && let Some(failure) = self.failures.get(key)
            && let Some(again_in) = failure.remaining()
        {
            return Err(fail(DeployErrorKind::Remembered { reason: failure.reason.clone(), again_in }));
        }
        if self.records.len() >= max_stubs {
            return Err(fail(DeployErrorKind::TooMany { limit: max_stubs }));
        }
        Ok(None)
    }
}

#[derive(Debug)]
struct RememberedFailure {
    /// Made once for all callers that ask while the failure is remembered.
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

/// The effect of a remembered failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Deploys the stub now, despite the failure.
    Now,
    /// Refuses the deployment until the pause is over.
    AfterPause,
}

/// The registry's answer to a reservation (step 3).
#[derive(Debug)]
pub(crate) enum Reserved {
    /// The key is reserved for the record. The caller has to deploy its stub, or remove the record.
    New,
    /// The stub is deployed, or being deployed.
    Available(Arc<StubRecord>),
}

/// The parts of a stub that is about to be deployed. Dropping it removes its inbox and its route.
pub(crate) struct Reservation {
    pub(crate) record: Arc<StubRecord>,
    pub(crate) inbox: Inbox,
    pub(crate) commands: mpsc::Receiver<Box<Command>>,
    pub(crate) key_route: Route,
}

impl Registry {
    pub(crate) fn new(runtime: Address, max_stubs: usize, triggers: Triggers) -> Self {
        Self { runtime, max_stubs, triggers, state: Mutex::default(), deployments: watch::Sender::default() }
    }

    fn state(&self) -> MutexGuard<'_, RegistryState> {
        // A poisoned state is usable: the state is plain data, and valid after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the record of a key, or `None` if its stub can be reserved.
    ///
    /// # Errors
    /// If the stub cannot be reserved: the runtime is shutting down, the stub failed a moment ago,
    /// or the limit of stubs is reached.
    pub(crate) fn discover(&self, key: &StubKey, retry: Retry) -> Result<Option<Arc<StubRecord>>, DeployError> {
        self.state().discover(key, retry, self.max_stubs)
    }

    /// Performs steps 2 and 3: reserves the record's key, unless the stub exists. A reservation
    /// counts as triggered by `origin`. Of all callers that find no stub at the same time, exactly
    /// one reserves it.
    ///
    /// # Errors
    /// As [`Self::discover`]; or if `origin` has reached its limit of triggers. A refused trigger
    /// reserves nothing.
    pub(crate) fn reserve(&self, record: &Arc<StubRecord>, origin: &Origin, retry: Retry) -> Result<Reserved, DeployError> {
        let key = &record.key;
        let mut state = self.state();
        if let Some(record) = state.discover(key, retry, self.max_stubs)? {
            return Ok(Reserved::Available(record));
        }
        self.triggers.count(origin).map_err(|kind| DeployError { key: key.clone(), phase: Phase::Reserving, kind })?;
        state.records.insert(key.clone(), Arc::clone(record));
        drop(state);
        self.deployments.send_replace(());
        Ok(Reserved::New)
    }

    /// Performs step 9: gives the stub a URL. It is unique for the whole life of the runtime, and
    /// beyond (a UUID).
    pub(crate) fn generate_stub_url(&self, record: &Arc<StubRecord>) -> Result<Address, AddressError> {
        let url = Address::parse(&format!("hyperty-runtime://{}/protostub/{}", record.key.domain(), Uuid::new_v4()))?;
        let _ = record.url.set(url.clone());
        self.state().by_url.insert(url.clone(), Arc::clone(record));
        Ok(url)
    }

    /// Performs steps 14 and 15.
    pub(crate) fn register_sandbox(&self, record: &StubRecord) -> Result<Address, AddressError> {
        let url = self.runtime.join(&format!("sandbox/{}", Uuid::new_v4()))?;
        self.state().sandboxes.insert(url.clone(), record.key.clone());
        let _ = record.sandbox_url.set(url.clone());
        Ok(url)
    }

    /// Removes a stub that was reserved: its key becomes free, and waiting callers learn the
    /// reason. A failure of the domain is remembered for a while.
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

    /// Forgets the failures of a stub that is live, or whose accepted version was forgotten.
    pub(crate) fn clear_failures(&self, key: &StubKey) {
        self.state().failures.remove(key);
    }

    /// Returns a receiver that changes when a deployment begins.
    pub(crate) fn deployments(&self) -> watch::Receiver<()> {
        self.deployments.subscribe()
    }

    /// Returns at most `most` stubs whose instances have been idle for `least` or longer. The stub
    /// with the longest idle time comes first.
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

    /// Returns the record of the stub with this URL.
    pub(crate) fn record_of(&self, stub: &Address) -> Option<Arc<StubRecord>> {
        self.state().by_url.get(stub).cloned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<(Address, StubKey)> {
        self.state().sandboxes.iter().map(|(url, key)| (url.clone(), key.clone())).collect()
    }

    /// Adds a hyperty. Returns `false` if the runtime is shutting down: the hyperty would never get
    /// the end of its stream.
    pub(crate) fn add_hyperty(&self, address: &Address, mailbox: Mailbox) -> bool {
        let mut state = self.state();
        if !state.closing {
            state.hyperties.insert(address.clone(), mailbox);
        }
        !state.closing
    }

    /// Seals the mailboxes of all hyperties. Each hyperty learns that once it has taken the waiting
    /// messages.
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

    /// Refuses all further reservations.
    pub(crate) fn close(&self) {
        self.state().closing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use protostub_bus::{Bus, BusConfig};
    use protostub_types::Domain;

    use super::*;
    use crate::status::ChangeFeed;

    const ASKERS: usize = 64;
    const ROUNDS: usize = 50;

    fn key(number: usize) -> StubKey {
        StubKey::Domain(Domain::parse(&format!("sp{number}.example")).expect("a domain"))
    }

    fn hyperty(number: usize) -> Origin {
        Origin::Hyperty(Address::parse(&format!("hyperty://home.example/{number}")).expect("an address"))
    }

    fn bus_and_registry(per_minute: u32) -> (Bus, Registry) {
        let runtime = Address::parse("runtime://home.example/1").expect("an address");
        let bus = Bus::new(BusConfig::new(Domain::parse("home.example").expect("a domain"), runtime.clone()));
        (bus, Registry::new(runtime, 1000, Triggers::new(per_minute)))
    }

    fn record(bus: &Bus, key: StubKey) -> Arc<StubRecord> {
        let inbox = bus.inbox(protostub_bus::InboxLimits::default());
        Arc::new(StubRecord::new(key, inbox.mailbox(), mpsc::channel(1).0, &ChangeFeed::default()))
    }

    #[test]
    fn concurrent_askers_reserve_once_and_one_is_counted() {
        let (bus, registry) = bus_and_registry(1);
        for round in 0..ROUNDS {
            let barrier = Barrier::new(ASKERS);
            let winners: Vec<_> = thread::scope(|scope| {
                let ask = |number: usize| {
                    let (barrier, bus, registry) = (&barrier, &bus, &registry);
                    move || {
                        let record = record(bus, key(round));
                        barrier.wait();
                        let origin = hyperty(round * ASKERS + number);
                        match registry.reserve(&record, &origin, Retry::AfterPause).expect("each may trigger one") {
                            Reserved::New => Some((number, record)),
                            Reserved::Available(_) => None,
                        }
                    }
                };
                let askers: Vec<_> = (0..ASKERS).map(|number| scope.spawn(ask(number))).collect();
                askers.into_iter().filter_map(|asker| asker.join().expect("no panic")).collect()
            });
            let [(winner, reserved)] = &winners[..] else { panic!("{} askers have reserved the key", winners.len()) };
            let held = registry.record(&key(round)).expect("the key is reserved");
            assert!(Arc::ptr_eq(&held, reserved));
            // The one trigger of the minute is spent for the asker that reserved, and for no other.
            for number in [*winner, (*winner + 1) % ASKERS] {
                let other = key(1000 + round);
                let origin = hyperty(round * ASKERS + number);
                let reserved = registry.reserve(&record(&bus, other.clone()), &origin, Retry::AfterPause);
                assert_eq!(reserved.is_err(), number == *winner, "{reserved:?}");
                assert_eq!(registry.record(&other).is_some(), number != *winner, "a refused trigger reserves nothing");
            }
        }
    }

    #[test]
    fn failed_stub_is_refused_until_its_pause_is_over() {
        let (bus, registry) = bus_and_registry(0);
        let first = record(&bus, key(0));
        let reserve = |record, retry| registry.reserve(record, &Origin::Host, retry);
        assert!(matches!(reserve(&first, Retry::AfterPause), Ok(Reserved::New)));
        let kind = DeployErrorKind::Failed { reason: "no network".into() };
        registry.remove(&first, DeployError { key: key(0), phase: Phase::Connecting, kind }.into());
        let second = record(&bus, key(0));
        let error = reserve(&second, Retry::AfterPause).expect_err("the stub failed a moment ago");
        assert!(matches!(error.kind, DeployErrorKind::Remembered { .. }), "{error:?}");
        assert!(matches!(reserve(&second, Retry::Now), Ok(Reserved::New)));
    }
}
