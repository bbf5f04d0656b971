use std::{io, path::PathBuf};

/// The cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {} as a cache; check that the path is a writable folder", path.display())]
pub struct StoreError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl StoreError {
    /// Returns the class of the file system's error.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        self.source.kind()
    }
}
