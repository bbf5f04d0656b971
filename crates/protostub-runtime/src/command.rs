use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{artifact::Artifact, identity::Credential, update::UpdateErrorKind};

/// A command of the host program, or of another stub, to a stub's supervisor. `done` is answered
/// when the command is carried out.
///
/// On its way it is in a box. Each stub's channel has 32 places, which are mostly empty: unboxed
/// they cost `idle_stub_kib` more than 1 KiB.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connects the stub; explicitly, if with a credential.
    Connect { credential: Option<Credential>, done: oneshot::Sender<()> },
    /// Disconnects the stub, until it is connected again.
    Disconnect { done: oneshot::Sender<()> },
    /// Replaces what runs by another version.
    Update { artifact: Arc<Artifact>, done: oneshot::Sender<Result<(), UpdateErrorKind>> },
    /// Ends the stub.
    Undeploy { done: oneshot::Sender<()> },
    /// Retires the stub if it has been idle for so long: another stub needs its sandbox. The answer
    /// says whether it is retired.
    Retire { idle: Duration, done: oneshot::Sender<bool> },
    /// Connects the stub if it has no connection: a caller without a message wants it to be live.
    Wake,
}
