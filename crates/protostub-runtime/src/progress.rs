use std::{fmt, sync::Arc};

use protostub_catalogue::{Download, DownloadProgress};
use protostub_types::StubKey;

/// What takes time in a deployment, as it goes on: see [`RuntimeBuilder::progress`](crate::RuntimeBuilder::progress).
///
/// A deployment that is given up halfway, at shutdown say, tells no end of what it had begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The component is being downloaded. One that is in the store is not.
    Download(Download),
    /// The component is being compiled. One that was compiled before is only loaded: the end comes at once.
    Compiling,
    /// The component is compiled, or cannot be.
    CompilingEnded,
}

type Hook = dyn Fn(&StubKey, Progress) + Send + Sync;

/// Whoever wants to know, if anybody.
#[derive(Clone, Default)]
pub(crate) struct ProgressHook(Option<Arc<Hook>>);

impl ProgressHook {
    pub(crate) fn new(hook: impl Fn(&StubKey, Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn tell(&self, key: &StubKey, progress: Progress) {
        if let Some(hook) = &self.0 {
            hook(key, progress);
        }
    }
}

impl DownloadProgress for ProgressHook {
    fn download(&self, key: &StubKey, download: Download) {
        self.tell(key, Progress::Download(download));
    }
}

impl fmt::Debug for ProgressHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ProgressHook(set)" } else { "ProgressHook(none)" })
    }
}
