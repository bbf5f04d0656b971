use std::{
    io,
    path::{Path, PathBuf},
};

/// The cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {} for the cache; check that the path belongs to this user and is writable", path.display())]
pub struct StoreError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl StoreError {
    /// Returns the folder or the key that cannot be used.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the class of the file system's error.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        self.source.kind()
    }
}
