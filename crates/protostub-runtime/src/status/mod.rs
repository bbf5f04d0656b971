//! A stub's status: one writer, many who watch (steps 21 and 22).

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use protostub_bus::{Bus, Origin};
use protostub_sandbox::Presence;
use protostub_types::{Address, Message, MessageId, SafeText, StatusReport, StubStatus};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::{context::RuntimeContext, registry::StubRecord, steps::Steps};

/// How a status looks on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StatusForm {
    /// The first phase of the specification: `{"value":"LIVE"}`.
    #[default]
    Phase1,
    /// The second phase: `{"value":"live"}`, with `desc` where there is a reason.
    Phase2,
}

impl StatusForm {
    /// A status message's body. `resource` tells whose status it is where the sender is not the stub.
    pub(crate) fn body(self, report: &StatusReport, resource: Option<&Address>) -> Value {
        let mut body = match self {
            Self::Phase1 => json!({ "value": report.status.as_str().to_ascii_uppercase() }),
            Self::Phase2 => json!({ "value": report.status.as_str() }),
        };
        if let (Self::Phase2, Some(reason)) = (self, &report.reason) {
            body["desc"] = Value::from(reason.as_str());
        }
        if let Some(resource) = resource {
            body["resource"] = Value::from(resource.as_str());
        }
        body
    }
}

/// The one writer of a stub's status. It outlives the stub's instances.
#[derive(Debug)]
pub(crate) struct StatusCell {
    report: watch::Sender<StatusReport>,
    lives: Arc<Lives>,
}

/// How often the stub has become live: whoever waits for that may not be there in time to see it, and is not to be woken for what comes before it.
#[derive(Debug, Default)]
struct Lives {
    count: AtomicU64,
    is_over: AtomicBool,
    changed: Notify,
}

impl StatusCell {
    pub(crate) fn new() -> Self {
        Self::at(StubStatus::Deploying)
    }

    /// Beginning with this status.
    fn at(status: StubStatus) -> Self {
        Self { report: watch::Sender::new(StatusReport::first(status)), lives: Arc::default() }
    }

    /// Whether the stub has ever been live, however shortly.
    pub(crate) fn was_live(&self) -> bool {
        self.lives.count() > 0
    }

    pub(crate) fn current(&self) -> StatusReport {
        self.report.borrow().clone()
    }

    pub(crate) fn watch(&self) -> StatusWatch {
        StatusWatch { reports: self.report.subscribe(), lives: Arc::clone(&self.lives) }
    }

    /// Moves on, if `status` can follow what holds; none if it holds already. The error is for the stub's author.
    pub(crate) fn advance(&self, status: StubStatus, reason: Option<SafeText>) -> Result<Option<StatusReport>, String> {
        let mut outcome = Ok(None);
        self.report.send_if_modified(|current| {
            if current.status == status && current.reason == reason {
                return false;
            }
            if current.status != status && !current.status.may_become(status) {
                outcome = Err(format!("a stub that is {} cannot become {status}", current.status));
                return false;
            }
            *current = current.then(status, reason.clone());
            outcome = Ok(Some(current.clone()));
            true
        });
        if status == StubStatus::Live && matches!(outcome, Ok(Some(_))) {
            self.lives.add();
        }
        outcome
    }
}

impl Drop for StatusCell {
    fn drop(&mut self) {
        self.lives.end();
    }
}

impl Lives {
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until there are more than so many. False: there will be none.
    async fn more_than(&self, count: u64) -> bool {
        loop {
            // Hears of what happens from here on, so that nothing comes between the look and the wait.
            let changed = self.changed.notified();
            let is_over = self.is_over.load(Ordering::Acquire);
            if self.count() > count {
                return true;
            }
            if is_over {
                return false;
            }
            changed.await;
        }
    }
}

/// A stub's status, now and whenever it changes. Works in any async runtime.
#[derive(Debug, Clone)]
pub struct StatusWatch {
    reports: watch::Receiver<StatusReport>,
    lives: Arc<Lives>,
}

impl StatusWatch {
    /// What holds now.
    #[must_use]
    pub fn current(&self) -> StatusReport {
        self.reports.borrow().clone()
    }

    /// The next status that was not seen yet: none once the stub is gone and its last status was seen. Quick changes in between may be
    /// passed over; whoever needs each of them subscribes to `<stub>/status`.
    pub async fn changed(&mut self) -> Option<StatusReport> {
        self.reports.changed().await.ok()?;
        Some(self.reports.borrow_and_update().clone())
    }

    /// Waits until `done` holds for the status, beginning with the one that holds now, and returns that status; or the last one of a stub that
    /// is gone.
    pub async fn until(&mut self, mut done: impl FnMut(&StatusReport) -> bool + Send) -> StatusReport {
        match self.reports.wait_for(|now| done(now)).await {
            Ok(now) => return now.clone(),
            Err(_gone) => {}
        }
        self.current()
    }

    /// Waits until the stub is live, or has been since this was called, however shortly. False: it is gone.
    pub(crate) fn until_live_once(self) -> impl Future<Output = bool> {
        // In this order: what becomes live in between counts.
        let lives = self.lives.count();
        let is_live = self.reports.borrow().status == StubStatus::Live;
        async move { is_live || self.lives.more_than(lives).await }
    }
}

/// Where what an instance says of its status goes.
#[derive(Debug, Clone)]
pub(crate) struct StatusTarget {
    pub(crate) cell: Arc<StatusCell>,
    /// Whether subscribers are told. Beside the instance that is the stub, another one may be trying, or on its way out.
    pub(crate) is_public: bool,
}

impl StatusTarget {
    pub(crate) const fn public(cell: Arc<StatusCell>) -> Self {
        Self { cell, is_public: true }
    }

    fn private(status: StubStatus) -> Self {
        Self { cell: Arc::new(StatusCell::at(status)), is_public: false }
    }
}

/// The number of statuses that an instance may publish while it waits to be live.
const MAX_HELD: usize = 16;

/// The permission of an instance to be live. Until the runtime remembers that its version is
/// accepted, `live` is held back, with whatever follows it.
#[derive(Debug, Default)]
struct Admission {
    is_open: bool,
    /// From `live` on, in their order.
    held: VecDeque<(StubStatus, Option<SafeText>)>,
}

/// How often a stub ran into each limit, by the setting's name; it outlives the stub's instances.
#[derive(Debug, Default)]
pub(crate) struct LimitsHit(Mutex<BTreeMap<&'static str, u64>>);

impl LimitsHit {
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, setting: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(setting).or_default() += 1;
    }
}

/// What a sandbox publishes its stub's status through.
pub(crate) struct StubPresence {
    pub(crate) stub: Address,
    pub(crate) topic: Address,
    place: Mutex<StatusTarget>,
    bus: Bus,
    form: StatusForm,
    steps: Arc<Steps>,
    limits_hit: Arc<LimitsHit>,
    admission: Mutex<Admission>,
    /// An instance wants to be live.
    wants_admission: Notify,
}

impl StubPresence {
    /// The presence of a stub whose version is not accepted yet.
    pub(crate) fn new(context: &RuntimeContext, record: &StubRecord, stub: Address, topic: Address) -> Self {
        Self {
            stub,
            topic,
            place: Mutex::new(StatusTarget::public(Arc::clone(&record.status))),
            bus: context.bus.clone(),
            form: context.config.status_form,
            steps: Arc::clone(&record.steps),
            limits_hit: Arc::clone(&record.limits_hit),
            admission: Mutex::default(),
            wants_admission: Notify::new(),
        }
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        // It is whole after every statement.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on instances are of a version that is accepted, or of one that is not. Drops what
    /// was held back.
    pub(crate) fn set_admission(&self, is_open: bool) {
        *self.admission() = Admission { is_open, held: VecDeque::new() };
    }

    /// Returns `true` if instances may be live.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admission().is_open
    }

    /// Waits until an instance wants to be live that may not yet.
    pub(crate) async fn wants_admission(&self) {
        while self.admission().held.is_empty() {
            self.wants_admission.notified().await;
        }
    }

    /// The version is accepted: publishes what was held back, in its order.
    pub(crate) fn admit(&self) {
        loop {
            // A status stays in the queue until it is published, so that those that come meanwhile
            // wait behind it. The lock is not held while subscribers are told.
            let next = {
                let mut admission = self.admission();
                admission.is_open = admission.held.is_empty();
                admission.held.front().cloned()
            };
            let Some((status, reason)) = next else { return };
            if let Err(problem) = self.tell(status, reason) {
                tracing::debug!(stub = %self.stub, problem, "a status that was held back could not be published");
            }
            self.admission().held.pop_front();
        }
    }

    /// Forgets what was held back: the instance is not live, and will not be.
    pub(crate) fn drop_held(&self) {
        self.admission().held.clear();
    }

    /// Publishes a status now.
    fn tell(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        let StatusTarget { cell, is_public } = self.place().clone();
        if let Some(report) = cell.advance(status, reason)?
            && is_public
        {
            self.post(&report);
        }
        Ok(())
    }

    /// Holds a status back if it has to wait for `live`. Returns whether it does.
    fn hold_back(&self, status: StubStatus, reason: Option<&SafeText>) -> Result<bool, String> {
        let now = self.place().cell.current().status;
        let mut admission = self.admission();
        let is_held = !admission.is_open && (status == StubStatus::Live || !admission.held.is_empty());
        if !is_held {
            return Ok(false);
        }
        let last = admission.held.back().map_or(now, |(status, _)| *status);
        if last != status && !last.may_become(status) {
            return Err(format!("a stub that is {last} cannot become {status}"));
        }
        if admission.held.len() >= MAX_HELD {
            return Err(format!("{MAX_HELD} statuses wait for the stub's version to be accepted"));
        }
        admission.held.push_back((status, reason.cloned()));
        drop(admission);
        self.wants_admission.notify_one();
        Ok(true)
    }

    fn place(&self) -> MutexGuard<'_, StatusTarget> {
        // It is whole after every statement.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The presence of an instance that is not the stub yet.
    pub(crate) fn beside(&self) -> Self {
        let Self { stub, topic, bus, form, steps, limits_hit, .. } = self;
        let place = Mutex::new(StatusTarget::private(StubStatus::Deployed));
        // It is not seen before its version is accepted.
        let admission = Mutex::new(Admission { is_open: true, held: VecDeque::new() });
        Self {
            stub: stub.clone(),
            topic: topic.clone(),
            place,
            bus: bus.clone(),
            form: *form,
            steps: Arc::clone(steps),
            limits_hit: Arc::clone(limits_hit),
            admission,
            wants_admission: Notify::new(),
        }
    }

    /// From now on the instance is not the stub any more: what it says of its status is heard through what is returned.
    pub(crate) fn step_aside(&self) -> StatusWatch {
        let mut place = self.place();
        *place = StatusTarget::private(place.cell.current().status);
        place.cell.watch()
    }

    /// From now on the instance is the stub.
    pub(crate) fn step_forward(&self, cell: &Arc<StatusCell>) {
        *self.place() = StatusTarget::public(Arc::clone(cell));
    }

    /// The status of this instance.
    pub(crate) fn watch(&self) -> StatusWatch {
        self.place().cell.watch()
    }

    /// Step 21: the stub's status on the bus, to `<stub>/status`.
    fn post(&self, report: &StatusReport) {
        let _step = self.steps.open(21, report.status.as_str()).entered();
        let message = self.message(report);
        if let Err(error) = self.bus.post(&Origin::Host, message) {
            tracing::warn!(stub = %self.stub, %error, "the status could not be told to its subscribers");
        }
    }

    pub(crate) fn message(&self, report: &StatusReport) -> Message {
        let mut message = Message::update(self.topic.clone()).with_body(self.form.body(report, None));
        message.from = self.stub.clone();
        message.id = MessageId::Text(report.sequence.to_string().into());
        message
    }
}

impl Presence for StubPresence {
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        if self.hold_back(status, reason.as_ref())? { Ok(()) } else { self.tell(status, reason) }
    }

    fn holds_back(&self) -> bool {
        !self.is_admitted()
    }

    fn limited(&self, setting: &'static str) {
        self.limits_hit.count(setting);
    }
}

impl std::fmt::Debug for StubPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubPresence").field("stub", &self.stub).field("current", &self.place().cell.current()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::OnceLock,
        task::{Context, Poll, Waker},
    };

    use protostub_bus::BusConfig;
    use protostub_types::{Domain, StubKey};
    use tracing::{Subscriber, span};
    use tracing_subscriber::{Layer, layer, layer::SubscriberExt as _};

    use super::*;

    fn presence(cell: &Arc<StatusCell>) -> StubPresence {
        let address = |text| Address::parse(text).expect("an address");
        let domain = Domain::parse("sp1.example").expect("a domain");
        StubPresence {
            stub: address("hyperty-runtime://home.example/stub"),
            topic: address("hyperty-runtime://home.example/stub/status"),
            place: Mutex::new(StatusTarget::public(Arc::clone(cell))),
            bus: Bus::new(BusConfig::new(domain.clone(), address("hyperty-runtime://home.example/runtime"))),
            form: StatusForm::default(),
            steps: Arc::new(Steps::of(&StubKey::Domain(domain))),
            limits_hit: Arc::default(),
            admission: Mutex::default(),
            wants_admission: Notify::new(),
        }
    }

    /// Has the instance publish `disconnected` while the runtime tells subscribers of `live`.
    struct DisconnectsMeanwhile {
        presence: Arc<StubPresence>,
        /// The status that holds right afterwards.
        seen: Arc<OnceLock<StubStatus>>,
    }

    impl<S: Subscriber> Layer<S> for DisconnectsMeanwhile {
        fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: layer::Context<'_, S>) {
            if attributes.metadata().name() == "step" {
                self.seen.get_or_init(|| {
                    self.presence.publish(StubStatus::Disconnected, None).expect("it is taken");
                    self.presence.watch().current().status
                });
            }
        }
    }

    #[test]
    fn status_behind_live_waits_for_its_turn() {
        let cell = Arc::new(StatusCell::at(StubStatus::InProgress));
        let (presence, seen) = (Arc::new(presence(&cell)), Arc::<OnceLock<_>>::default());
        presence.publish(StubStatus::Live, None).expect("it is held back");
        assert_eq!(cell.current().status, StubStatus::InProgress);
        let layer = DisconnectsMeanwhile { presence: Arc::clone(&presence), seen: Arc::clone(&seen) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || presence.admit());
        assert_eq!(seen.get(), Some(&StubStatus::Live), "it came before subscribers knew of `live`");
        assert_eq!((cell.current().status, cell.current().sequence), (StubStatus::Disconnected, 2));
        assert!(!presence.holds_back());
    }

    #[test]
    fn whoever_waits_for_a_stub_to_be_live_learns_that_it_was() {
        let mut context = Context::from_waker(Waker::noop());
        let cell = StatusCell::new();
        let waiting = || cell.watch().until_live_once();
        let (mut polled_before, mut polled_late) = (pin!(waiting()), pin!(waiting()));
        assert_eq!(polled_before.as_mut().poll(&mut context), Poll::Pending);
        for status in
            [StubStatus::Deployed, StubStatus::Created, StubStatus::InProgress, StubStatus::Live, StubStatus::Disconnected]
        {
            cell.advance(status, None).expect("the order of statuses");
        }
        assert_eq!(polled_before.as_mut().poll(&mut context), Poll::Ready(true));
        assert_eq!(polled_late.as_mut().poll(&mut context), Poll::Ready(true));
        // Not that it was before.
        let mut again = pin!(waiting());
        cell.advance(StubStatus::Disconnected, Some("it was idle".into())).expect("another reason");
        assert_eq!(again.as_mut().poll(&mut context), Poll::Pending);
        let mut gone = pin!(waiting());
        drop(cell);
        assert_eq!(gone.as_mut().poll(&mut context), Poll::Ready(false));
    }
}
