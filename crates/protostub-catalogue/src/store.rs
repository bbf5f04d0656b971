use std::path::Path;

use bytes::Bytes;
use protostub_types::Sha256Digest;

use crate::{StoreError, folder::Folder};

/// How many components are kept at most: with their bytes limited, this bounds how long looking through the folder takes.
const MAX_FILES: usize = 4096;

/// Verified components in the folder `components`, each in a file that is named by its digest. What is read is verified again, so nobody needs
/// to trust the folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: Folder,
}

impl Store {
    pub(crate) fn open(cache_dir: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        Ok(Self { folder: Folder::open(cache_dir.join("components"), MAX_FILES, max_bytes)? })
    }

    /// The component with this digest, if it is there and intact. One that is not is removed.
    pub(crate) async fn load(&self, digest: Sha256Digest, max_bytes: usize) -> Option<Bytes> {
        let folder = self.folder.clone();
        let read = move || {
            let name = digest.to_string();
            match folder.read(&name, max_bytes) {
                Ok(Some(bytes)) if Sha256Digest::of(&bytes) == digest => Some(Bytes::from(bytes)),
                Ok(Some(_)) => {
                    tracing::warn!(%digest, folder = %folder.path().display(), "a stored component was damaged and is removed");
                    folder.remove(&name);
                    None
                }
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%error, %digest, folder = %folder.path().display(), "a stored component could not be read");
                    None
                }
            }
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Keeps a component. That it could not be kept is no reason not to use it: it is traced.
    pub(crate) async fn save(&self, digest: Sha256Digest, bytes: Bytes) {
        let folder = self.folder.clone();
        let write = move || match folder.write(&digest.to_string(), &bytes) {
            Ok(()) => tracing::debug!(%digest, "stored a component"),
            Err(error) => {
                tracing::warn!(%error, %digest, folder = %folder.path().display(), "a component could not be stored");
            }
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }
}
