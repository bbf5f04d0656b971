//! Updates: what a domain publishes now takes the place of what runs, or what runs stays.

use std::{cmp::Ordering, sync::Arc};

use protostub_catalogue::Discovered;
use protostub_types::{Sha256Digest, StubKey, Version};
use tokio::sync::oneshot;

use crate::{
    context::RuntimeContext,
    deploy::{self, Artifact},
    error::{DeployError, DeployErrorKind, StubGone},
    registry::{Release, StubRecord},
    supervise::Command,
};

/// What a domain publishes that is not what runs: [`Protostub::check_for_update`](crate::Protostub::check_for_update).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AvailableUpdate {
    /// The version that is published.
    pub version: Version,
    /// The digest of its component, if the descriptor states it.
    pub digest: Option<Sha256Digest>,
    /// The version that runs.
    pub running: Version,
}

impl AvailableUpdate {
    /// Whether what is published is older than what runs. Such an update is refused, unless
    /// [`DomainSettings::allow_older`](crate::DomainSettings::allow_older) is set for the domain.
    #[must_use]
    pub fn is_older(&self) -> bool {
        self.version < self.running
    }
}

/// What came of an update: [`Protostub::update`](crate::Protostub::update).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Updated {
    /// What runs is what is published.
    UpToDate {
        /// Which version that is.
        version: Version,
    },
    /// What is published runs now.
    Updated {
        /// The version that ran before.
        from: Version,
        /// The version that runs now.
        to: Version,
    },
}

/// Why a stub was not updated: which one, and what went wrong. Unless it is [`UpdateErrorKind::Gone`], the stub goes on as it was.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to update the protocol stub of {key}")]
#[non_exhaustive]
pub struct UpdateError {
    /// Which stub.
    pub key: StubKey,
    /// What went wrong.
    #[source]
    pub kind: UpdateErrorKind,
}

impl UpdateError {
    /// What went wrong, to branch on.
    #[must_use]
    pub fn kind(&self) -> &UpdateErrorKind {
        &self.kind
    }
}

/// What went wrong in an update.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateErrorKind {
    /// What is published could not be had, or not be trusted, or is no protocol stub.
    #[error(transparent)]
    Obtain(Box<DeployErrorKind>),
    /// What is published is older than what runs.
    #[error("{running} runs, and the older {published} is published: set `allow_older` for the domain to go back")]
    Older {
        /// The version that is published.
        published: Version,
        /// The version that runs.
        running: Version,
    },
    /// The new version did not start, or was not live in time. The one before it runs again.
    #[error("version {version} did not become live, and the one before it takes over again")]
    RolledBack {
        /// The version that did not work.
        version: Version,
        /// What it did.
        #[source]
        error: Box<DeployErrorKind>,
    },
    /// Another update of the stub is under way.
    #[error("another update is under way: wait for it")]
    UnderWay,
    /// The stub's deployment has not found its descriptor yet.
    #[error("the stub is still being deployed: wait until it is live")]
    NotDeployed,
    /// The stub has ended.
    #[error(transparent)]
    Gone(#[from] StubGone),
}

/// An update whose new version has not been live yet.
pub(crate) struct Trial {
    pub(crate) to: Version,
    /// What ran before, and will again if this fails.
    pub(crate) old: Arc<Artifact>,
    /// Its version had been accepted.
    pub(crate) was_admitted: bool,
    /// What that had saved.
    pub(crate) session: Option<Arc<[u8]>>,
    pub(crate) done: oneshot::Sender<Result<(), UpdateErrorKind>>,
}

impl Trial {
    /// The new version is live.
    pub(crate) fn commit(self) {
        let _ = self.done.send(Ok(()));
    }

    /// The new version is of no use: what ran before it comes back, as it was.
    pub(crate) fn roll_back(self, record: &StubRecord, fault: DeployError) -> Arc<Artifact> {
        record.session.restore(self.session);
        let _ = self.done.send(Err(UpdateErrorKind::RolledBack { version: self.to, error: Box::new(fault.kind) }));
        self.old
    }
}

/// Whether what is published is something else than what runs.
pub(crate) async fn check(context: &RuntimeContext, record: &StubRecord) -> Result<Option<AvailableUpdate>, UpdateError> {
    let (available, _) = ask(context, record).await.map_err(|kind| UpdateError { key: record.key.clone(), kind })?;
    Ok(available)
}

/// Gets what is published, and has the stub's supervisor put it in the place of what runs.
pub(crate) async fn update(context: &RuntimeContext, record: &StubRecord) -> Result<Updated, UpdateError> {
    obtain_and_replace(context, record).await.map_err(|kind| UpdateError { key: record.key.clone(), kind })
}

async fn obtain_and_replace(context: &RuntimeContext, record: &StubRecord) -> Result<Updated, UpdateErrorKind> {
    let (available, discovered) = ask(context, record).await?;
    let running = running(record)?;
    let up_to_date = || Ok(Updated::UpToDate { version: running.version.clone() });
    let Some(available) = available else { return up_to_date() };
    if available.is_older() && !context.config.settings(record.key.domain()).allow_older {
        return Err(UpdateErrorKind::Older { published: available.version, running: running.version });
    }
    if running.signed && !context.config.settings(record.key.domain()).allow_older {
        deploy::refuse_unsigned(&discovered, &running.version).map_err(|error| UpdateErrorKind::Obtain(Box::new(error)))?;
    }
    let refused = |kind| UpdateErrorKind::Obtain(Box::new(kind));
    let before = context.catalogue.committed(&record.key).await.map_err(deploy::trust_state).map_err(refused)?;
    deploy::refuse_downgrade(context, &discovered, before.as_ref()).map_err(refused)?;
    // What runs goes on meanwhile.
    let obtained = deploy::obtain(context, record, discovered).await;
    let artifact = Artifact { before, ..obtained.map_err(|error: DeployError| refused(error.kind))? };
    // A signature alone is no reason for another instance.
    if (Release { signed: running.signed, ..artifact.published() }) == running {
        return up_to_date();
    }
    if artifact.to_commit().is_some() {
        context.catalogue.check_commit(&record.key).await.map_err(deploy::trust_state).map_err(refused)?;
    }
    let artifact = Box::new(artifact);
    record.ask(|done| Command::Update { artifact, done }).await??;
    Ok(Updated::Updated { from: running.version, to: available.version })
}

/// The release that runs.
fn running(record: &StubRecord) -> Result<Release, UpdateErrorKind> {
    let absent = || record.gone().map_or(UpdateErrorKind::NotDeployed, UpdateErrorKind::Gone);
    record.published().ok_or_else(absent)
}

/// Asks the domain, which has to answer itself.
async fn ask(context: &RuntimeContext, record: &StubRecord) -> Result<(Option<AvailableUpdate>, Discovered), UpdateErrorKind> {
    let running = running(record)?;
    let discovered = context.catalogue.revalidate(&record.key).await;
    let discovered =
        discovered.map_err(|error| UpdateErrorKind::Obtain(Box::new(DeployErrorKind::Catalogue(Arc::new(error)))))?;
    let (version, digest) = (discovered.descriptor.version.clone(), discovered.descriptor.digest());
    // Without a digest, only the component itself could tell.
    let is_other = version.cmp(&running.version) != Ordering::Equal || (digest.is_some() && digest != running.digest);
    let available = AvailableUpdate { version, digest, running: running.version };
    Ok((is_other.then_some(available), discovered))
}
