use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{artifact::Artifact, identity::Credential, update::UpdateErrorKind};

/// A command of the host program, or of another stub, to a stub's supervisor. The supervisor
/// answers `done` when it has carried out the command.
///
/// Commands are boxed in the channel. Each stub's channel has 32 places, which are mostly empty:
/// unboxed, they cost `idle_stub_kib` more than 1 KiB.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connects the stub. With a credential, this is an explicit login.
    Connect { credential: Option<Credential>, done: oneshot::Sender<()> },
    /// Disconnects the stub until the next `Connect`.
    Disconnect { done: oneshot::Sender<()> },
    /// Replaces the running version by another one.
    Update { artifact: Arc<Artifact>, done: oneshot::Sender<Result<(), UpdateErrorKind>> },
    /// Ends the stub.
    Undeploy { done: oneshot::Sender<()> },
    /// Retires the stub if it has been idle for this time, because another stub needs its sandbox.
    /// The answer is `true` if the stub is retired.
    Retire { idle: Duration, done: oneshot::Sender<bool> },
    /// Connects the stub if it has no connection: a caller without a message wants the stub to be
    /// live.
    Wake,
}
