//! The supervisor of one stub: its parts, and the functions that several actions share.

use std::{fmt, sync::Arc};

use protostub_bus::{Inbox, Route};
use protostub_sandbox::{CrashReport, DisconnectReason, Ended, Presence as _};
use protostub_types::{SafeText, StubStatus};
use tokio::{
    sync::mpsc,
    task::JoinError,
    time::{Duration, Instant},
};

use super::{instance::Instance, state::State, trial::Trial};
use crate::{
    artifact::Artifact,
    command::Command,
    context::RuntimeContext,
    deploy::downgrade,
    error::{DeployError, DeployErrorKind, Phase, failure_text},
    record::StubRecord,
    restart::Restarts,
    status::{StatusWatch, StubPresence},
};

/// The reason of a failed instance that gave none.
pub(super) const NO_REASON: &str = "the stub said `failed` and gave no reason";

/// Supervises one stub from its deployment to its end.
pub(crate) struct Supervisor {
    pub(super) context: Arc<RuntimeContext>,
    pub(super) record: Arc<StubRecord>,
    pub(super) presence: Arc<StubPresence>,
    pub(super) status: StatusWatch,
    pub(super) commands: mpsc::Receiver<Box<Command>>,
    pub(super) routes: [Route; 3],
    pub(super) state: State,
    pub(super) instance: Option<Instance>,
    /// The inbox of the last instance, while there is no other one.
    pub(super) inbox: Option<Inbox>,
    /// The command that the actions carry out, until it is answered.
    pub(super) command: Option<Box<Command>>,
    /// The fault of the last instance, until the next one starts.
    pub(super) fault: Option<Box<DeployError>>,
    /// The end of the pause after that fault.
    pub(super) resume_at: Instant,
    /// The parts of the next instance.
    pub(super) artifact: Arc<Artifact>,
    /// An update that is not committed yet.
    pub(super) trial: Option<Trial>,
    pub(super) restarts: Restarts,
    /// The idle time after which the stub is retired. `None` disables this retirement.
    pub(super) retire_after: Option<Duration>,
}

impl Supervisor {
    /// Makes an instance that of the stub.
    pub(super) fn install(&mut self, instance: Instance) {
        self.record.set_idleness(Some(instance.handle.idleness().clone()));
        self.instance = Some(instance);
    }

    /// Stops the instance, and takes its inbox back. Returns `false` if the inbox is lost.
    pub(super) async fn stop(&mut self) -> bool {
        let Some(mut instance) = self.instance.take() else { return self.inbox.is_some() };
        instance.login = None;
        instance.handle.stop();
        let ended = (&mut instance.task).await;
        self.record.set_idleness(None);
        let Ok(Ended { inbox, crash, .. }) = ended else { return false };
        self.context.report(&self.record, crash);
        self.inbox = Some(inbox);
        true
    }

    /// Lets the instance disconnect, within its grace time.
    pub(super) async fn disconnect(&self, reason: DisconnectReason, status: StatusWatch) {
        self.presence.drop_held();
        if let Some(instance) = &self.instance {
            instance.disconnect(&self.context, &self.record, reason, status).await;
        }
    }

    /// Makes a version durable as the accepted one. No older version can follow it.
    pub(super) async fn remember(&self, artifact: &Artifact) -> Result<(), DeployErrorKind> {
        match artifact.to_commit() {
            Some(committed) => {
                let commit = self.context.catalogue.commit(&self.record.key, &committed, artifact.before.as_ref());
                commit.await.map_err(downgrade::trust_state)
            }
            None => Ok(()),
        }
    }

    /// Notes that the instance is live for the first time.
    pub(super) fn become_live(&mut self) {
        self.restarts.live();
        self.context.registry.clear_failures(&self.record.key);
        self.commit();
    }

    /// Makes the instance's version that of the stub.
    pub(super) fn commit(&mut self) {
        self.record.publish(self.artifact.published());
        if let Some(trial) = self.trial.take() {
            trial.commit();
        }
    }

    /// Reports a crash. A saved session may be the cause of repeated crashes, so the instance after
    /// the second crash starts without it.
    pub(super) fn crashed(&mut self, crash: Option<Arc<CrashReport>>) {
        self.context.report(&self.record, crash);
        if self.record.session.load().is_some() && self.restarts.suspects_session(Instant::now()) {
            tracing::warn!(target: "protostub", domain = %self.record.key, "the stub crashed twice with its saved session; the runtime drops the session");
            let _ = self.record.session.take();
        }
    }

    /// Publishes that the stub has lost its instance.
    pub(super) fn publish_loss(&self, reason: fmt::Arguments<'_>) {
        let reason = failure_text(reason);
        tracing::warn!(target: "protostub", domain = %self.record.key, reason = reason.as_str(), "the protocol stub has lost its instance");
        self.publish(StubStatus::Disconnected, reason);
    }

    /// Publishes why a disconnected stub does not connect. A stub with another status has published
    /// that by itself since.
    pub(super) fn publish_fault(&mut self) {
        let fault = self.take_fault();
        if self.status.current().status == StubStatus::Disconnected {
            self.publish(StubStatus::Disconnected, fault.kind);
        }
    }

    /// Publishes a status in the stub's name.
    pub(super) fn publish(&self, status: StubStatus, reason: impl fmt::Display) {
        self.presence.drop_held();
        if let Err(error) = self.presence.publish(status, Some(failure_text(reason))) {
            tracing::debug!(target: "protostub", %error, "failed to publish a status");
        }
    }

    /// Notes the fault of the instance.
    pub(super) fn set_fault(&mut self, fault: DeployError) {
        self.fault = Some(Box::new(fault));
    }

    /// Takes the fault of the last instance.
    pub(super) fn take_fault(&mut self) -> DeployError {
        self.fault.take().map_or_else(|| self.lost(), |fault| *fault)
    }

    pub(super) fn error(&self, phase: Phase, kind: DeployErrorKind) -> DeployError {
        DeployError { key: self.record.key.clone(), phase, kind }
    }

    pub(super) fn failed(&self, phase: Phase, reason: SafeText) -> DeployError {
        self.error(phase, DeployErrorKind::Failed { reason })
    }

    /// Returns the error of an instance whose task panicked, or whose threads are gone.
    pub(super) fn lost_task(&self, error: &JoinError) -> DeployError {
        self.failed(Phase::Running, failure_text(format_args!("the stub's task ended unexpectedly: {error}")))
    }

    fn lost(&self) -> DeployError {
        self.failed(Phase::Running, "the stub's task ended unexpectedly".into())
    }
}
