use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::sync::{mpsc, oneshot};

use protostub_bus::Inbox;

use crate::{Credential, Session};

/// How many commands may wait for an instance: a runtime has one or two under way.
const COMMANDS: usize = 16;

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
    commands: mpsc::Sender<Command>,
    stop: Arc<Stop>,
    idleness: Idleness,
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
        let now = u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
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
        self.last_call.store(u64::try_from(began.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What the task is told. The sender of `done` is dropped when the instance ends first. Small: every instance's channel has 32 places for one.
#[derive(Debug)]
pub(crate) enum Command {
    Connect { credential: Option<Box<Credential>>, done: oneshot::Sender<()> },
    Disconnect { reason: DisconnectReason, done: oneshot::Sender<()> },
    TakeOver { of: Box<(Inbox, Session)>, done: oneshot::Sender<()> },
    Retire { idle: Duration, agreed: oneshot::Sender<bool> },
}

/// The task's side of a [`StubHandle`].
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) queue: mpsc::Receiver<Command>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) idleness: Idleness,
}

/// The order to end an instance. Its task looks before every batch, so it is a flag, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    is_ordered: AtomicBool,
    task: AtomicWaker,
}

impl Stop {
    fn order(&self) {
        self.is_ordered.store(true, Ordering::Release);
        self.task.wake();
    }

    fn is_ordered(&self) -> bool {
        self.is_ordered.load(Ordering::Acquire)
    }

    /// Ready once it is ordered; for one task only.
    pub(crate) fn poll_ordered(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_ordered() {
            return Poll::Ready(());
        }
        self.task.register(cx.waker());
        // It may have been ordered before the waker was there.
        if self.is_ordered() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl StubHandle {
    /// Of an instance whose calls are timed from `origin`.
    pub(crate) fn new(origin: Instant) -> (Self, Commands) {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (stop, idleness) = (Arc::<Stop>::default(), Idleness::since(origin));
        (Self { commands, stop: Arc::clone(&stop), idleness: idleness.clone() }, Commands { queue, stop, idleness })
    }

    /// For how long the instance has had nothing to do.
    #[must_use]
    pub fn idleness(&self) -> &Idleness {
        &self.idleness
    }

    /// Sends the `connect` event, with the domain's credential if there is one. Resolves when the guest has handled it; whether it is
    /// connected shows in its status.
    ///
    /// # Errors
    /// If the instance ended before.
    pub async fn connect(&self, credential: Option<Credential>) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::Connect { credential: credential.map(Box::new), done }).await
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

    /// Ends the instance. A call in progress may return first, for up to a second; the guest is not told.
    pub fn stop(&self) {
        self.stop.order();
    }

    /// Whether the instance has ended, or is about to.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stop.is_ordered() || self.commands.is_closed()
    }

    /// Resolves when the instance's task has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, InstanceEnded> {
        let (done, mut handled) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| InstanceEnded)?;
        let answer = tokio::select! {
            biased;
            answer = &mut handled => answer.ok(),
            // What is sent while the receiver is dropped stays in the channel, unread, for as long as there is a sender.
            () = self.commands.closed() => handled.try_recv().ok(),
        };
        answer.ok_or(InstanceEnded)
    }
}
