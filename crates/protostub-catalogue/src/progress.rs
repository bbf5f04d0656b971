use std::fmt;

use protostub_types::StubKey;

/// Is told how the download of a component goes on: what a progress bar needs.
///
/// Nothing is told of components that need no download, since they are in the store, in the descriptor or in memory, except by sources that
/// stream; and of descriptors, which are small. It is called in the task that downloads: it must not block, and should not take long.
pub trait DownloadProgress: fmt::Debug + Send + Sync {
    /// The download of the component of `key` is so far. [`Download::Receiving`] comes once at its beginning and with every piece;
    /// [`Download::Received`] or [`Download::Failed`] ends it, unless the deployment is given up before.
    fn download(&self, key: &StubKey, download: Download);
}

/// How far the download of a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Download {
    /// It is going on.
    Receiving {
        /// How much has come, in bytes: less than before if the download had to begin anew.
        bytes: u64,
        /// How much it will be, if the server said so, in bytes.
        total: Option<u64>,
    },
    /// It is whole. Whether it is what the descriptor promises is verified next.
    Received {
        /// How much it is, in bytes.
        bytes: u64,
    },
    /// It is given up; the error of the fetch says why.
    Failed,
}
