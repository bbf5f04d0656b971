use std::sync::Arc;

use protostub_types::Version;
use tokio::sync::oneshot;

use crate::{artifact::Artifact, error::DeployError, record::StubRecord, status::Admission, update::UpdateErrorKind};

/// An update whose new version has not been live yet.
pub(super) struct Trial {
    pub(super) to: Version,
    /// The previous version, which runs again if the new one fails.
    pub(super) old: Arc<Artifact>,
    /// The admission of the previous version.
    pub(super) admission: Admission,
    /// The session that the previous version had saved.
    pub(super) session: Option<Arc<[u8]>>,
    pub(super) done: oneshot::Sender<Result<(), UpdateErrorKind>>,
}

impl Trial {
    /// Commits the update: the new version is live.
    pub(super) fn commit(self) {
        let _ = self.done.send(Ok(()));
    }

    /// Rolls the update back: restores the session, and returns the previous version.
    pub(super) fn roll_back(self, record: &StubRecord, fault: DeployError) -> Arc<Artifact> {
        record.session.restore(self.session);
        let _ = self.done.send(Err(UpdateErrorKind::RolledBack { version: self.to, error: Box::new(fault.kind) }));
        self.old
    }
}
