//! Updates: an instance of another version takes over, after the one before it or beside it.

use std::sync::Arc;

use protostub_sandbox::{DisconnectReason, Ended, Session};
use protostub_types::StubStatus;
use tokio::{sync::oneshot, task::JoinError};

use super::{Instance, NO_REASON, PendingLogin, Supervisor, Termination, until};
use crate::{
    deploy::{self, Artifact},
    error::{DeployError, DeployErrorKind, Phase, told},
    status::StubPresence,
    update::{Trial, UpdateErrorKind},
};

impl Supervisor {
    /// The next instance is made of a new version, until that has shown that it works.
    pub(super) fn try_out(&mut self, artifact: Box<Artifact>, done: oneshot::Sender<Result<(), UpdateErrorKind>>) {
        let old = std::mem::replace(&mut self.artifact, Arc::from(artifact));
        let session = self.record.session.load();
        let was_admitted = self.presence.is_admitted();
        self.presence.set_admission(self.artifact.to_commit().is_none());
        self.trial = Some(Trial { to: self.artifact.discovered.descriptor.version.clone(), old, was_admitted, session, done });
    }

    /// Starts an instance of a version that may run beside the one before it, and when it is live, has it take over. Until then nothing of it
    /// is seen, and if it fails, nothing has happened.
    pub(super) async fn overlap(
        &mut self,
        instance: &mut Instance,
        artifact: Box<Artifact>,
        done: oneshot::Sender<Result<(), UpdateErrorKind>>,
    ) -> Result<(), Termination> {
        let to = artifact.discovered.descriptor.version.clone();
        let presence = Arc::new(self.presence.beside());
        let next = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(DeployError::shut_down(&self.record.key)),
            () = instance.handle.ended() => Err(self.failed(Phase::Running, "the version before it broke meanwhile".into())),
            next = self.try_beside(&presence, &artifact) => next,
        };
        let mut next = match next {
            Ok(next) => next,
            Err(fault) => {
                let _ = done.send(Err(UpdateErrorKind::RolledBack { version: to, error: Box::new(fault.kind) }));
                return Ok(());
            }
        };
        if let Err(kind) = self.remember(&artifact).await {
            next.handle.stop();
            let _ = done.send(Err(UpdateErrorKind::RolledBack { version: to, error: Box::new(kind) }));
            return Ok(());
        }
        tracing::info!(target: "protostub", domain = %self.record.key, version = %to, "another version takes over");
        let leaving = self.presence.step_aside();
        self.bid_goodbye(instance, DisconnectReason::Update, leaving).await;
        let inbox = self.stop(instance).await;
        presence.step_forward(&self.record.status);
        (self.presence, self.artifact) = (presence, Arc::from(artifact));
        let Some(inbox) = inbox else { return Err(self.lost()) };
        if next.handle.take_over(inbox, self.record.session.clone()).await.is_err() {
            return Err(Termination::Broken(self.broke(next.task.await)));
        }
        next.is_live = true;
        *instance = next;
        self.record.restarted();
        self.is_live();
        let _ = done.send(Ok(()));
        Ok(())
    }

    /// An instance that was to take over has ended.
    fn broke(&self, ended: Result<Ended, JoinError>) -> DeployError {
        match ended {
            Ok(Ended { outcome, crash, .. }) => {
                self.context.report(&self.record, crash);
                self.failed(Phase::Running, told(outcome))
            }
            Err(error) => self.lost_task(&error),
        }
    }

    /// An instance beside the one that is the stub, once it is live.
    async fn try_beside(&self, presence: &Arc<StubPresence>, artifact: &Artifact) -> Result<Instance, DeployError> {
        let during = |kind| DeployError { key: self.record.key.clone(), phase: Phase::Starting, kind };
        let sandbox = deploy::sandbox(&self.context, &self.record, presence, artifact, Session::new()).await.map_err(during)?;
        let inbox = self.context.bus.inbox(self.context.config.inbox_of(self.record.key.domain()));
        let (handle, task) = sandbox.deploy_component(inbox).await.map_err(|error| {
            self.context.report(&self.record, error.crash);
            during(DeployErrorKind::Start(Arc::new(error.kind)))
        })?;
        let mut status = presence.watch();
        let mut next = self.begin(handle, task);
        let connecting = |kind| DeployError { key: self.record.key.clone(), phase: Phase::Connecting, kind };
        let settled = status.until(|report| matches!(report.status, StubStatus::Live | StubStatus::Failed));
        tokio::select! {
            biased;
            ended = &mut next.task => Err(self.broke(ended)),
            report = settled => match report.status {
                StubStatus::Live => Ok(next),
                _ => Err(self.failed(Phase::Connecting, report.reason.unwrap_or_else(|| NO_REASON.into()))),
            },
            Err(error) = PendingLogin::ended(&mut next.login) => Err(connecting(DeployErrorKind::Credential(error))),
            () = until(next.connect_by) => {
                Err(connecting(DeployErrorKind::ConnectTimeout { after: self.context.config.lifecycle.connect_timeout }))
            }
        }
    }
}
