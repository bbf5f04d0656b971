use std::{fmt, sync::Arc};

use protostub_catalogue::{Download, DownloadProgress};
use protostub_types::{StubKey, call_hook};

/// Progress of the slow parts of a deployment: see
/// [`RuntimeBuilder::progress`](crate::RuntimeBuilder::progress).
///
/// A deployment that is abandoned, for example at shutdown, does not report the end of a part that
/// has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The component is being downloaded. A component in the store is not downloaded.
    Download(Download),
    /// The component is being compiled. A component that was compiled before is only loaded, and
    /// the end is reported at once.
    Compiling,
    /// The compilation has succeeded or failed.
    CompilingEnded,
}

type Callback<T> = dyn Fn(&StubKey, &T) + Send + Sync;

/// An optional callback for events of stubs, with its name.
pub(crate) struct Observer<T>(Option<(&'static str, Arc<Callback<T>>)>);

impl<T> Observer<T> {
    pub(crate) fn new(name: &'static str, hook: impl Fn(&StubKey, &T) + Send + Sync + 'static) -> Self {
        Self(Some((name, Arc::new(hook))))
    }

    /// Calls the callback. A panic is logged, and has no effect on the stub.
    pub(crate) fn notify(&self, key: &StubKey, what: &T) {
        if let Some((name, hook)) = &self.0
            && let Err(panicked) = call_hook(name, || hook(key, what))
        {
            tracing::error!(target: "protostub", domain = %key, error = %panicked, "a callback of the host program failed");
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
