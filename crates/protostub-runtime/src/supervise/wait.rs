//! The wait for a stub's next event.

use protostub_sandbox::Ended;
use protostub_types::StubStatus;
use tokio::{
    task::JoinError,
    time::{Instant, sleep_until},
};

use super::{
    instance::{PendingLogin, until},
    state::{Attempt, Event, Login, Order, State, Wait, Wanted},
    supervisor::{NO_REASON, Supervisor},
};
use crate::{
    command::Command,
    error::{DeployErrorKind, Phase, failure_text},
    identity::CredentialError,
};

impl Supervisor {
    /// Waits for the next event, and keeps its details.
    pub(super) async fn next_event(&mut self) -> Event {
        match self.state {
            State::Waiting { wanted, wait } => self.wait(wanted, wait).await,
            _ => self.watch().await,
        }
    }

    /// Waits for an event of the instance, or a command.
    async fn watch(&mut self) -> Event {
        loop {
            let report = self.status.current();
            match report.status {
                StubStatus::Live if self.state.heeds_live() => return Event::Live,
                StubStatus::Failed => {
                    self.set_fault(self.failed(Phase::Connecting, report.reason.unwrap_or_else(|| NO_REASON.into())));
                    return Event::Failed;
                }
                _ => {}
            }
            let attempt = self.attempt();
            // A stub whose connection broke connects again when a message for it waits.
            let heeds_messages = self.state.heeds_messages(report.status);
            let Some(instance) = &mut self.instance else { return Event::Lost };
            instance.has_failed |= report.status == StubStatus::Disconnected && instance.has_answered(&report);
            if instance.has_failed && self.state.heeds_failed(attempt) {
                return Event::AttemptFailed(attempt);
            }
            let (has_failed, wake_at) = (instance.has_failed, instance.wake_at);
            let connect_by = self.state.has_deadline().then_some(instance.connect_by);
            tokio::select! {
                biased;
                // This comes before the instance's end: an instance that wants to be live and then
                // ends was live.
                () = self.presence.wants_admission() => return Event::WantsAdmission,
                ended = &mut instance.task => return self.ended(ended),
                // This comes before the commands, so that an update finds a stub that has just
                // become live to be live.
                changed = self.status.changed() => if changed.is_none() { return Event::Undeploy },
                () = self.context.stop.cancelled() => return Event::Shutdown,
                command = self.commands.recv() => return self.take(command),
                // Once the instance was told, its status counts.
                ended = PendingLogin::ended(&mut instance.login) => if let Err(error) = ended {
                    return self.no_credential(error);
                },
                () = async {
                    sleep_until(wake_at).await;
                    self.record.mailbox.waiting().await;
                }, if heeds_messages => return Event::MessageWaits,
                () = until(connect_by) => {
                    if attempt == Attempt::Login && has_failed {
                        return Event::LoginTimeout;
                    }
                    let after = self.context.config.lifecycle.connect_timeout;
                    self.set_fault(self.error(Phase::Connecting, DeployErrorKind::ConnectTimeout { after }));
                    return Event::ConnectTimeout;
                }
                () = until(instance.look_at) => if self.has_been_idle() { return Event::Idle },
            }
        }
    }

    /// Returns the kind of the attempt to connect that the instance makes.
    fn attempt(&self) -> Attempt {
        let credential = self.instance.as_ref().and_then(|instance| instance.credential.as_ref());
        if !self.record.status.was_live() {
            Attempt::First
        } else if credential.is_some_and(|credential| !self.record.login.trusts(credential)) {
            Attempt::Login
        } else {
            Attempt::Again
        }
    }

    /// Notes that the login failed to get its credential.
    fn no_credential(&mut self, error: CredentialError) -> Event {
        // A provider that cannot be reached is part of the outage.
        let is_outage = matches!(error, CredentialError::Temporary(_)) && self.record.status.was_live();
        self.set_fault(self.error(Phase::Connecting, DeployErrorKind::Credential(error)));
        if is_outage { Event::NoCredentialNow } else { Event::NoCredential }
    }

    /// Waits until another instance is due, or a command comes. The mailbox collects messages
    /// meanwhile.
    async fn wait(&mut self, wanted: Wanted, wait: Wait) -> Event {
        let due = async {
            match wait {
                Wait::Restart => {
                    sleep_until(self.resume_at).await;
                    Event::PauseOver
                }
                Wait::Use => {
                    self.record.mailbox.waiting().await;
                    Event::MessageWaits
                }
            }
        };
        tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Event::Shutdown,
            command = self.commands.recv() => self.take(command),
            event = due, if wanted == Wanted::Connected => event,
        }
    }

    /// Notes the command that the next actions carry out.
    fn take(&mut self, command: Option<Box<Command>>) -> Event {
        let Some(command) = command else { return Event::Undeploy };
        let status = self.status.current().status;
        let event = match &*command {
            Command::Connect { credential, .. } => {
                let told = self.instance.as_ref().and_then(|instance| instance.credential.as_ref());
                let is_other = credential.as_ref().is_some_and(|credential| told != Some(credential));
                Event::Connect { login: if is_other { Login::Other } else { Login::Same }, status }
            }
            Command::Disconnect { .. } => Event::Disconnect,
            Command::Update { artifact, .. } if artifact.discovered.descriptor.overlap => Event::Update(Order::Overlap),
            Command::Update { .. } => Event::Update(Order::OneByOne),
            Command::Undeploy { .. } => Event::Undeploy,
            Command::Retire { .. } => Event::Retire,
            Command::Wake => return Event::Wake { status },
        };
        self.command = Some(command);
        event
    }

    /// Notes that the instance ended by itself.
    fn ended(&mut self, ended: Result<Ended, JoinError>) -> Event {
        self.record.set_idleness(None);
        self.instance = None;
        match ended {
            Ok(Ended { inbox, outcome, crash, .. }) => {
                self.crashed(crash);
                self.set_fault(self.failed(Phase::Running, failure_text(outcome)));
                self.inbox = Some(inbox);
                Event::Crashed
            }
            Err(error) => {
                self.set_fault(self.lost_task(&error));
                Event::Lost
            }
        }
    }

    /// Returns `true` if the instance has been idle for the operator's time. Otherwise, schedules
    /// the next check.
    fn has_been_idle(&mut self) -> bool {
        let (Some(after), Some(instance)) = (self.retire_after, &mut self.instance) else { return false };
        let left = after.saturating_sub(instance.handle.idleness().duration());
        instance.look_at = Instant::now().checked_add(left);
        left.is_zero()
    }
}
