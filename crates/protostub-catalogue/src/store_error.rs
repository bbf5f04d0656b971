use std::{io, path::PathBuf};

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {} as a cache; check that it is a folder that can be written to", path.display())]
pub struct StoreError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}
