//! One instance of a stub: its task, its login and its deadlines.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::Arc,
};

use protostub_sandbox::{DisconnectReason, Ended, StubHandle, StubTask};
use protostub_types::{SafeText, StatusReport, StubStatus, deadline};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::{Duration, Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    context::RuntimeContext,
    identity::{Credential, CredentialError},
    record::StubRecord,
    status::StatusWatch,
};

/// A sandbox with the component in it, and its task.
pub(super) struct Instance {
    pub(super) handle: StubHandle,
    pub(super) task: JoinHandle<Ended>,
    pub(super) login: Option<PendingLogin>,
    /// The explicit credential that the instance was last told to connect with.
    pub(super) credential: Option<Credential>,
    /// The time by which the instance has to be live, while it is connecting.
    pub(super) connect_by: Instant,
    /// The number of the stub's statuses before the instance was told to connect. A later one is a
    /// report of the instance.
    told_after: u64,
    /// `true` if the instance has reported since then that it cannot connect.
    pub(super) has_failed: bool,
    /// The time from which on a waiting message makes a disconnected instance connect.
    pub(super) wake_at: Instant,
    /// The time of the next check whether the instance is idle.
    pub(super) look_at: Option<Instant>,
}

/// A pending domain login, and the callers who wait for it. They are answered when it is dropped.
pub(super) struct PendingLogin {
    result: LoginResult,
    done: Vec<oneshot::Sender<()>>,
}

/// Ready when the instance was told to connect, or when its credential could not be fetched.
type LoginResult = Pin<Box<dyn Future<Output = Result<(), CredentialError>> + Send + Sync>>;

impl Instance {
    /// Runs an instance whose start succeeded.
    pub(super) fn begin(context: &RuntimeContext, handle: StubHandle, task: StubTask, look_after: Option<Duration>) -> Self {
        let task = context.spawn(task.run());
        let look_at = look_after.and_then(|after| Instant::now().checked_add(after));
        let now = Instant::now();
        Self {
            handle,
            task,
            login: None,
            credential: None,
            connect_by: now,
            told_after: 0,
            has_failed: false,
            wake_at: now,
            look_at,
        }
    }

    /// Logs in at the domain: tells the instance to connect, with the credential that the Identity
    /// Module has for its domain. From now on, the instance has to report the outcome within the
    /// timeout. Answers `done` when the instance was told.
    pub(super) fn log_in(&mut self, context: &Arc<RuntimeContext>, record: &Arc<StubRecord>, done: Option<oneshot::Sender<()>>) {
        self.connect_by = deadline(Instant::now(), context.config.lifecycle.connect_timeout);
        (self.told_after, self.has_failed) = (record.status.current().sequence, false);
        if let Some(login) = &mut self.login {
            login.done.extend(done);
            return;
        }
        self.credential = record.login.credential();
        let explicit = self.credential.clone();
        // Without providers, there is no credential to wait for.
        let result: LoginResult = if explicit.is_some() || context.identity.has_no_providers() {
            Box::pin(connect(&self.handle, explicit))
        } else {
            let (asked, record, handle) = (Arc::clone(context), Arc::clone(record), self.handle.clone());
            // Providers may take long, so they are asked in a task of their own.
            let asking = context.spawn(async move {
                let credential = asked.identity.credential(record.key.domain(), None).await?;
                connect(&handle, credential).await
            });
            let asking = AbortOnDropHandle::new(asking);
            Box::pin(async move {
                // A task that is cancelled ends with the runtime.
                asking.await.unwrap_or_else(|error| if error.is_panic() { Err(lost(&error)) } else { Ok(()) })
            })
        };
        self.login = Some(PendingLogin { result, done: done.into_iter().collect() });
    }

    /// Returns `true` if this status, the stub's, is one that the instance has published since it
    /// was told to connect.
    pub(super) fn has_answered(&self, report: &StatusReport) -> bool {
        self.login.is_none() && report.sequence > self.told_after
    }

    /// Lets the instance disconnect within its grace time. `status` is the instance's own.
    pub(super) async fn disconnect(
        &self,
        context: &RuntimeContext,
        record: &StubRecord,
        reason: DisconnectReason,
        mut status: StatusWatch,
    ) {
        let goodbye = async {
            let was = status.current().status;
            if self.handle.disconnect(reason).await.is_ok() && matches!(was, StubStatus::Live | StubStatus::InProgress) {
                status.until(|report| !matches!(report.status, StubStatus::Live | StubStatus::InProgress)).await;
            }
        };
        if timeout(context.config.lifecycle.grace, goodbye).await.is_err() {
            tracing::debug!(target: "protostub", domain = %record.key, "the stub did not disconnect within its grace time");
        }
    }
}

impl PendingLogin {
    /// Waits for the end of a login, if there is one.
    pub(super) async fn ended(login: &mut Option<Self>) -> Result<(), CredentialError> {
        let ended = match login {
            Some(Self { result, .. }) => result.await,
            None => future::pending().await,
        };
        *login = None;
        ended
    }
}

impl Drop for PendingLogin {
    fn drop(&mut self) {
        // The instance was told to connect, or its status has the failure.
        for done in self.done.drain(..) {
            let _ = done.send(());
        }
    }
}

/// Waits until a time, or forever without one.
pub(super) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}

/// Returns the error of a login whose task panicked.
fn lost(error: &JoinError) -> CredentialError {
    CredentialError::Failed(SafeText::display(format_args!("the login ended unexpectedly: {error}")))
}

/// Tells an instance to connect.
fn connect(
    handle: &StubHandle,
    credential: Option<Credential>,
) -> impl Future<Output = Result<(), CredentialError>> + Send + Sync + use<> {
    let connected = handle.connect(credential);
    async move {
        // If the instance has ended, its task reports that.
        let _ = connected.await;
        Ok(())
    }
}
