//! Updates: what a domain publishes now takes the place of what runs, or what runs stays.

use protostub_types::{Sha256Digest, StubKey, Version};

use crate::error::{DeployErrorKind, StubGone};

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
    /// Returns the kind of the error, to branch on.
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
