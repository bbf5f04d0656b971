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

type Callback<T> = dyn Fn(&StubKey, &T) + Send + Sync;

/// Whoever wants to know something of stubs, if anybody.
pub(crate) struct Observer<T>(Option<Arc<Callback<T>>>);

impl<T> Observer<T> {
    pub(crate) fn new(hook: impl Fn(&StubKey, &T) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn notify(&self, key: &StubKey, what: &T) {
        if let Some(hook) = &self.0 {
            hook(key, what);
        }
    }
}

impl<T> Clone for Observer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Observer<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl DownloadProgress for Observer<Progress> {
    fn download(&self, key: &StubKey, download: Download) {
        self.notify(key, &Progress::Download(download));
    }
}

impl<T> fmt::Debug for Observer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observer(set)" } else { "Observer(none)" })
    }
}
