//! A stub's status: one writer, many watchers (steps 21 and 22).

mod changes;
mod presence;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use protostub_types::{Address, SafeText, StatusReport, StubStatus};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

pub(crate) use changes::{ChangeFeed, ChangeOutlet};
pub use changes::{StatusChange, StatusChanges, StatusUpdate};
pub(crate) use presence::{Admission, StatusPublisher, StubPresence};

/// The form of a status on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StatusForm {
    /// The first phase of the specification: `{"value":"LIVE"}`.
    #[default]
    Phase1,
    /// The second phase: `{"value":"live"}`, with `desc` if there is a reason.
    Phase2,
}

impl StatusForm {
    /// Returns the body of a status message. `resource` names the stub if another party sends it.
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

/// The only writer of a stub's status. It outlives the stub's instances.
#[derive(Debug)]
pub(crate) struct StatusCell {
    shown: watch::Sender<Shown>,
    live_counter: Arc<LiveCounter>,
    /// `None` for the status of an instance that is not the stub's.
    outlet: Option<ChangeOutlet>,
}

/// The current status, as watches see it.
#[derive(Debug)]
struct Shown {
    report: StatusReport,
    /// `true` if no other status follows.
    is_last: bool,
}

/// The number of times that the stub became live. A waiter may come too late to see a short `live`,
/// and earlier statuses do not wake it.
#[derive(Debug, Default)]
struct LiveCounter {
    count: AtomicU64,
    is_over: AtomicBool,
    changed: Notify,
}

impl StatusCell {
    /// Returns the cell of a stub that is being deployed. Its changes go to the outlet.
    pub(crate) fn new(outlet: ChangeOutlet) -> Self {
        Self::with(StubStatus::Deploying, Some(outlet))
    }

    /// Returns a cell that begins with this status, and whose changes are not published.
    pub(crate) fn at(status: StubStatus) -> Self {
        Self::with(status, None)
    }

    fn with(status: StubStatus, outlet: Option<ChangeOutlet>) -> Self {
        let shown = Shown { report: StatusReport::first(status), is_last: false };
        Self { shown: watch::Sender::new(shown), live_counter: Arc::default(), outlet }
    }

    /// Publishes the first status.
    pub(crate) fn begin(&self) {
        if let Some(outlet) = &self.outlet {
            let _turn = outlet.turn();
            outlet.publish(&self.current());
        }
    }

    /// Returns `true` if the stub has ever been live, even for a moment.
    pub(crate) fn was_live(&self) -> bool {
        self.live_counter.count() > 0
    }

    pub(crate) fn current(&self) -> StatusReport {
        self.shown.borrow().report.clone()
    }

    pub(crate) fn watch(&self) -> StatusWatch {
        let shown = self.shown.subscribe();
        let seen = shown.borrow().report.sequence;
        StatusWatch { shown, seen, live_counter: Arc::clone(&self.live_counter) }
    }

    /// Makes the current status the last one: all watches end.
    pub(crate) fn end(&self) {
        self.live_counter.end();
        self.shown.send_modify(|shown| shown.is_last = true);
    }

    /// Advances to `status` if it can follow the current one. Returns `None` if it is the current
    /// one, or the last one. The error is for the stub's author.
    pub(crate) fn advance(&self, status: StubStatus, reason: Option<SafeText>) -> Result<Option<StatusReport>, String> {
        let _turn = self.outlet.as_ref().map(ChangeOutlet::turn);
        let mut outcome = Ok(None);
        self.shown.send_if_modified(|Shown { report: current, is_last }| {
            if *is_last || (current.status == status && current.reason == reason) {
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
            self.live_counter.add();
        }
        if let (Some(outlet), Ok(Some(report))) = (&self.outlet, &outcome) {
            outlet.publish(report);
        }
        outcome
    }
}

impl Drop for StatusCell {
    fn drop(&mut self) {
        self.live_counter.end();
    }
}

impl LiveCounter {
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

    /// Waits until the counter exceeds `count`. Returns `false` if it never will.
    async fn more_than(&self, count: u64) -> bool {
        loop {
            // Registered before the check, so that no change is missed between check and wait.
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
    shown: watch::Receiver<Shown>,
    /// The number of the last status that this watch has returned, or began with.
    seen: u64,
    live_counter: Arc<LiveCounter>,
}

impl StatusWatch {
    /// Returns the current status.
    #[must_use]
    pub fn current(&self) -> StatusReport {
        self.shown.borrow().report.clone()
    }

    /// Waits for a status that this watch has not seen yet. Returns `None` once the stub has ended
    /// and its last status was seen, even if handles of the stub still exist. The watch may skip
    /// quick changes. Subscribe to `<stub>/status` to get all of them.
    pub async fn changed(&mut self) -> Option<StatusReport> {
        let seen = self.seen;
        let new = self.next(|report| report.sequence > seen).await;
        (new.sequence > seen).then_some(new)
    }

    /// Waits until `done` holds for the status, beginning with the current one, and returns that
    /// status. Returns the last status of a stub that has ended.
    pub async fn until(&mut self, done: impl FnMut(&StatusReport) -> bool + Send) -> StatusReport {
        self.next(done).await
    }

    /// Waits until `done` holds for the status, or until the status is the last one.
    async fn next(&mut self, mut done: impl FnMut(&StatusReport) -> bool + Send) -> StatusReport {
        let waited = self.shown.wait_for(|shown| shown.is_last || done(&shown.report)).await;
        let report = waited.map(|shown| shown.report.clone());
        // Without the cell, no other status follows.
        let report = report.unwrap_or_else(|_| self.current());
        self.seen = report.sequence;
        report
    }

    /// Waits until the stub is live, or has been live since this call, even for a moment. Returns
    /// `false` if the stub is gone.
    pub(crate) fn until_live_once(self) -> impl Future<Output = bool> {
        // The counter is read first, so that a change in between counts.
        let live_counter = self.live_counter.count();
        let is_live = self.shown.borrow().report.status == StubStatus::Live;
        async move { is_live || self.live_counter.more_than(live_counter).await }
    }
}

/// Number of times that a stub has exceeded each limit, by the setting's name. The counters outlive
/// the stub's instances.
#[derive(Debug, Default)]
pub(crate) struct LimitCounters(Mutex<BTreeMap<&'static str, u64>>);

impl LimitCounters {
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, setting: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(setting).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    #[test]
    fn waiter_for_live_learns_that_the_stub_was_live() {
        let mut context = Context::from_waker(Waker::noop());
        let cell = StatusCell::at(StubStatus::Deploying);
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
        // A `live` before the call does not count.
        let mut again = pin!(waiting());
        cell.advance(StubStatus::Disconnected, Some("the stub was idle".into())).expect("another reason");
        assert_eq!(again.as_mut().poll(&mut context), Poll::Pending);
        let mut gone = pin!(waiting());
        drop(cell);
        assert_eq!(gone.as_mut().poll(&mut context), Poll::Ready(false));
    }

    #[test]
    fn watch_of_a_last_status_ends_after_it() {
        let mut context = Context::from_waker(Waker::noop());
        let cell = StatusCell::at(StubStatus::Live);
        let (mut watch, mut late) = (cell.watch(), cell.watch());
        let mut polled = |watch: &mut StatusWatch| match pin!(watch.changed()).poll(&mut context) {
            Poll::Ready(report) => Poll::Ready(report.map(|report| report.status)),
            Poll::Pending => Poll::Pending,
        };
        assert_eq!(polled(&mut watch), Poll::Pending);
        cell.advance(StubStatus::Dead, None).expect("the order of statuses");
        assert_eq!(polled(&mut watch), Poll::Ready(Some(StubStatus::Dead)));
        assert_eq!(polled(&mut watch), Poll::Pending);
        cell.end();
        assert_eq!(cell.advance(StubStatus::Dead, Some("again".into())), Ok(None));
        assert_eq!(polled(&mut watch), Poll::Ready(None));
        assert_eq!(polled(&mut late), Poll::Ready(Some(StubStatus::Dead)));
        assert_eq!(polled(&mut late), Poll::Ready(None));
        assert_eq!(polled(&mut cell.watch()), Poll::Ready(None));
    }
}
