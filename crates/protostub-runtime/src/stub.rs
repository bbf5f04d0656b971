use std::{collections::BTreeMap, fmt, future::Future, sync::Arc};

use protostub_sandbox::CrashReport;
use protostub_types::{Address, Domain, Sha256Digest, StatusReport, StubKey, Version};
use url::Url;

use crate::{
    command::Command,
    context::RuntimeContext,
    deploy,
    error::{ConnectError, StubGone},
    identity::{Credential, CredentialError},
    record::StubRecord,
    registration::{Registration, RegistrationHandle},
    status::StatusWatch,
    update::{AvailableUpdate, UpdateError, UpdateErrorKind, Updated},
};

/// A deployed protocol stub. A cloneable handle: the stub lives on without it, until it is undeployed or the runtime shuts down.
#[derive(Clone)]
pub struct Protostub {
    context: Arc<RuntimeContext>,
    record: Arc<StubRecord>,
}

impl Protostub {
    pub(crate) fn new(context: &Arc<RuntimeContext>, record: Arc<StubRecord>) -> Self {
        Self { context: Arc::clone(context), record }
    }

    /// Which stub it is.
    #[must_use]
    pub fn key(&self) -> &StubKey {
        &self.record.key
    }

    /// The domain that it speaks to.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        self.record.key.domain()
    }

    /// Its own address (step 9): `hyperty-runtime://<domain>/protostub/<id>`. None before step 9.
    #[must_use]
    pub fn url(&self) -> Option<&Address> {
        self.record.url.get()
    }

    /// Its sandbox's address (step 15). None before step 15.
    #[must_use]
    pub fn sandbox_url(&self) -> Option<&Address> {
        self.record.sandbox_url.get()
    }

    /// Where its descriptor was found (step 5). None before step 5.
    #[must_use]
    pub fn descriptor_url(&self) -> Option<Url> {
        self.record.published().map(|published| published.descriptor_url)
    }

    /// The descriptor's version. None before step 5.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.record.published().map(|published| published.version)
    }

    /// The digest of its component. None before step 5, or before step 7 if the descriptor does not state it.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.record.published()?.digest
    }

    /// How many instances it had after its first one: restarts, updates, and updates that were taken back. Its address and what waits for it
    /// are the same through all of them.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.record.restarts()
    }

    /// What is known of its last crash, or of the last limit that it ran into: [`CrashReport`] says what that looks like as JSON.
    #[must_use]
    pub fn last_crash(&self) -> Option<Arc<CrashReport>> {
        self.record.last_crash()
    }

    /// How often it ran into each limit, in all of its instances: by the name of the setting in [`Limits`](crate::Limits), or `stack`. Each is an event of
    /// the target `protostub::limits` too, the first time, the tenth, the hundredth and so on.
    #[must_use]
    pub fn limits_hit(&self) -> BTreeMap<&'static str, u64> {
        self.record.limit_counters.counts()
    }

    /// What has become of its registration at its domain's Registry. None unless [`DomainSettings::register`](crate::DomainSettings::register) is
    /// set for the domain.
    #[must_use]
    pub fn registration(&self) -> Option<Registration> {
        self.record.registration.get().map(RegistrationHandle::status)
    }

    /// What it is going through now.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        self.record.status.current()
    }

    /// Its status, now and whenever it changes.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.record.status.watch()
    }

    /// Waits until it is live, or has been since this was called, however shortly.
    ///
    /// # Errors
    /// If the stub ends instead.
    pub async fn until_live(&self) -> Result<(), StubGone> {
        self.live_from_now().await
    }

    /// The same, from the moment of the call, not of the first poll: what happens in between, it may be asked to be live, counts.
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

    pub(crate) fn is_deployed(&self) -> bool {
        self.record.is_deployed()
    }

    /// One that has no connection, and was not told to have none, is to connect.
    pub(crate) async fn wake(&self) {
        // If it has gone, whoever waits for it learns that.
        let _ = self.record.commands.send(Box::new(Command::Wake)).await;
    }

    /// Tells it to connect again, after [`Self::disconnect`] say, with a fresh credential.
    ///
    /// # Errors
    /// If the stub has ended.
    pub async fn connect(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Connect { credential: None, done }).await
    }

    /// The explicit domain login: tells it to connect with this credential. A stub that is connected otherwise is told to disconnect first;
    /// messages wait meanwhile. Wait with [`Self::until_live`] for what comes of it.
    ///
    /// The credential is the stub's from then on, through reconnections and new instances, until it has run out, the stub cannot connect with
    /// it, the next login, or its end. Then, what the Identity Module's providers have is its credential again.
    ///
    /// # Errors
    /// If the stub has ended, or the credential has run out.
    pub async fn connect_with(&self, credential: Credential) -> Result<(), ConnectError> {
        if credential.is_expired() {
            return Err(ConnectError::Credential(CredentialError::Failed("it has run out".into())));
        }
        Ok(self.record.ask(|done| Command::Connect { credential: Some(credential), done }).await?)
    }

    /// Tells it to disconnect, and waits until it has, or its grace time is over. Messages for its domain are answered with 503 from then on,
    /// until [`Self::connect`].
    ///
    /// # Errors
    /// If the stub has ended.
    pub async fn disconnect(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Disconnect { done }).await
    }

    /// Undeploys it: it disconnects, within its grace time; its sandbox, routes and registrations go; what waits for it is answered with 503.
    /// The next message for its domain deploys it anew.
    ///
    /// # Errors
    /// If the stub has ended already.
    pub async fn undeploy(&self) -> Result<(), StubGone> {
        self.record.ask(|done| Command::Undeploy { done }).await
    }

    /// Whether its domain publishes something else by now: another version, or another component under the same one. The domain has to answer;
    /// nothing is downloaded but the descriptor.
    ///
    /// # Errors
    /// If the stub is no longer there, or the domain publishes none that can be deployed.
    pub async fn check_for_update(&self) -> Result<Option<AvailableUpdate>, UpdateError> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        self.on_threads(async move { deploy::update::check(&context, &record).await }).await
    }

    /// Replaces it by what its domain publishes now, if that is something else.
    ///
    /// The new version is downloaded, verified and compiled while the old one runs. Then the old instance is told to disconnect and ends, and an
    /// instance of the new version takes over its address, its subscribers, its session and its queue. Messages wait meanwhile; a request that
    /// the old instance has taken and not answered by then is answered with 502. Once the new instance is live, the update is committed; if it
    /// does not start, breaks, or is not live within the connect time-out, the old version takes over again.
    ///
    /// If the new version's descriptor says that it may [overlap](protostub_types::Descriptor::overlap), it starts beside the old one, with a
    /// session of its own, and nothing is seen of it until it is live: only then the old one is told to disconnect, and it takes over. If it is
    /// not live in time, nothing has happened.
    ///
    /// It goes on if the future is dropped.
    ///
    /// # Errors
    /// If there is no update to be had, it is older, or it did not become live. Only if the stub is [no longer there](UpdateErrorKind::Gone), it does
    /// not run on.
    pub async fn update(&self) -> Result<Updated, UpdateError> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        self.on_threads(async move { deploy::update::update(&context, &record).await }).await
    }

    /// Runs what connects to somewhere on the library's own threads.
    async fn on_threads<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, UpdateError>> + Send + 'static,
    ) -> Result<T, UpdateError> {
        let gone = || {
            let gone = self.record.gone().unwrap_or_else(|| StubGone::shut_down(self.key()));
            UpdateError { key: self.key().clone(), kind: UpdateErrorKind::Gone(gone) }
        };
        let stop = self.context.stop.clone();
        let ended = self.context.spawn(async move { stop.run_until_cancelled(task).await }).await;
        ended.ok().flatten().unwrap_or_else(|| Err(gone()))
    }
}

impl fmt::Debug for Protostub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protostub").field("key", self.key()).field("url", &self.url()).field("status", &self.status()).finish()
    }
}
