use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

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
    stop: CancellationToken,
}

/// What the task is told. The sender of `done` is dropped when the instance ends first.
#[derive(Debug)]
pub(crate) enum Command {
    Connect { credential: Option<Credential>, done: oneshot::Sender<()> },
    Disconnect { reason: DisconnectReason, done: oneshot::Sender<()> },
    TakeOver { inbox: Inbox, session: Session, done: oneshot::Sender<()> },
}

/// The task's side of a [`StubHandle`].
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) queue: mpsc::Receiver<Command>,
    pub(crate) stop: CancellationToken,
}

impl StubHandle {
    pub(crate) fn new() -> (Self, Commands) {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        (Self { commands, stop: stop.clone() }, Commands { queue, stop })
    }

    /// Sends the `connect` event, with the domain's credential if there is one. Resolves when the guest has handled it; whether it is
    /// connected shows in its status.
    ///
    /// # Errors
    /// If the instance ended before.
    pub async fn connect(&self, credential: Option<Credential>) -> Result<(), InstanceEnded> {
        self.ask(|done| Command::Connect { credential, done }).await
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

    /// Ends the instance. A call in progress may return first, for up to a second; the guest is not told.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the instance has ended, or is about to.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stop.is_cancelled() || self.commands.is_closed()
    }

    /// Resolves when the instance's task has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), InstanceEnded> {
        let (done, handled) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| InstanceEnded)?;
        handled.await.map_err(|_| InstanceEnded)
    }
}
