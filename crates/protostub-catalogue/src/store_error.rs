use std::{io, path::PathBuf};

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {} as a cache; check that it is a folder that can be written to", path.display())]
pub struct StoreError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl StoreError {
    /// The class of the error that the file system returned.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        self.source.kind()
    }
}
