use std::fmt;

use protostub_types::StubKey;

/// Receives the progress of component downloads, for example for a progress bar.
///
/// Components that are in the store or in the descriptor need no download, and cause no calls.
/// Components in memory cause none either, except from sources that stream. Descriptors are small,
/// and cause no calls. The downloading task makes the calls, so they must not block, and should be
/// quick.
pub trait DownloadProgress: fmt::Debug + Send + Sync {
    /// Receives the state of the download of `key`'s component. [`Download::Receiving`] comes once
    /// at the start and with every chunk. [`Download::Received`] or [`Download::Failed`] ends the
    /// download, unless the deployment is given up before.
    fn download(&self, key: &StubKey, download: Download);
}

/// State of a component's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Download {
    /// The download is going on.
    Receiving {
        /// Number of bytes received. It decreases if the download had to restart.
        bytes: u64,
        /// Total number of bytes, if the server stated it.
        total: Option<u64>,
    },
    /// The download is complete. The component is verified next.
    Received {
        /// Number of bytes received.
        bytes: u64,
    },
    /// The download was given up. The error of the fetch has the reason.
    Failed,
}
