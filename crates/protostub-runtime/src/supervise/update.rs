//! Updates: an instance of another version takes over, after the previous one or next to it.

use std::sync::Arc;

use protostub_sandbox::{DisconnectReason, Ended, Session};
use protostub_types::StubStatus;
use tokio::task::JoinError;

use super::{
    eviction::permit,
    instance::{Instance, PendingLogin, until},
    state::Event,
    supervisor::{NO_REASON, Supervisor},
    trial::Trial,
};
use crate::{
    artifact::Artifact,
    command::Command,
    deploy,
    error::{DeployError, DeployErrorKind, Phase, failure_text, in_full},
    status::StubPresence,
    update::UpdateErrorKind,
};

impl Supervisor {
    /// Makes the command's version that of the next instance, on trial until it has proven that it
    /// works.
    pub(super) fn try_out(&mut self) {
        let Some(command) = self.command.take() else { return };
        let Command::Update { artifact, done } = *command else { return };
        let old = std::mem::replace(&mut self.artifact, artifact);
        let session = self.record.session.load();
        let admission = self.presence.admission();
        self.presence.set_admission(self.artifact.admission());
        self.trial = Some(Trial { to: self.artifact.version().clone(), old, admission, session, done });
    }

    /// Publishes that another version takes over.
    pub(super) fn publish_takeover(&self) {
        let to = self.artifact.version();
        tracing::info!(target: "protostub", domain = %self.record.key, version = %to, "another version takes over");
        self.publish(StubStatus::Disconnected, format_args!("version {to} takes over"));
    }

    /// Makes the previous version that of the next instance.
    pub(super) fn roll_back(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        let fault = self.take_fault();
        self.publish_loss(format_args!("the update failed and the previous version takes over again: {}", in_full(&fault)));
        self.presence.set_admission(trial.admission);
        self.artifact = trial.roll_back(&self.record, fault);
    }

    /// Starts an instance of a version that may run next to the running one. Once the new instance
    /// is live, it takes over. Until then, the new instance is invisible, and its failure has no
    /// effect.
    pub(super) async fn overlap(&mut self) -> Option<Event> {
        let Some(Command::Update { artifact, .. }) = self.command.as_deref() else { return None };
        let artifact = Arc::clone(artifact);
        let presence = Arc::new(self.presence.for_successor());
        let old_ended = self.instance.as_ref().map(|instance| instance.handle.ended());
        let next = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(DeployError::shut_down(&self.record.key)),
            () = async { if let Some(ended) = old_ended { ended.await } } => {
                Err(self.failed(Phase::Running, "the previous version failed during the update".into()))
            }
            next = self.start_successor(&presence, &artifact) => next,
        };
        let mut next = match next {
            Ok(next) => next,
            Err(fault) => return self.keep_running(&artifact, fault.kind),
        };
        if let Err(kind) = self.remember(&artifact).await {
            next.handle.stop();
            return self.keep_running(&artifact, kind);
        }
        tracing::info!(target: "protostub", domain = %self.record.key, version = %artifact.version(), "another version takes over");
        let leaving = self.presence.make_private();
        self.disconnect(DisconnectReason::Update, leaving).await;
        let has_inbox = self.stop().await;
        presence.make_public(&self.record.status);
        (self.presence, self.artifact) = (presence, artifact);
        let Some(inbox) = self.inbox.take().filter(|_| has_inbox) else { return Some(Event::Lost) };
        if next.handle.take_over(inbox, self.record.session.clone()).await.is_err() {
            let ended = (&mut next.task).await;
            self.set_fault(self.broke(ended));
            return Some(Event::Lost);
        }
        self.install(next);
        self.record.restarted();
        self.become_live();
        Some(Event::TookOver)
    }

    /// Answers the command: the new version failed, and the running one stays.
    fn keep_running(&mut self, artifact: &Artifact, kind: DeployErrorKind) -> Option<Event> {
        if let Some(command) = self.command.take()
            && let Command::Update { done, .. } = *command
        {
            let version = artifact.version().clone();
            let _ = done.send(Err(UpdateErrorKind::RolledBack { version, error: Box::new(kind) }));
        }
        None
    }

    /// Returns the error of an instance that ended instead of taking over.
    fn broke(&self, ended: Result<Ended, JoinError>) -> DeployError {
        match ended {
            Ok(Ended { outcome, crash, .. }) => {
                self.context.report(&self.record, crash);
                self.failed(Phase::Running, failure_text(outcome))
            }
            Err(error) => self.lost_task(&error),
        }
    }

    /// Starts an instance next to the running one, and returns it once it is live.
    async fn start_successor(&self, presence: &Arc<StubPresence>, artifact: &Artifact) -> Result<Instance, DeployError> {
        let permit = permit(&self.context, &self.record);
        let sandbox = deploy::sandbox(permit, &self.context, &self.record, presence, artifact, Session::new()).await;
        let sandbox = sandbox.map_err(|kind| self.error(Phase::Starting, kind))?;
        let inbox = self.context.bus.inbox(self.context.config.inbox_of(self.record.key.domain()));
        let started = self.context.turns.run(sandbox.deploy_component(inbox)).await;
        let (handle, task) = started.map_err(|error| {
            self.context.report(&self.record, error.crash);
            self.error(Phase::Starting, DeployErrorKind::Start(Arc::new(error.kind)))
        })?;
        let mut status = presence.watch();
        let mut next = Instance::begin(&self.context, handle, task, self.retire_after);
        next.log_in(&self.context, &self.record, None);
        let settled = status.until(|report| matches!(report.status, StubStatus::Live | StubStatus::Failed));
        tokio::select! {
            biased;
            ended = &mut next.task => Err(self.broke(ended)),
            report = settled => match report.status {
                StubStatus::Live => Ok(next),
                _ => Err(self.failed(Phase::Connecting, report.reason.unwrap_or_else(|| NO_REASON.into()))),
            },
            Err(error) = PendingLogin::ended(&mut next.login) => {
                Err(self.error(Phase::Connecting, DeployErrorKind::Credential(error)))
            }
            () = until(Some(next.connect_by)) => {
                let after = self.context.config.lifecycle.connect_timeout;
                Err(self.error(Phase::Connecting, DeployErrorKind::ConnectTimeout { after }))
            }
        }
    }
}
