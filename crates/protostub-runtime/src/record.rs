//! The record of one stub: the state that its instances share and that others see.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protostub_bus::Mailbox;
use protostub_egress::Quota;
use protostub_sandbox::{CrashReport, Idleness, Session};
use protostub_types::{Address, StubKey};
use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    artifact::Release,
    command::Command,
    error::{DeployError, StubGone},
    identity::ExplicitLogin,
    registration::RegistrationHandle,
    status::{ChangeFeed, ChangeOutlet, LimitCounters, StatusCell},
    steps::Steps,
};

/// The record of one stub, from its reservation to its end. All callers that wait for the stub or
/// use it share the record.
#[derive(Debug)]
pub(crate) struct StubRecord {
    pub(crate) key: StubKey,
    /// The mailbox for messages to the stub's domain, also before the stub is deployed.
    pub(crate) mailbox: Mailbox,
    pub(crate) status: Arc<StatusCell>,
    pub(crate) steps: Arc<Steps>,
    pub(crate) commands: mpsc::Sender<Box<Command>>,
    /// Known from step 9 on.
    pub(crate) url: Arc<OnceLock<Address>>,
    /// Known from step 15 on.
    pub(crate) sandbox_url: OnceLock<Address>,
    /// The session that each instance saves for the next.
    pub(crate) session: Session,
    /// The quota of the connections of all instances. Opened with the first instance.
    pub(crate) quota: OnceLock<Quota>,
    /// The credential of the stub's explicit login.
    pub(crate) login: Arc<ExplicitLogin>,
    /// Known from step 5 on.
    published: Mutex<Option<Release>>,
    /// The idleness of the stub's instance, while there is one.
    idleness: Mutex<Option<Idleness>>,
    restarts: AtomicU64,
    last_crash: Mutex<Option<Arc<CrashReport>>>,
    pub(crate) limit_counters: Arc<LimitCounters>,
    /// The stub's own registration at its domain's Registry, if the operator wants it.
    pub(crate) registration: OnceLock<RegistrationHandle>,
    /// The registrations that go through the stub.
    pub(crate) registrations: TaskTracker,
    /// Cancelled when the stub is about to end. The registrations that go through the stub have a
    /// moment to be removed.
    pub(crate) leaving: CancellationToken,
    /// `true` from the host program's order to disconnect until its order to connect.
    told_to_disconnect: watch::Sender<bool>,
    /// Set by step 20.
    deployed: SetOnce<()>,
    /// Set when the deployment has failed or the stub has ended.
    over: SetOnce<StubGone>,
}

impl StubRecord {
    /// Returns the record of a stub that is being deployed. Its status changes go to the feed.
    pub(crate) fn new(key: StubKey, mailbox: Mailbox, commands: mpsc::Sender<Box<Command>>, feed: &ChangeFeed) -> Self {
        let url = Arc::default();
        Self {
            mailbox,
            status: Arc::new(StatusCell::new(ChangeOutlet::new(feed, &key, &url))),
            steps: Arc::new(Steps::of(&key)),
            key,
            commands,
            url,
            sandbox_url: OnceLock::new(),
            session: Session::new(),
            quota: OnceLock::new(),
            login: Arc::default(),
            published: Mutex::default(),
            idleness: Mutex::default(),
            restarts: AtomicU64::new(0),
            last_crash: Mutex::default(),
            limit_counters: Arc::default(),
            registration: OnceLock::new(),
            registrations: TaskTracker::new(),
            leaving: CancellationToken::new(),
            told_to_disconnect: watch::Sender::default(),
            deployed: SetOnce::new(),
            over: SetOnce::new(),
        }
    }

    /// Sends a command to the stub's supervisor, and waits for the answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StubGone> {
        let (done, mut answer) = oneshot::channel();
        // A command that cannot be sent is dropped, and `done` with it.
        let _ = self.commands.send(Box::new(command(done))).await;
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            // A command that is sent while the receiver is dropped stays in the channel, unread.
            () = self.commands.closed() => answer.try_recv().ok(),
        };
        match answer {
            Some(answer) => Ok(answer),
            None => Err(self.until_over().await),
        }
    }

    pub(crate) fn published(&self) -> Option<Release> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn publish(&self, published: Release) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published);
    }

    /// Returns the idle time of the stub's instance, or `None` if there is no instance.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idleness.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Idleness::duration)
    }

    /// Sets the idleness of a new instance, or `None` when the instance has gone.
    pub(crate) fn set_idleness(&self, idleness: Option<Idleness>) {
        *self.idleness.lock().unwrap_or_else(PoisonError::into_inner) = idleness;
    }

    /// Returns the number of instances after the first one.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn last_crash(&self) -> Option<Arc<CrashReport>> {
        self.last_crash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_last_crash(&self, report: Option<Arc<CrashReport>>) {
        *self.last_crash.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    pub(crate) fn deployed(&self) {
        let _ = self.deployed.set(());
    }

    /// Ends the record: no status follows the current one.
    pub(crate) fn over(&self, gone: StubGone) {
        let _ = self.over.set(gone);
        self.status.end();
    }

    /// Notes whether the stub was told to disconnect.
    pub(crate) fn set_told_to_disconnect(&self, told: bool) {
        self.told_to_disconnect.send_replace(told);
    }

    /// Waits until the stub was told to disconnect, and not to connect again.
    pub(crate) async fn until_told_to_disconnect(&self) {
        // Cannot fail: this record is the sender.
        let _ = self.told_to_disconnect.subscribe().wait_for(|told| *told).await;
    }

    /// Returns how the stub ended, if it has ended.
    pub(crate) fn gone(&self) -> Option<StubGone> {
        self.over.get().cloned()
    }

    /// Returns `true` after step 20.
    pub(crate) fn is_deployed(&self) -> bool {
        self.deployed.initialized()
    }

    /// Waits for step 20.
    pub(crate) async fn until_deployed(&self) -> Result<(), DeployError> {
        tokio::select! {
            biased;
            gone = self.until_over() => Err(gone.into()),
            () = async { self.deployed.wait().await; } => Ok(()),
        }
    }

    /// Waits until the stub has ended, and returns how it ended.
    pub(crate) async fn until_over(&self) -> StubGone {
        self.over.wait().await.clone()
    }
}
