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
pub struct InstanceEnded;

/// What the runtime asks of a running stub. Clones are handles of the same instance, which ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct StubHandle {
    orders: Arc<Orders>,
    _held: Arc<Held>,
    idleness: Idleness,
}

/// Dropped with the last handle.
#[derive(Debug)]
struct Held(Arc<Orders>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.tell(ABANDONED, |_| ());
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

/// What the task is told. The sender of `done` is dropped when the instance ends first.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        credential: Option<Box<Credential>>,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        reason: DisconnectReason,
        done: oneshot::Sender<()>,
    },
    TakeOver {
        of: Box<(Inbox, Session)>,
        done: oneshot::Sender<()>,
    },
    Retire {
        idle: Duration,
        agreed: oneshot::Sender<bool>,
    },
    /// What the presence held back is published.
    Admit,
}

/// What handles have told, and the task has not heard yet. The task looks before and after every batch, and most of the time there is nothing: that
/// takes one look at a flag, which is set together with what it stands for. (A channel would take 1.4 KiB of each stub.) Whoever gives a command waits
/// for its answer: there are no more than there are callers.
#[derive(Debug, Default)]
struct Orders {
    news: AtomicU8,
    waiting: Mutex<Waiting>,
    /// Of the task's end.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Who is woken by news.
    task: Option<Waker>,
    has_ended: bool,
}

/// There are commands.
const COMMANDS: u8 = 1;
/// It is to end.
const STOP: u8 = 2;
/// Nobody is left who could stop it.
const ABANDONED: u8 = 4;

impl Orders {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // It is whole after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: u8, order: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting();
        order(&mut waiting);
        self.news.fetch_or(news, Ordering::Release);
        let task = waiting.task.take();
        // A waker runs code of others: never under the lock.
        drop(waiting);
        task.into_iter().for_each(Waker::wake);
    }

    fn has(&self, news: u8) -> bool {
        self.news.load(Ordering::Acquire) & news != 0
    }
}

/// The task's side of a [`StubHandle`].
#[derive(Debug)]
pub(crate) struct Commands {
    orders: Arc<Orders>,
    /// The waker that is there, unless there were news since.
    waits_as: Option<Waker>,
    pub(crate) idleness: Idleness,
}

impl Commands {
    /// The next command, if there is one.
    pub(crate) fn next(&mut self) -> Option<Command> {
        if !self.orders.has(COMMANDS) {
            return None;
        }
        let mut waiting = self.orders.waiting();
        let next = waiting.commands.pop_front();
        if waiting.commands.is_empty() {
            self.orders.news.fetch_and(!COMMANDS, Ordering::Relaxed);
            self.waits_as = None;
        }
        next
    }

    /// Whether the instance is to end before it is handed anything more.
    pub(crate) fn is_over(&self) -> bool {
        self.orders.has(STOP | ABANDONED)
    }

    /// Ready once the instance is to end, whatever it does. The task is woken by any news.
    pub(crate) fn poll_stop(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.wait(cx);
        if self.orders.has(STOP) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// From now on the task is woken by news; whether there are some already.
    pub(crate) fn wait(&mut self, cx: &Context<'_>) -> bool {
        let is_there = self.waits_as.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_there || self.orders.news.load(Ordering::Acquire) != 0 {
            // Whoever tells something takes the waker away.
            self.orders.waiting().task = Some(cx.waker().clone());
            self.waits_as = Some(cx.waker().clone());
        }
        self.orders.news.load(Ordering::Acquire) != 0
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        let mut waiting = self.orders.waiting();
        waiting.has_ended = true;
        let dropped = (std::mem::take(&mut waiting.commands), waiting.task.take());
        drop(waiting);
        drop(dropped);
        self.orders.ended.notify_waiters();
    }
}

impl StubHandle {
    /// Of an instance whose calls are timed from `origin`.
    pub(crate) fn new(origin: Instant) -> (Self, Commands) {
        let (orders, idleness) = (Arc::<Orders>::default(), Idleness::since(origin));
        let held = Arc::new(Held(Arc::clone(&orders)));
        let commands = Commands { orders: Arc::clone(&orders), waits_as: None, idleness: idleness.clone() };
        (Self { orders, _held: held, idleness }, commands)
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
        self.ask(|done| Command::Connect { credential: credential.map(Box::new), done })
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
        self.ask(|done| Command::TakeOver { of: Box::new((inbox, session)), done }).await
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
        self.orders.tell(COMMANDS, |waiting| {
            if !waiting.has_ended {
                waiting.commands.push_back(Command::Admit);
            }
        });
    }

    /// Ends the instance. A call in progress may return first, for up to a second; the guest is not told.
    pub fn stop(&self) {
        self.orders.tell(STOP, |_| ());
    }

    /// Whether the instance has ended, or is about to.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.orders.has(STOP) || self.orders.waiting().has_ended
    }

    /// Resolves when the instance's task has ended.
    pub async fn ended(&self) {
        loop {
            // Hears of what happens from here on, so that nothing comes between the look and the wait.
            let ended = self.orders.ended.notified();
            if self.orders.waiting().has_ended {
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
        self.orders.tell(COMMANDS, |waiting| {
            // One that came too late is dropped, and with it what it is to be answered by.
            if !waiting.has_ended {
                waiting.commands.push_back(command);
            }
        });
        async move { handled.await.map_err(|_| InstanceEnded) }
    }
}
