use std::{fmt, sync::Arc};

use protostub_types::{Address, Domain, StatusReport, StubKey, StubStatus};
use tokio::sync::oneshot;
use url::Url;

use crate::{
    error::DeployError,
    presence::StatusWatch,
    registry::{Record, stopped},
    supervise::Command,
};

/// A deployed protocol stub. A cloneable handle: the stub lives on without it, until it is undeployed or the runtime shuts down.
#[derive(Clone)]
pub struct Protostub {
    pub(crate) record: Arc<Record>,
}

impl Protostub {
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
    pub fn descriptor_url(&self) -> Option<&Url> {
        self.record.descriptor_url.get()
    }

    /// The descriptor's version. None before step 5.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.record.version.get().map(String::as_str)
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

    /// Waits until it is live.
    ///
    /// # Errors
    /// If it comes to its end instead.
    pub async fn until_live(&self) -> Result<(), DeployError> {
        let mut status = self.watch();
        let over = |report: &StatusReport| matches!(report.status, StubStatus::Live) || !report.status.is_available();
        if status.until(over).await.status == StubStatus::Live {
            return Ok(());
        }
        Err(self.record.until_over().await)
    }

    /// Tells it to connect again, after [`Self::disconnect`] say, with a fresh credential.
    ///
    /// # Errors
    /// If it is no longer there.
    pub async fn connect(&self) -> Result<(), DeployError> {
        self.command(|done| Command::Connect { done }).await
    }

    /// Tells it to disconnect, and waits until it has, or its grace time is over. Messages for its domain are answered with 503 from then on,
    /// until [`Self::connect`].
    ///
    /// # Errors
    /// If it is no longer there.
    pub async fn disconnect(&self) -> Result<(), DeployError> {
        self.command(|done| Command::Disconnect { done }).await
    }

    /// Undeploys it: it disconnects, within its grace time; its sandbox, routes and registrations go; what waits for it is answered with 503.
    /// The next message for its domain deploys it anew.
    ///
    /// # Errors
    /// If it is no longer there.
    pub async fn undeploy(&self) -> Result<(), DeployError> {
        self.command(|done| Command::Undeploy { done }).await
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), DeployError> {
        let gone = || stopped(self.key(), "it is no longer there");
        let (done, is_done) = oneshot::channel();
        self.record.commands.send(command(done)).await.map_err(|_| gone())?;
        is_done.await.map_err(|_| gone())
    }
}

impl fmt::Debug for Protostub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protostub").field("key", self.key()).field("url", &self.url()).field("status", &self.status()).finish()
    }
}
