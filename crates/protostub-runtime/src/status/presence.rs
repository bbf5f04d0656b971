//! The status of a stub, as its instances publish it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protostub_bus::{Bus, Origin};
use protostub_sandbox::Presence;
use protostub_types::{Address, Message, MessageId, SafeText, StatusReport, StubStatus};
use tokio::sync::Notify;

use super::{LimitCounters, StatusCell, StatusForm, StatusWatch};
use crate::steps::{Step, Steps};

/// The target of an instance's statuses.
#[derive(Debug, Clone)]
pub(crate) struct StatusTarget {
    pub(crate) cell: Arc<StatusCell>,
    /// Subscribers get the statuses. They do not get those of an instance that may become, or has
    /// been, the stub's.
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

/// Maximum number of statuses that an instance may publish while it waits to be live.
const MAX_HELD: usize = 16;

/// The permission of a version's instances to be live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Admission {
    /// The version is accepted.
    Admitted,
    /// The version is not accepted yet: `live` and the statuses after it are held back.
    #[default]
    HeldBack,
}

/// The gate before an instance's statuses.
#[derive(Debug, Default)]
struct Gate {
    admission: Admission,
    /// The held statuses, in their order. The first one is `live`.
    held: VecDeque<(StubStatus, Option<SafeText>)>,
}

/// Publishes the status of one stub on the bus.
#[derive(Clone)]
pub(crate) struct StatusPublisher {
    pub(crate) stub: Address,
    /// `<stub>/status`
    pub(crate) topic: Address,
    pub(crate) bus: Bus,
    pub(crate) form: StatusForm,
    pub(crate) steps: Arc<Steps>,
}

impl StatusPublisher {
    /// Performs step 21: posts the stub's status to `<stub>/status`.
    fn post(&self, report: &StatusReport) {
        let _step = self.steps.open(Step::PostStatus, report.status.as_str()).entered();
        let mut message = Message::update(self.topic.clone()).with_body(self.form.body(report, None));
        message.from = self.stub.clone();
        message.id = MessageId::Text(report.sequence.to_string().into());
        if let Err(error) = self.bus.post(&Origin::Host, message) {
            tracing::warn!(stub = %self.stub, %error, "failed to publish the status to its subscribers");
        }
    }
}

/// The publisher of a stub's status for its sandbox.
pub(crate) struct StubPresence {
    publisher: StatusPublisher,
    target: Mutex<StatusTarget>,
    limit_counters: Arc<LimitCounters>,
    gate: Mutex<Gate>,
    /// Notified when an instance wants to be live.
    wants_admission: Notify,
}

impl StubPresence {
    /// Returns the presence of a stub whose version is not accepted yet.
    pub(crate) fn new(publisher: StatusPublisher, cell: &Arc<StatusCell>, limit_counters: &Arc<LimitCounters>) -> Self {
        Self {
            publisher,
            target: Mutex::new(StatusTarget::public(Arc::clone(cell))),
            limit_counters: Arc::clone(limit_counters),
            gate: Mutex::default(),
            wants_admission: Notify::new(),
        }
    }

    /// Returns the stub's URL.
    pub(crate) fn stub(&self) -> &Address {
        &self.publisher.stub
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        // A poisoned gate is usable: it is valid after every statement.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the admission of all further instances, and drops the statuses that were held back.
    pub(crate) fn set_admission(&self, admission: Admission) {
        *self.gate() = Gate { admission, held: VecDeque::new() };
    }

    /// Returns the permission of instances to be live.
    pub(crate) fn admission(&self) -> Admission {
        self.gate().admission
    }

    /// Waits until an instance wants to be live and may not be live yet.
    pub(crate) async fn wants_admission(&self) {
        while self.gate().held.is_empty() {
            self.wants_admission.notified().await;
        }
    }

    /// Accepts the version: publishes the statuses that were held back, in their order.
    pub(crate) fn admit(&self) {
        loop {
            // A status stays in the queue until it is published, so that later ones wait behind it.
            // The lock is not held while statuses are published.
            let next = {
                let mut gate = self.gate();
                gate.admission = if gate.held.is_empty() { Admission::Admitted } else { Admission::HeldBack };
                gate.held.front().cloned()
            };
            let Some((status, reason)) = next else { return };
            if let Err(problem) = self.publish_now(status, reason) {
                tracing::debug!(stub = %self.stub(), problem, "failed to publish a status that was held back");
            }
            self.gate().held.pop_front();
        }
    }

    /// Drops the statuses that were held back: the instance is not live, and will not be.
    pub(crate) fn drop_held(&self) {
        self.gate().held.clear();
    }

    /// Publishes a status now.
    fn publish_now(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        let StatusTarget { cell, is_public } = self.target().clone();
        if let Some(report) = cell.advance(status, reason)?
            && is_public
        {
            self.publisher.post(&report);
        }
        Ok(())
    }

    /// Holds a status back if it has to wait for `live`. Returns `true` if it was held back.
    fn hold_back(&self, status: StubStatus, reason: Option<&SafeText>) -> Result<bool, String> {
        let now = self.target().cell.current().status;
        let mut gate = self.gate();
        let is_held = gate.admission == Admission::HeldBack && (status == StubStatus::Live || !gate.held.is_empty());
        if !is_held {
            return Ok(false);
        }
        let last = gate.held.back().map_or(now, |(status, _)| *status);
        if last != status && !last.may_become(status) {
            return Err(format!("a stub that is {last} cannot become {status}"));
        }
        if gate.held.len() >= MAX_HELD {
            return Err(format!("{MAX_HELD} statuses, the limit, already wait until the stub's version is accepted"));
        }
        gate.held.push_back((status, reason.cloned()));
        drop(gate);
        self.wants_admission.notify_one();
        Ok(true)
    }

    fn target(&self) -> MutexGuard<'_, StatusTarget> {
        // A poisoned target is usable: it is valid after every statement.
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the presence of an instance that is not the stub's yet.
    pub(crate) fn for_successor(&self) -> Self {
        Self {
            publisher: self.publisher.clone(),
            target: Mutex::new(StatusTarget::private(StubStatus::Deployed)),
            limit_counters: Arc::clone(&self.limit_counters),
            // The instance stays invisible until its version is accepted.
            gate: Mutex::new(Gate { admission: Admission::Admitted, held: VecDeque::new() }),
            wants_admission: Notify::new(),
        }
    }

    /// Hides the statuses of an instance that is no longer the stub's. The returned watch sees
    /// them.
    pub(crate) fn make_private(&self) -> StatusWatch {
        let mut target = self.target();
        *target = StatusTarget::private(target.cell.current().status);
        target.cell.watch()
    }

    /// Makes the instance's statuses those of the stub, beginning with the current one.
    pub(crate) fn make_public(&self, cell: &Arc<StatusCell>) {
        let StatusReport { status, reason, .. } = self.watch().current();
        *self.target() = StatusTarget::public(Arc::clone(cell));
        // The previous instance may have lost its connection.
        if cell.current().status != status
            && let Err(problem) = self.publish_now(status, reason)
        {
            tracing::debug!(stub = %self.stub(), problem, "failed to publish the status of the next instance");
        }
    }

    /// Returns a watch of this instance's status.
    pub(crate) fn watch(&self) -> StatusWatch {
        self.target().cell.watch()
    }
}

impl Presence for StubPresence {
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        if self.hold_back(status, reason.as_ref())? { Ok(()) } else { self.publish_now(status, reason) }
    }

    fn holds_back(&self) -> bool {
        self.admission() == Admission::HeldBack
    }

    fn limited(&self, setting: &'static str) {
        self.limit_counters.count(setting);
    }
}

impl std::fmt::Debug for StubPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubPresence").field("stub", self.stub()).field("current", &self.target().cell.current()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use protostub_bus::BusConfig;
    use protostub_types::{Domain, StubKey};
    use tracing::{Subscriber, span};
    use tracing_subscriber::{Layer, layer, layer::SubscriberExt as _};

    use super::*;

    fn presence(cell: &Arc<StatusCell>) -> StubPresence {
        let address = |text| Address::parse(text).expect("an address");
        let domain = Domain::parse("sp1.example").expect("a domain");
        let publisher = StatusPublisher {
            stub: address("hyperty-runtime://home.example/stub"),
            topic: address("hyperty-runtime://home.example/stub/status"),
            bus: Bus::new(BusConfig::new(domain.clone(), address("hyperty-runtime://home.example/runtime"))),
            form: StatusForm::default(),
            steps: Arc::new(Steps::of(&StubKey::Domain(domain))),
        };
        StubPresence::new(publisher, cell, &Arc::default())
    }

    /// Lets the instance publish `disconnected` while the runtime publishes `live` to subscribers.
    struct DisconnectsMeanwhile {
        presence: Arc<StubPresence>,
        /// The stub's status immediately afterwards.
        seen: Arc<OnceLock<StubStatus>>,
    }

    impl<S: Subscriber> Layer<S> for DisconnectsMeanwhile {
        fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: layer::Context<'_, S>) {
            if attributes.metadata().name() == "step" {
                self.seen.get_or_init(|| {
                    self.presence.publish(StubStatus::Disconnected, None).expect("the status is accepted");
                    self.presence.watch().current().status
                });
            }
        }
    }

    #[test]
    fn status_behind_live_waits_for_its_turn() {
        let cell = Arc::new(StatusCell::at(StubStatus::InProgress));
        let (presence, seen) = (Arc::new(presence(&cell)), Arc::<OnceLock<_>>::default());
        presence.publish(StubStatus::Live, None).expect("the status is held back");
        assert_eq!(cell.current().status, StubStatus::InProgress);
        let layer = DisconnectsMeanwhile { presence: Arc::clone(&presence), seen: Arc::clone(&seen) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || presence.admit());
        assert_eq!(seen.get(), Some(&StubStatus::Live), "`disconnected` came before subscribers knew of `live`");
        assert_eq!((cell.current().status, cell.current().sequence), (StubStatus::Disconnected, 2));
        assert!(!presence.holds_back());
    }
}
