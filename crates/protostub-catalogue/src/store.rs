use std::path::Path;

use bytes::Bytes;
use protostub_files::OtherWriters;
use protostub_types::{Domain, Sha256Digest};

use crate::{
    StoreError,
    folder::{Name, Pool},
};

/// Maximum number of stored components. Their bytes are limited too; this one limits the time that
/// listing the folder takes.
const MAX_FILES: usize = 4096;

/// Verified components in the folder `components`. Each is in a file that is named by its digest,
/// and counts for the domain that it was fetched for. Reading verifies the component again, so the
/// folder need not be trusted.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: Pool,
}

impl Store {
    pub(crate) fn open(cache_dir: &Path, max_bytes: u64, writers: OtherWriters) -> Result<Self, StoreError> {
        // The names of the files authenticate them.
        Ok(Self { pool: Pool::open(cache_dir.join("components"), MAX_FILES, max_bytes, None, writers)? })
    }

    /// Returns the component with this digest, if it is stored and intact. Otherwise the caller
    /// fetches it.
    pub(crate) async fn load(&self, digest: Sha256Digest, domain: &Domain, max_bytes: usize) -> Option<Bytes> {
        let (pool, name) = (self.pool.clone(), Name::new(digest, &domain.registrable()));
        let read = move || match pool.read_any(&name, max_bytes) {
            Ok(Some((_, bytes))) if Sha256Digest::of(&bytes) == digest => Some(Bytes::from(bytes)),
            Ok(Some((damaged, _))) => {
                tracing::warn!(%digest, folder = %pool.folder().path().display(), "a stored component is damaged; fetching it again");
                let _ = pool.folder().remove(&damaged);
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, %digest, folder = %pool.folder().path().display(), "failed to read a stored component; fetching it again");
                None
            }
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Stores a component. A failure is only logged, since the component can be used without the
    /// store.
    pub(crate) async fn save(&self, digest: Sha256Digest, domain: &Domain, bytes: Bytes) {
        let (pool, name) = (self.pool.clone(), Name::new(digest, &domain.registrable()));
        let write = move || match pool.write(&name, &bytes) {
            Ok(()) => tracing::debug!(%digest, "stored a component"),
            Err(error) => {
                tracing::warn!(%error, %digest, folder = %pool.folder().path().display(), "failed to store a component");
            }
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }
}
