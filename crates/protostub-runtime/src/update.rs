//! Updates of a stub to the version that its domain publishes.

use protostub_types::{Sha256Digest, StubKey, Version};

use crate::error::{DeployErrorKind, StubGone};

/// A published version that differs from the running one:
/// [`Protostub::check_for_update`](crate::Protostub::check_for_update).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AvailableUpdate {
    /// The published version.
    pub version: Version,
    /// The digest of its component, if the descriptor states it.
    pub digest: Option<Sha256Digest>,
    /// The running version.
    pub running: Version,
}

impl AvailableUpdate {
    /// Returns `true` if the published version is older than the running one. Such an update is
    /// refused, unless [`DomainSettings::allow_older`](crate::DomainSettings::allow_older) is set
    /// for the domain.
    #[must_use]
    pub fn is_older(&self) -> bool {
        self.version < self.running
    }
}

/// The outcome of an update: [`Protostub::update`](crate::Protostub::update).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Updated {
    /// The running version is the published one.
    UpToDate {
        /// The version.
        version: Version,
    },
    /// The published version runs now.
    Updated {
        /// The version that ran before.
        from: Version,
        /// The version that runs now.
        to: Version,
    },
}

/// The error of an update: the stub and the cause. The stub continues as before, unless the cause
/// is [`UpdateErrorKind::Gone`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to update the protocol stub of {key}")]
#[non_exhaustive]
pub struct UpdateError {
    /// The stub.
    pub key: StubKey,
    /// The cause.
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

/// The cause of a failed update.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateErrorKind {
    /// The published version could not be fetched, is not trusted, or is not a protocol stub.
    #[error(transparent)]
    Obtain(Box<DeployErrorKind>),
    /// The published version is older than the running one.
    #[error(
        "version {running} runs, and the domain publishes the older {published}; set `allow-older` for the domain to go back"
    )]
    Older {
        /// The published version.
        published: Version,
        /// The running version.
        running: Version,
    },
    /// The new version did not start, or was not live in time. The previous version runs again.
    #[error("version {version} did not become live, and the stub keeps its previous version")]
    RolledBack {
        /// The new version.
        version: Version,
        /// The cause.
        #[source]
        error: Box<DeployErrorKind>,
    },
    /// Another update of the stub is under way.
    #[error("another update of the stub is under way; wait until it ends")]
    UnderWay,
    /// The stub's deployment has not found its descriptor yet.
    #[error("the stub is still being deployed; wait until it is live")]
    NotDeployed,
    /// The stub has ended.
    #[error(transparent)]
    Gone(#[from] StubGone),
}
