use std::{path::PathBuf, sync::Arc, time::SystemTime};

use protostub_runtime::Runtime;
use tokio::sync::broadcast;

use super::protocol::DeploymentProgress;
use crate::printer::Counts;

/// State that the clients of a runtime share.
pub(crate) struct ServerContext {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) since: SystemTime,
    /// The file of the runtime's policies.
    pub(crate) policy: Option<PathBuf>,
    pub(crate) progress: broadcast::Sender<DeploymentProgress>,
    /// Counts of the lines dropped from the output and from the log.
    pub(crate) dropped: (Arc<Counts>, Arc<Counts>),
}
