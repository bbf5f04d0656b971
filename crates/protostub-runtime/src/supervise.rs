//! A stub after its deployment: its login, its commands, its end.

use std::{future, sync::Arc};

use protostub_sandbox::{DisconnectReason, Ended, Presence as _, StubHandle};
use protostub_types::{StatusReport, StubKey, StubStatus};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    core::Core,
    deploy::Deployed,
    error::{DeployError, DeployErrorKind, Phase, in_full},
    presence::StatusWatch,
    registry::stopped,
};

/// What the host program asks of a deployed stub. The answer comes when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    Connect { done: oneshot::Sender<()> },
    Disconnect { done: oneshot::Sender<()> },
    Undeploy { done: oneshot::Sender<()> },
}

/// Why a stub ends.
enum End {
    /// Its instance is no more: it crashed, or hit a limit.
    Ended(Result<Ended, JoinError>),
    /// It said that it cannot connect.
    Failed(StatusReport),
    ConnectTimeout,
    Undeployed(Option<oneshot::Sender<()>>),
    Shutdown,
}

/// Watches over a stub until it ends, and clears up behind it.
pub(crate) async fn run(core: Arc<Core>, deployed: Deployed) {
    let Deployed { record, presence, handle, task, mut commands, routes } = deployed;
    let key = &record.key;
    let mut instance: JoinHandle<Ended> = core.spawn(task.run());
    let mut status = record.status.watch();
    let mut ended_by_request = false;
    let mut connect_by = login(&core, &record.key, &handle).await;

    let end = loop {
        let report = status.current();
        match report.status {
            StubStatus::Live => {
                connect_by = None;
                core.registry.forgive(key);
            }
            StubStatus::Failed => break End::Failed(report),
            _ => {}
        }
        // A new stub connects at once; one whose network broke, when there is a message for it.
        let may_login = connect_by.is_none() && !ended_by_request && report.status == StubStatus::Disconnected;
        let out_of_time = async {
            match connect_by {
                Some(instant) => sleep_until(instant).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = &mut instance => break End::Ended(ended),
            () = core.stop.cancelled() => break End::Shutdown,
            command = commands.recv() => match command {
                Some(Command::Connect { done }) => {
                    record.mailbox.refuse(None);
                    ended_by_request = false;
                    if status.current().status != StubStatus::Live {
                        connect_by = login(&core, key, &handle).await;
                    }
                    let _ = done.send(());
                }
                Some(Command::Disconnect { done }) => {
                    ended_by_request = true;
                    connect_by = None;
                    record.mailbox.refuse(Some((503, format!("the protocol stub of {key} was told to disconnect"))));
                    disconnect(&core, &status, &handle, DisconnectReason::Request).await;
                    let _ = done.send(());
                }
                Some(Command::Undeploy { done }) => break End::Undeployed(Some(done)),
                None => break End::Undeployed(None),
            },
            changed = status.changed() => if changed.is_none() { break End::Undeployed(None) },
            () = record.mailbox.waiting(), if may_login => connect_by = login(&core, key, &handle).await,
            () = out_of_time => break End::ConnectTimeout,
        }
    };

    // Nothing new comes in, and the stub says good-bye while it still can.
    let goodbye = match &end {
        End::Undeployed(_) => Some(DisconnectReason::Request),
        End::Shutdown => Some(DisconnectReason::Shutdown),
        _ => None,
    };
    let error = match &end {
        End::Ended(Ok(ended)) => failed(key, Phase::Running, ended.outcome.to_string()),
        End::Ended(Err(error)) => failed(key, Phase::Running, format!("its task ended without a word: {error}")),
        End::Failed(report) => {
            let reason = report.reason.clone().unwrap_or_else(|| "the stub said `failed` and gave no reason".to_owned());
            failed(key, Phase::Connecting, reason)
        }
        End::ConnectTimeout => DeployError {
            key: key.clone(),
            phase: Phase::Connecting,
            kind: DeployErrorKind::ConnectTimeout { after: core.config.connect_timeout },
        },
        End::Undeployed(_) => stopped(key, "it was undeployed"),
        End::Shutdown => stopped(key, "the runtime is shutting down"),
    };
    let reason = in_full(&error);
    record.mailbox.refuse(Some((503, reason.clone())));
    if let Some(goodbye) = goodbye {
        disconnect(&core, &status, &handle, goodbye).await;
    }
    let (done, ended) = match end {
        End::Ended(ended) => (None, ended),
        End::Undeployed(done) => {
            handle.stop();
            (done, instance.await)
        }
        End::Failed(_) | End::ConnectTimeout | End::Shutdown => {
            handle.stop();
            (None, instance.await)
        }
    };
    let status = if goodbye.is_some() { StubStatus::Dead } else { StubStatus::Failed };
    if status == StubStatus::Failed {
        tracing::warn!(target: "protostub", domain = %key, stub = ?record.url.get(), error = %reason, "the protocol stub has ended");
    }
    if let Err(error) = presence.publish(status, Some(&reason)) {
        tracing::debug!(target: "protostub", %error, "the last status could not be published");
    }
    // In this order: whoever learns that it is over may deploy it anew at once, and needs its key's route.
    drop(routes);
    core.registry.remove(&record, error);
    if let Ok(ended) = ended {
        ended.inbox.close(503, &reason);
    }
    if let Some(done) = done {
        let _ = done.send(());
    }
}

fn failed(key: &StubKey, phase: Phase, reason: String) -> DeployError {
    DeployError { key: key.clone(), phase, kind: DeployErrorKind::Failed { reason } }
}

/// The domain login: tells the stub to connect, with what the Identity Module holds for its domain. Returns until when it has to be live.
async fn login(core: &Core, key: &StubKey, handle: &StubHandle) -> Option<Instant> {
    let connect_by = Instant::now() + core.config.connect_timeout;
    let credential = match timeout(core.config.connect_timeout, core.credentials.credential(key.domain(), None)).await {
        Ok(Ok(credential)) => credential,
        Ok(Err(error)) => {
            tracing::warn!(target: "protostub", domain = %key, %error, "no credential: the stub connects without one");
            None
        }
        Err(_elapsed) => {
            tracing::warn!(target: "protostub", domain = %key, "the Identity Module did not answer: the stub connects without a credential");
            None
        }
    };
    // If the instance has ended, its end is told by its task.
    let _ = timeout(core.config.connect_timeout, handle.connect(credential)).await;
    Some(connect_by)
}

/// Lets the stub say good-bye, for as long as it may.
async fn disconnect(core: &Core, deployed: &StatusWatch, handle: &StubHandle, reason: DisconnectReason) {
    let mut status = deployed.clone();
    let goodbye = async {
        let was = status.current().status;
        if handle.disconnect(reason).await.is_ok() && matches!(was, StubStatus::Live | StubStatus::InProgress) {
            status.until(|report| !matches!(report.status, StubStatus::Live | StubStatus::InProgress)).await;
        }
    };
    if timeout(core.config.grace, goodbye).await.is_err() {
        tracing::debug!(target: "protostub", "the stub did not disconnect within its grace time");
    }
}
