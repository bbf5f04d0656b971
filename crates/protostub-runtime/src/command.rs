use std::time::Duration;

use tokio::sync::oneshot;

use crate::{artifact::Artifact, identity::Credential, update::UpdateErrorKind};

/// What the host program asks of a deployed stub. The answer comes when it is done. In a box on its way: every stub's channel has 32 places,
/// which hardly ever hold one.
#[derive(Debug)]
pub(crate) enum Command {
    /// Explicitly, if with a credential.
    Connect {
        credential: Option<Box<Credential>>,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        done: oneshot::Sender<()>,
    },
    Update {
        artifact: Box<Artifact>,
        done: oneshot::Sender<Result<(), UpdateErrorKind>>,
    },
    Undeploy {
        done: oneshot::Sender<()>,
    },
    /// Others need its room: it is to go without an instance until it is used again, if it has been idle for so long. The answer: whether it does.
    Retire {
        idle: Duration,
        done: oneshot::Sender<bool>,
    },
    /// Somebody wants it to be live, who has no message for it.
    Wake,
}
