//! Files that are still being written. Their writer locks them, and the system releases the lock
//! when the writer ends or is killed. A file without a lock is left behind by a process that
//! died.

use std::{
    fs::{self, TryLockError},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use tempfile::NamedTempFile;

/// Beginning of the names of such files.
const PARTIAL: &str = ".partial-";
/// Age at which such a file counts as left behind on systems without locks.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Creates a file, which no other process takes for abandoned.
pub(super) fn create(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
        match file.as_file().try_lock() {
            // A process that starts took the file for abandoned before it had its lock.
            Err(TryLockError::WouldBlock) => continue,
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if has_a_name(file.as_file())? {
            return Ok(file);
        }
    }
}

/// Returns `false` if another process has removed the file.
fn has_a_name(file: &fs::File) -> io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| true);
}

pub(super) fn is_partial(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(PARTIAL)
}

/// Removes the files that no process writes any more.
pub(super) fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_partial(&entry) && entry.file_type()?.is_file() {
            // Another process may remove the file at the same time.
            let _ = remove_if_abandoned(&entry.path());
        }
    }
    Ok(())
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    let is_abandoned = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => {
            let age = SystemTime::now().duration_since(file.metadata()?.modified()?);
            age.is_ok_and(|age| age > ABANDONED)
        }
    };
    // The lock is held, so that no process can begin to write the file.
    if is_abandoned { fs::remove_file(path) } else { Ok(()) }
}
