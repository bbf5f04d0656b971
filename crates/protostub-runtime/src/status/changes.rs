//! The status changes of all stubs, for readers in the host program. They pass neither the bus nor
//! its policy, so no message can forge or forbid one.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
};

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use protostub_types::{Address, StatusReport, StubKey};
use tokio::sync::broadcast::{self, error::RecvError};

/// Maximum number of changes that a reader may lag behind. A thousand stubs that start at once have
/// about five changes each, and a reader takes microseconds for one.
const MAX_UNREAD: usize = 1024;

/// A change of one stub's status.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusChange {
    /// The key of the stub.
    pub key: StubKey,
    /// The address of the stub. `None` before step 9.
    pub stub: Option<Address>,
    /// The new status.
    pub report: StatusReport,
}

/// An item of [`StatusChanges`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatusUpdate {
    /// The status of a stub changed.
    Changed(StatusChange),
    /// The reader was too slow, and missed the oldest changes.
    /// [`Runtime::protostubs`](crate::Runtime::protostubs) has the current statuses.
    Missed {
        /// Number of missed changes.
        changes: u64,
    },
}

/// The status changes of all stubs of a runtime, in the order of each stub. Made by
/// [`Runtime::status_changes`](crate::Runtime::status_changes). Works in any async runtime.
pub struct StatusChanges {
    updates: BoxStream<'static, StatusUpdate>,
}

impl StatusChanges {
    fn of(receiver: broadcast::Receiver<StatusChange>) -> Self {
        let updates = stream::unfold(receiver, |mut receiver| async {
            let update = match receiver.recv().await {
                Ok(change) => StatusUpdate::Changed(change),
                Err(RecvError::Lagged(changes)) => StatusUpdate::Missed { changes },
                Err(RecvError::Closed) => return None,
            };
            Some((update, receiver))
        });
        Self { updates: updates.fuse().boxed() }
    }

    /// Waits for the next update. Returns `None` when the runtime has ended and all its changes
    /// were read. A dropped future loses no update.
    pub async fn recv(&mut self) -> Option<StatusUpdate> {
        self.updates.next().await
    }
}

impl Stream for StatusChanges {
    type Item = StatusUpdate;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StatusUpdate>> {
        self.updates.poll_next_unpin(context)
    }
}

impl fmt::Debug for StatusChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusChanges").finish_non_exhaustive()
    }
}

/// The source of all [`StatusChanges`] of a runtime.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeFeed(Arc<Mutex<FeedState>>);

#[derive(Debug, Default)]
enum FeedState {
    /// Without a reader, the feed needs no memory for changes.
    #[default]
    Unread,
    Open(broadcast::Sender<StatusChange>),
    /// The runtime has ended.
    Closed,
}

impl ChangeFeed {
    /// Returns the changes from now on.
    pub(crate) fn subscribe(&self) -> StatusChanges {
        let mut state = self.state();
        match &*state {
            FeedState::Unread => {
                let (sender, receiver) = broadcast::channel(MAX_UNREAD);
                *state = FeedState::Open(sender);
                StatusChanges::of(receiver)
            }
            FeedState::Open(sender) => StatusChanges::of(sender.subscribe()),
            FeedState::Closed => StatusChanges { updates: stream::empty().boxed() },
        }
    }

    /// Ends the changes of all readers.
    pub(crate) fn close(&self) {
        *self.state() = FeedState::Closed;
    }

    /// Publishes a change. Never waits for a reader.
    fn publish(&self, change: impl FnOnce() -> StatusChange) {
        let sender = match &*self.state() {
            FeedState::Open(sender) if sender.receiver_count() > 0 => sender.clone(),
            _ => return,
        };
        // Fails if the last reader has just gone.
        let _ = sender.send(change());
    }

    fn state(&self) -> MutexGuard<'_, FeedState> {
        // A poisoned state is usable: it is valid after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of one stub's changes into the feed.
#[derive(Debug)]
pub(crate) struct ChangeOutlet {
    feed: ChangeFeed,
    key: StubKey,
    stub: Arc<OnceLock<Address>>,
    /// Held from a change to its publication. The feed therefore has the changes of a stub in their
    /// order, even if two tasks change the status.
    turn: Mutex<()>,
}

impl ChangeOutlet {
    pub(crate) fn new(feed: &ChangeFeed, key: &StubKey, stub: &Arc<OnceLock<Address>>) -> Self {
        Self { feed: feed.clone(), key: key.clone(), stub: Arc::clone(stub), turn: Mutex::default() }
    }

    /// Waits until no other task changes the status.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the stub's new status.
    pub(super) fn publish(&self, report: &StatusReport) {
        self.feed.publish(|| StatusChange { key: self.key.clone(), stub: self.stub.get().cloned(), report: report.clone() });
    }
}

#[cfg(test)]
mod tests {
    use protostub_types::{Domain, StubStatus};

    use super::{super::StatusCell, *};

    fn cell(feed: &ChangeFeed, domain: &str) -> StatusCell {
        let key = StubKey::Domain(Domain::parse(domain).expect("a domain"));
        StatusCell::new(ChangeOutlet::new(feed, &key, &Arc::default()))
    }

    fn reason(update: Option<StatusUpdate>) -> String {
        match update {
            Some(StatusUpdate::Changed(change)) => change.report.reason.expect("a reason").to_string(),
            other => panic!("{other:?} instead of a change"),
        }
    }

    #[tokio::test]
    async fn slow_reader_misses_old_changes_and_learns_it() {
        const MISSED: usize = 10;
        let feed = ChangeFeed::default();
        let (mut slow, cell) = (feed.subscribe(), cell(&feed, "sp1.example"));
        for number in 0..MAX_UNREAD + MISSED {
            cell.advance(StubStatus::Deploying, Some(number.to_string().into())).expect("another reason");
        }
        assert_eq!(slow.recv().await, Some(StatusUpdate::Missed { changes: MISSED as u64 }));
        for number in MISSED..MAX_UNREAD + MISSED {
            assert_eq!(reason(slow.recv().await), number.to_string());
        }
        // Another reader starts with the next change.
        let mut other = feed.subscribe();
        cell.advance(StubStatus::Dead, Some("the end".into())).expect("a status");
        feed.close();
        cell.advance(StubStatus::Dead, Some("after the end".into())).expect("a status");
        for reader in [&mut slow, &mut other] {
            assert_eq!(reason(reader.next().await), "the end");
            assert_eq!(reader.next().await, None);
        }
        assert_eq!(feed.subscribe().recv().await, None);
    }

    /// Two tasks change one status. The numbers of the changes never go back.
    #[tokio::test]
    async fn changes_of_a_stub_keep_their_order() {
        const ROUNDS: u64 = 200;
        let feed = ChangeFeed::default();
        let (mut changes, cell) = (feed.subscribe(), cell(&feed, "sp1.example"));
        std::thread::scope(|scope| {
            for task in 0..2 {
                let cell = &cell;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let _ = cell.advance(StubStatus::Deploying, Some(format!("{task} {round}").into()));
                    }
                });
            }
        });
        feed.close();
        let mut numbers = Vec::new();
        while let Some(update) = changes.recv().await {
            let StatusUpdate::Changed(change) = update else { panic!("{update:?}") };
            numbers.push(change.report.sequence);
        }
        assert_eq!(numbers, (1..=2 * ROUNDS).collect::<Vec<_>>());
    }
}
