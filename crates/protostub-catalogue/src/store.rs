use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use protostub_types::Sha256Digest;

use crate::StoreError;

/// What the names of files begin with that are still being written.
const PARTIAL: &str = ".partial-";
/// How old such a file has to be to count as left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Verified components in a folder, each in a file that is named by its digest. Any number of processes may share the folder: files appear
/// whole or not at all, and are never changed. What is read is verified again, so nobody needs to trust the folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Makes the folder `components` below `cache_dir`, and removes what processes that died have left there.
    pub(crate) fn open(cache_dir: &Path) -> Result<Self, StoreError> {
        let folder = cache_dir.join("components");
        create_private(&folder).map_err(|source| StoreError { path: folder.clone(), source })?;
        let store = Self { folder };
        if let Err(error) = store.remove_abandoned(SystemTime::now()) {
            tracing::debug!(%error, folder = %store.folder.display(), "could not look for abandoned files");
        }
        Ok(store)
    }

    /// The component with this digest, if it is there and intact. One that is not is removed.
    pub(crate) async fn load(&self, digest: Sha256Digest, max_bytes: usize) -> Option<Bytes> {
        let path = self.path(digest);
        let read = move || match fs::File::open(&path).and_then(|file| read_at_most(file, max_bytes)) {
            Ok(bytes) if Sha256Digest::of(&bytes) == digest => Some(Bytes::from(bytes)),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "a stored component was damaged and is removed");
                let _ = fs::remove_file(&path);
                None
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "a stored component could not be read");
                }
                None
            }
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Keeps a component. That it could not be kept is no reason not to use it: it is traced.
    pub(crate) async fn save(&self, digest: Sha256Digest, bytes: Bytes) {
        let (folder, path) = (self.folder.clone(), self.path(digest));
        let write = move || {
            let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&folder)?;
            file.write_all(&bytes)?;
            // Otherwise a crash of the machine may leave the name and not the content.
            file.as_file().sync_data()?;
            file.persist(&path)?;
            Ok::<_, io::Error>(())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => tracing::debug!(%digest, "stored a component"),
            Ok(Err(error)) => tracing::warn!(%error, %digest, folder = %self.folder.display(), "a component could not be stored"),
            Err(error) => tracing::warn!(%error, %digest, "a component could not be stored"),
        }
    }

    fn path(&self, digest: Sha256Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn remove_abandoned(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
            let age =
                entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| now.duration_since(time).ok());
            if is_partial && age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Reads a file whole, unless it is longer.
pub(crate) fn read_at_most(file: fs::File, max_bytes: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit.saturating_add(1)), &mut bytes)?;
    if bytes.len() > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// Makes a folder that only the user who runs this can write to; one that exists stays as it is.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_died_halfway_is_removed_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let partial = store.folder.join(format!("{PARTIAL}1"));
        let whole = store.folder.join("whole");
        fs::write(&partial, b"x").unwrap();
        fs::write(&whole, b"x").unwrap();
        store.remove_abandoned(SystemTime::now() + ABANDONED / 2).unwrap();
        assert!(partial.exists());
        store.remove_abandoned(SystemTime::now() + ABANDONED * 2).unwrap();
        assert!(!partial.exists() && whole.exists());
    }
}
