use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use protostub_bus::Inbox;
use tokio::sync::{Notify, oneshot};

use crate::{Credential, Session, meter::nanoseconds};

/// Reason for a stub to disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The host program or a hyperty asked for it.
    Request,
    /// The stub's successor takes over.
    Update,
    /// The stub was not used for long.
    Idle,
    /// The runtime shuts down.
    Shutdown,
}

/// The instance ended before it handled the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stub's instance has ended")]
#[expect(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct InstanceEnded;

/// The runtime's side of a running stub. Clones are handles of the same instance, which ends when
/// the last one is dropped.
#[derive(Debug, Clone)]
pub struct StubHandle {
    queue: Arc<CommandQueue>,
    _last: Arc<LastHandle>,
    idleness: Idleness,
}

/// Shared by all handles of an instance. Ends the instance when the last handle is dropped.
#[derive(Debug)]
struct LastHandle(Arc<CommandQueue>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.signal(ABANDONED, |_| ());
    }
}

/// The time for which an instance has been idle. Does not keep the instance alive.
#[derive(Debug, Clone)]
pub struct Idleness {
    origin: Instant,
    /// Start of the last call, in nanoseconds since the origin.
    last_call: Arc<AtomicU64>,
}

impl Idleness {
    fn since(origin: Instant) -> Self {
        let now = nanoseconds(origin.elapsed());
        Self { origin, last_call: Arc::new(AtomicU64::new(now)) }
    }

    /// Returns the time since the instance got its last event: a message, a timer, a change of a
    /// connection, or any other.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let last_call = Duration::from_nanos(self.last_call.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last_call)
    }

    /// Records that a call begins, at this time after the origin.
    pub(crate) fn end(&self, began: Duration) {
        self.last_call.store(nanoseconds(began), Ordering::Relaxed);
    }
}

/// A command for the task. The sender of `done` is dropped if the instance ends first.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        credential: Option<Credential>,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        reason: DisconnectReason,
        done: oneshot::Sender<()>,
    },
    TakeOver {
        inbox: Inbox,
        session: Session,
        done: oneshot::Sender<()>,
    },
    Retire {
        idle: Duration,
        agreed: oneshot::Sender<bool>,
    },
    /// The status that the presence held back is published.
    Admit,
}

/// The commands of an instance's handles that its task has not taken yet.
///
/// The task polls before and after every batch, and mostly finds the queue empty: that costs one
/// load of a flag (`trip_vs_bare`). A channel would take 1.4 KiB of each stub (`idle_stub_kib`).
/// Each caller waits for its answer, so the queue is never longer than the number of callers.
#[derive(Debug, Default)]
struct CommandQueue {
    signals: AtomicU8,
    state: Mutex<QueueState>,
    /// Notified when the task has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    commands: VecDeque<Command>,
    /// The task's waker. A signal takes it.
    task: Option<Waker>,
    has_ended: bool,
}

/// The queue has commands.
const COMMANDS: u8 = 1;
/// A handle stopped the instance.
const STOP: u8 = 2;
/// The last handle was dropped.
const ABANDONED: u8 = 4;

impl CommandQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // The state is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signals: u8, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.state();
        change(&mut state);
        self.signals.fetch_or(signals, Ordering::Release);
        let task = state.task.take();
        // A waker runs foreign code, so it never runs under the lock.
        drop(state);
        task.into_iter().for_each(Waker::wake);
    }

    fn has(&self, signals: u8) -> bool {
        self.signals.load(Ordering::Acquire) & signals != 0
    }
}

/// The task's side of a [`StubHandle`].
#[derive(Debug)]
pub(crate) struct Commands {
    queue: Arc<CommandQueue>,
    /// The registered waker, unless a signal has taken it.
    waits_as: Option<Waker>,
    pub(crate) idleness: Idleness,
}

impl Commands {
    /// Takes the next command, if there is one.
    pub(crate) fn next(&mut self) -> Option<Command> {
        if !self.queue.has(COMMANDS) {
            return None;
        }
        let mut state = self.queue.state();
        let next = state.commands.pop_front();
        if state.commands.is_empty() {
            self.queue.signals.fetch_and(!COMMANDS, Ordering::Relaxed);
            self.waits_as = None;
            // Most stubs get no second command for long (`idle_stub_kib`).
            state.commands = VecDeque::new();
        }
        next
    }

    /// Returns `true` if the instance gets no further batch.
    pub(crate) fn must_stop(&self) -> bool {
        self.queue.has(STOP | ABANDONED)
    }

    /// Ready if a handle stopped the instance, which ends even a call in progress. Any signal wakes
    /// the task.
    pub(crate) fn poll_stop(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.register(cx);
        if self.queue.has(STOP) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Registers the task to be woken by a signal. Returns `true` if there is one already.
    pub(crate) fn register(&mut self, cx: &Context<'_>) -> bool {
        let is_there = self.waits_as.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_there || self.queue.signals.load(Ordering::Acquire) != 0 {
            // A signal takes the waker.
            self.queue.state().task = Some(cx.waker().clone());
            self.waits_as = Some(cx.waker().clone());
        }
        self.queue.signals.load(Ordering::Acquire) != 0
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.has_ended = true;
        let dropped = (std::mem::take(&mut state.commands), state.task.take());
        drop(state);
        drop(dropped);
        self.queue.ended.notify_waiters();
    }
}

impl StubHandle {
    /// Makes the handle and the commands of an instance whose calls are timed from `origin`.
    pub(crate) fn new(origin: Instant) -> (Self, Commands) {
        let (queue, idleness) = (Arc::<CommandQueue>::default(), Idleness::since(origin));
        let last = Arc::new(LastHandle(Arc::clone(&queue)));
        let commands = Commands { queue: Arc::clone(&queue), waits_as: None, idleness: idleness.clone() };
        (Self { queue, _last: last, idleness }, commands)
    }

    /// Returns the time for which the instance has been idle.
    #[must_use]
    pub fn idleness(&self) -> &Idleness {
        &self.idleness
    }

    /// Sends the `connect` event, with the domain's credential if there is one. Sends at once, even
    /// if the caller does not await the future.
    ///
    /// Resolves when the guest has handled the event. The stub's status shows if the stub is
    /// connected.
    ///
    /// # Errors
    /// If the instance ended before.
    pub fn connect(
        &self,
        credential: Option<Credential>,
    ) -> impl Future<Output = Result<(), InstanceEnded>> + Send + Sync + use<> {
        self.ask(|done| Command::Connect { credential, done })
    }

    /// Sends the `disconnect` event, in a batch without messages. Resolves when the guest has
    /// handled the event. The stub's status shows if the stub is disconnected.
    ///
    /// # Errors
    /// If the instance ended before.
    pub async fn disconnect(&self, reason: DisconnectReason) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::Disconnect { reason, done }).await
    }

    /// Gives the instance the inbox and the session slot of its predecessor, in place of its own.
    /// The session that the instance has saved moves into that slot. Its own inbox, which has no
    /// route, is closed.
    ///
    /// # Errors
    /// If the instance ended before. The inbox is closed, then.
    pub async fn take_over(&self, inbox: Inbox, session: Session) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::TakeOver { inbox, session, done }).await
    }

    /// Asks the instance to retire. The instance agrees if all of these hold:
    ///
    /// * it has been idle for `idle`
    /// * no message waits
    /// * no request to the instance, and none of its own, is unanswered
    ///
    /// Resolves to `true` if the instance agreed. It then gets no more messages, and the caller has
    /// to disconnect and stop it.
    ///
    /// # Errors
    /// If the instance ended before.
    pub async fn retire(&self, idle: Duration) -> Result<bool, InstanceEnded> {
        self.ask(|agreed| Command::Retire { idle, agreed }).await
    }

    /// Tells an instance whose `live` was [held back](crate::Presence::holds_back) that it is
    /// published now: messages are handed to the guest.
    pub fn admit(&self) {
        self.queue.signal(COMMANDS, |state| {
            if !state.has_ended {
                state.commands.push_back(Command::Admit);
            }
        });
    }

    /// Ends the instance. A call in progress may return first, for up to a second. The guest gets
    /// no event.
    pub fn stop(&self) {
        self.queue.signal(STOP, |_| ());
    }

    /// Returns `true` if the instance has ended, or is about to.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.queue.has(STOP) || self.queue.state().has_ended
    }

    /// Resolves when the instance's task has ended.
    pub async fn ended(&self) {
        loop {
            // Registers before the check, so that no notification is lost between the check and the
            // wait.
            let ended = self.queue.ended.notified();
            if self.queue.state().has_ended {
                return;
            }
            ended.await;
        }
    }

    fn ask<T, C: FnOnce(oneshot::Sender<T>) -> Command>(
        &self,
        command: C,
    ) -> impl Future<Output = Result<T, InstanceEnded>> + use<T, C> {
        let (done, handled) = oneshot::channel();
        let command = command(done);
        self.queue.signal(COMMANDS, |state| {
            // Drops a command that came too late, and its answer's sender with it.
            if !state.has_ended {
                state.commands.push_back(command);
            }
        });
        async move { handled.await.map_err(|_| InstanceEnded) }
    }
}
