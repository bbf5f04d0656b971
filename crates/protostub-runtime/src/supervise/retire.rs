//! Retirement: a stub that nobody has used for long goes without an instance until somebody uses it again.

use std::time::Duration;

use protostub_bus::Inbox;
use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;
use tokio::{sync::oneshot, time::Instant};

use super::{Instance, Pause, Supervisor, Termination};
use crate::error::DeployError;

impl Supervisor {
    /// Whether the instance has had nothing to do for as long as the operator says, and agrees to retire. If not, sets when to look again.
    pub(super) async fn has_been_idle(&self, instance: &mut Instance) -> bool {
        let Some(after) = self.retire_after else { return false };
        let left = after.saturating_sub(instance.handle.idleness().duration());
        if left.is_zero() && self.agrees_to_retire(instance, after).await {
            return true;
        }
        // Something is under way: that may take as long again.
        instance.look_at = Instant::now().checked_add(if left.is_zero() { after } else { left });
        false
    }

    /// Whether the instance can be done without now: nobody is waiting for anything, it has been idle for so long, and says so itself. From then on it
    /// takes no messages.
    pub(super) async fn agrees_to_retire(&self, instance: &Instance, idle: Duration) -> bool {
        let is_settled = matches!(self.status.current().status, StubStatus::Live | StubStatus::Disconnected)
            && instance.login.is_none()
            && instance.connect_by.is_none()
            && self.trial.is_none();
        // What is registered through it wants to be found.
        is_settled && self.record.registrations.is_empty() && instance.handle.retire(idle).await.unwrap_or(false)
    }

    /// Ends the instance in peace, tells `done`, and starts the next one once somebody uses the stub: as its inbox says, or asks for it. What is
    /// posted meanwhile waits.
    pub(super) async fn retire(
        &mut self,
        mut instance: Instance,
        done: Option<oneshot::Sender<bool>>,
    ) -> Result<Result<Instance, (DeployError, Inbox)>, (Termination, Option<Inbox>)> {
        self.say_goodbye(&instance, DisconnectReason::Idle).await;
        let Some(inbox) = self.stop(&mut instance).await else { return Err((self.lost(), None)) };
        drop(instance);
        if self.may_connect {
            self.publish(StubStatus::Disconnected, RETIRED);
        }
        tracing::info!(target: "protostub", domain = %self.record.key, "the protocol stub was idle, and is retired until it is used");
        if let Some(done) = done {
            let _ = done.send(true);
        }
        if let Err(end) = self.pause(Pause::UntilUsed).await {
            return Err((end, Some(inbox)));
        }
        self.record.restarted();
        Ok(self.start(inbox).await)
    }
}

/// Why a stub is disconnected that is retired.
const RETIRED: &str = "it was idle, and comes back with the next message";
