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

/// Why a stub is to disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The host program or a hyperty asked for it.
    Request,
    /// Its successor takes over.
    Update,
    /// Nobody used it for long.
    Idle,
    /// The runtime ends.
    Shutdown,
}

/// The instance ended before it did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stub's instance has ended")]
#[expect(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct InstanceEnded;

/// What the runtime asks of a running stub. Clones are handles of the same instance, which ends when the last one is dropped.
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

/// For how long an instance has had nothing to do. Does not keep it alive.
#[derive(Debug, Clone)]
pub struct Idleness {
    origin: Instant,
    /// When its last call began, in nanoseconds since the origin.
    last_call: Arc<AtomicU64>,
}

impl Idleness {
    fn since(origin: Instant) -> Self {
        let now = nanoseconds(origin.elapsed());
        Self { origin, last_call: Arc::new(AtomicU64::new(now)) }
    }

    /// How long ago it was handed something last, whatever it was: a message, a timer, news of a connection.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let last_call = Duration::from_nanos(self.last_call.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last_call)
    }

    /// A call begins, so long after the origin.
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
    /// What the presence held back is published.
    Admit,
}

/// The commands of an instance's handles that its task has not taken yet.
///
/// The task polls before and after every batch, and mostly finds nothing: that costs one load of a
/// flag (`trip_vs_bare`). A channel would take 1.4 KiB of each stub (`idle_stub_kib`). Each caller
/// waits for its answer, so the queue is never longer than the number of callers.
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
        // It is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signals: u8, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.state();
        change(&mut state);
        self.signals.fetch_or(signals, Ordering::Release);
        let task = state.task.take();
        // A waker runs code of others: never under the lock.
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
    /// Of an instance whose calls are timed from `origin`.
    pub(crate) fn new(origin: Instant) -> (Self, Commands) {
        let (queue, idleness) = (Arc::<CommandQueue>::default(), Idleness::since(origin));
        let last = Arc::new(LastHandle(Arc::clone(&queue)));
        let commands = Commands { queue: Arc::clone(&queue), waits_as: None, idleness: idleness.clone() };
        (Self { queue, _last: last, idleness }, commands)
    }

    /// For how long the instance has had nothing to do.
    #[must_use]
    pub fn idleness(&self) -> &Idleness {
        &self.idleness
    }

    /// Sends the `connect` event, with the domain's credential if there is one: at once, waited for or not. Resolves when the guest has handled it;
    /// whether it is connected shows in its status.
    ///
    /// # Errors
    /// If the instance ended before.
    pub fn connect(
        &self,
        credential: Option<Credential>,
    ) -> impl Future<Output = Result<(), InstanceEnded>> + Send + Sync + use<> {
        self.ask(|done| Command::Connect { credential, done })
    }

    /// Sends the `disconnect` event. Resolves when the guest has handled it; whether it is disconnected shows in its status. Messages are
    /// not handed out in the same batch.
    ///
    /// # Errors
    /// If the instance ended before.
    pub async fn disconnect(&self, reason: DisconnectReason) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::Disconnect { reason, done }).await
    }

    /// Gives the instance the inbox and the session slot of the one before it, in the place of its own: what it has saved goes into that slot, and
    /// its own inbox, which nobody may post to, is closed.
    ///
    /// # Errors
    /// If the instance ended before. The inbox is closed, then.
    pub async fn take_over(&self, inbox: Inbox, session: Session) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::TakeOver { inbox, session, done }).await
    }

    /// Asks the instance whether it can be done without: it has had nothing to do for `idle`, and there is nothing under way, neither a message that
    /// waits, nor a request that it, or somebody else, waits to be answered. If so, it is handed no more messages: it is to be told to disconnect,
    /// and to be stopped.
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

    /// Ends the instance. A call in progress may return first, for up to a second; the guest is not told.
    pub fn stop(&self) {
        self.queue.signal(STOP, |_| ());
    }

    /// Whether the instance has ended, or is about to.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.queue.has(STOP) || self.queue.state().has_ended
    }

    /// Resolves when the instance's task has ended.
    pub async fn ended(&self) {
        loop {
            // Hears of what happens from here on, so that nothing comes between the look and the wait.
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
            // One that came too late is dropped, and with it what it is to be answered by.
            if !state.has_ended {
                state.commands.push_back(command);
            }
        });
        async move { handled.await.map_err(|_| InstanceEnded) }
    }
}
