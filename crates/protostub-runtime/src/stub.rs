use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, pending},
    sync::Arc,
};

use protostub_sandbox::CrashReport;
use protostub_types::{Address, Domain, Sha256Digest, StatusReport, StubKey, Version};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::{
    command::Command,
    context::RuntimeContext,
    deploy,
    error::{ConnectError, DeployError, DeployErrorKind, Phase, StubGone, failure_text},
    identity::{Credential, CredentialError},
    record::StubRecord,
    registration::{Registration, RegistrationHandle},
    status::StatusWatch,
    update::{AvailableUpdate, UpdateError, UpdateErrorKind, Updated},
};

/// A cloneable handle of a deployed protocol stub. Dropping it does not end the stub, which lives
/// until it is undeployed or the runtime shuts down.
#[derive(Clone)]
pub struct Protostub {
    context: Arc<RuntimeContext>,
    record: Arc<StubRecord>,
}

/// The outcome of the wait until a stub is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// The stub was live in time.
    Live,
    /// The stub was not live in time.
    Late,
    /// The stub was told to disconnect.
    ToldToDisconnect,
}

impl Protostub {
    pub(crate) fn new(context: &Arc<RuntimeContext>, record: Arc<StubRecord>) -> Self {
        Self { context: Arc::clone(context), record }
    }

    /// Returns the stub's key.
    #[must_use]
    pub fn key(&self) -> &StubKey {
        &self.record.key
    }

    /// Returns the domain that the stub speaks to.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        self.record.key.domain()
    }

    /// Returns the stub's own address (step 9), `hyperty-runtime://<domain>/protostub/<id>`, or
    /// `None` before step 9.
    #[must_use]
    pub fn url(&self) -> Option<&Address> {
        self.record.url.get()
    }

    /// Returns the address of the stub's sandbox (step 15), or `None` before step 15.
    #[must_use]
    pub fn sandbox_url(&self) -> Option<&Address> {
        self.record.sandbox_url.get()
    }

    /// Returns the URL at which the descriptor was found (step 5), or `None` before step 5.
    #[must_use]
    pub fn descriptor_url(&self) -> Option<Url> {
        self.record.published().map(|published| published.descriptor_url)
    }

    /// Returns the descriptor's version, or `None` before step 5.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.record.published().map(|published| published.version)
    }

    /// Returns the digest of the component. Returns `None` before step 5, or before step 7 if the
    /// descriptor does not state the digest.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.record.published()?.digest
    }

    /// Returns the number of instances after the first one: restarts, updates, and rollbacks of
    /// updates. The stub's address and its waiting messages stay the same through all of them.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.record.restarts()
    }

    /// Returns the report of the stub's last crash, or of the last limit that it exceeded. The
    /// runtime forgets the oldest reports beyond
    /// [`TotalSettings::max_kept_crash_reports`](crate::TotalSettings::max_kept_crash_reports).
    /// [`CrashReport`] documents its JSON.
    #[must_use]
    pub fn last_crash(&self) -> Option<Arc<CrashReport>> {
        self.record.last_crash()
    }

    /// Returns the number of times that all instances of the stub have exceeded each limit. The key
    /// is the name of the setting in [`Limits`](crate::Limits), or `stack`. The first, tenth,
    /// hundredth time and so on is also an event of the target `protostub::limits`.
    #[must_use]
    pub fn limits_hit(&self) -> BTreeMap<&'static str, u64> {
        self.record.limit_counters.counts()
    }

    /// Returns the state of the stub's registration at its domain's Registry, or `None` unless
    /// [`DomainSettings::register`](crate::DomainSettings::register) is set for the domain.
    #[must_use]
    pub fn registration(&self) -> Option<Registration> {
        self.record.registration.get().map(RegistrationHandle::status)
    }

    /// Returns the stub's current status.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        self.record.status.current()
    }

    /// Returns a watch of the stub's status, beginning with the current one.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.record.status.watch()
    }

    /// Waits until the stub is live, or has been live since the call, even for a moment. The wait
    /// has no limit while the stub cannot connect, or was told to [disconnect](Self::disconnect).
    ///
    /// # Errors
    /// If the stub ends instead.
    pub async fn until_live(&self) -> Result<(), StubGone> {
        self.live_from_now().await
    }

    /// Waits like [`Self::until_live`], but counts from the call, not from the first poll. The stub
    /// may be told to connect in between.
    pub(crate) fn live_from_now(&self) -> impl Future<Output = Result<(), StubGone>> {
        let live = self.watch().until_live_once();
        async move {
            tokio::select! {
                biased;
                is_live = live => match is_live {
                    true => Ok(()),
                    false => Err(self.record.until_over().await),
                },
                gone = self.record.until_over() => Err(gone),
            }
        }
    }

    /// Waits like [`Self::live_from_now`], but for a stub that was live before only for the connect
    /// timeout: an outage does not end the stub. Does not wait for a stub that was told to
    /// disconnect.
    ///
    /// A stub that was never live ends at its own timeout.
    pub(crate) fn live_in_time(&self) -> impl Future<Output = Result<Liveness, StubGone>> {
        let (live, was_live) = (self.live_from_now(), self.record.status.was_live());
        let time = self.context.config.lifecycle.connect_timeout;
        async move {
            // On the library's threads: the caller's runtime may have another clock, or none.
            let timer = async move {
                sleep(time).await;
            };
            let timer = was_live.then(|| AbortOnDropHandle::new(self.context.threads.spawn(timer)));
            let too_late = async {
                match timer {
                    Some(timer) => drop(timer.await),
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                live = live => live.map(|()| Liveness::Live),
                () = self.record.until_told_to_disconnect() => Ok(Liveness::ToldToDisconnect),
                () = too_late => Ok(Liveness::Late),
            }
        }
    }

    /// Returns the error of a stub that is not live.
    pub(crate) fn not_live(&self, liveness: Liveness) -> DeployError {
        let after = self.context.config.lifecycle.connect_timeout;
        let kind = match liveness {
            Liveness::ToldToDisconnect => DeployErrorKind::Disconnected,
            Liveness::Live | Liveness::Late => DeployErrorKind::ConnectTimeout { after },
        };
        DeployError { key: self.key().clone(), phase: Phase::Connecting, kind }
    }

    pub(crate) fn is_deployed(&self) -> bool {
        self.record.is_deployed()
    }

    /// Connects a stub that has no connection, unless it was told to disconnect.
    pub(crate) async fn wake(&self) {
        // If the stub has gone, the callers that wait for it learn that.
        let _ = self.record.commands.send(Box::new(Command::Wake)).await;
    }

    /// Tells the stub to connect again, for example after [`Self::disconnect`], with a fresh
    /// credential.
    ///
    /// # Errors
    /// If the stub has ended.
    pub async fn connect(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Connect { credential: None, done }).await
    }

    /// Performs the explicit domain login: tells the stub to connect with this credential. A stub
    /// with another connection disconnects first, and messages wait meanwhile. [`Self::until_live`]
    /// waits for the outcome.
    ///
    /// The stub keeps the credential through reconnections and new instances, until the credential
    /// expires, the stub cannot connect with it, the next login, or the stub's end. After that, the
    /// stub uses the credential of the Identity Module's providers again. A stub that was never
    /// live with the credential cannot connect with it if it is not live within the [connect
    /// timeout](crate::LifecycleSettings::connect_timeout).
    ///
    /// # Errors
    /// If the stub has ended, or the credential has expired.
    pub async fn connect_with(&self, credential: Credential) -> Result<(), ConnectError> {
        if credential.is_expired() {
            return Err(ConnectError::Credential(CredentialError::Failed("the credential has expired".into())));
        }
        Ok(self.record.ask(|done| Command::Connect { credential: Some(credential), done }).await?)
    }

    /// Tells the stub to disconnect, and waits until it has, or its grace time is over. From then
    /// until [`Self::connect`], messages for its domain are answered with 503.
    ///
    /// # Errors
    /// If the stub has ended.
    pub async fn disconnect(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Disconnect { done }).await
    }

    /// Undeploys the stub. It disconnects within its grace time. Its sandbox, routes and
    /// registrations are removed, and its waiting messages are answered with 503. The next message
    /// for its domain deploys it again.
    ///
    /// # Errors
    /// If the stub has already ended.
    pub async fn undeploy(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Undeploy { done }).await
    }

    /// Checks if the domain now publishes another version, or another component under the same
    /// version. The domain itself has to answer. Only the descriptor is downloaded.
    ///
    /// # Errors
    /// If the stub has ended, or the domain publishes no stub that can be deployed.
    pub async fn check_for_update(&self) -> Result<Option<AvailableUpdate>, UpdateError> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        self.on_threads(async move { deploy::update::check(&context, &record).await }).await
    }

    /// Updates the stub to the version or component that its domain publishes now, if it differs.
    ///
    /// The new version is downloaded, verified and compiled while the old one runs. Then the old
    /// instance disconnects and ends. An instance of the new version takes over its address, its
    /// subscribers, its session and its queue. Messages wait meanwhile. A request that the old
    /// instance has taken and not answered is answered with 502. Once the new instance is live, the
    /// update is committed. If it does not start, fails, or is not live within the connect timeout,
    /// the old version takes over again.
    ///
    /// If the new version's descriptor says that it may
    /// [overlap](protostub_types::Descriptor::overlap), the new instance starts next to the old
    /// one, with a session of its own. It stays invisible until it is live. Only then the old
    /// instance disconnects, and the new one takes over. If the new instance is not live in time,
    /// the old one stays.
    ///
    /// The update continues if the future is dropped.
    ///
    /// # Errors
    /// If the update cannot be fetched, is older, or did not become live. The stub continues,
    /// unless it has [ended](UpdateErrorKind::Gone).
    pub async fn update(&self) -> Result<Updated, UpdateError> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        self.on_threads(async move { deploy::update::update(&context, &record).await }).await
    }

    /// Runs a task with network connections on the library's own threads.
    async fn on_threads<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, UpdateError>> + Send + 'static,
    ) -> Result<T, UpdateError> {
        let stop = self.context.stop.clone();
        let ended = self.context.spawn(async move { stop.run_until_cancelled(task).await }).await;
        let kind = match ended {
            Ok(Some(outcome)) => return outcome,
            Err(error) if error.is_panic() => {
                let reason = failure_text(format_args!("the task ended unexpectedly: {error}"));
                UpdateErrorKind::Obtain(Box::new(DeployErrorKind::Failed { reason }))
            }
            Ok(None) | Err(_) => UpdateErrorKind::Gone(self.record.gone().unwrap_or_else(|| StubGone::shut_down(self.key()))),
        };
        Err(UpdateError { key: self.key().clone(), kind })
    }
}

impl fmt::Debug for Protostub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protostub").field("key", self.key()).field("url", &self.url()).field("status", &self.status()).finish()
    }
}
