//! Retirement: a stub that has been idle for long has no instance until its next use.

use protostub_types::StubStatus;
use tokio::time::Instant;

use super::{state::Event, supervisor::Supervisor};
use crate::command::Command;

impl Supervisor {
    /// Asks the instance to retire. An instance that agrees takes no more messages.
    pub(super) async fn ask_to_retire(&mut self) -> Event {
        let idle = match self.command.as_deref() {
            // The caller may have found a free sandbox meanwhile.
            Some(Command::Retire { done, .. }) if done.is_closed() => None,
            Some(Command::Retire { idle, .. }) => Some(*idle),
            _ => self.retire_after,
        };
        let is_settled = matches!(self.status.current().status, StubStatus::Live | StubStatus::Disconnected);
        match (&self.instance, idle) {
            // Hyperties that are registered through the stub have to be reachable.
            (Some(instance), Some(idle)) if is_settled && instance.login.is_none() && self.record.registrations.is_empty() => {
                match instance.handle.retire(idle).await {
                    Ok(true) => Event::RetireAgreed,
                    _ => Event::RetireDeclined,
                }
            }
            _ => Event::RetireDeclined,
        }
    }

    /// Answers `false` to the stub that needs the sandbox. Without such a command, schedules the
    /// next check.
    pub(super) fn decline_to_retire(&mut self) {
        if let Some(command) = self.command.take() {
            if let Command::Retire { done, .. } = *command {
                let _ = done.send(false);
            }
        } else if let (Some(after), Some(instance)) = (self.retire_after, &mut self.instance) {
            // The instance is in use, and may be for as long again.
            instance.look_at = Instant::now().checked_add(after);
        }
    }

    /// Publishes that the stub is retired.
    pub(super) fn publish_retired(&self) {
        self.publish(StubStatus::Disconnected, RETIRED);
    }
}

/// The reason of a retired stub's status.
const RETIRED: &str = "the stub was idle, and starts again with the next message";
