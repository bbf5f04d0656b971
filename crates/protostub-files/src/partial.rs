//! Files that are still being written. Their writer locks them, and the system releases the lock
//! when the writer ends or is killed. A file without a lock is left behind by a process that died.

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

/// Creates a file in a folder, for its owner only. Its content is written before the file gets its
/// name. No other process takes the file for [abandoned](remove_abandoned).
///
/// Blocks.
///
/// # Errors
/// If the file cannot be created.
pub fn create_partial(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
        match file.as_file().try_lock() {
            // A process that starts took the file for abandoned before it had its lock.
            Err(TryLockError::WouldBlock) => continue,
            // Without locks, a file counts as abandoned by its age.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if has_a_name(file.as_file())? {
            return Ok(file);
        }
    }
}

/// Returns `true` if an entry of a folder is such a file.
fn is_partial(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(PARTIAL)
}

/// Removes the partial files in a folder that no process writes any more.
///
/// Blocks.
///
/// # Errors
/// If the folder cannot be read. A file that cannot be removed is no error.
pub fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_partial(&entry) && entry.file_type()?.is_file() {
            // Another process may remove the file at the same time.
            let _ = remove_if_abandoned(&entry.path());
        }
    }
    Ok(())
}

/// Returns `false` if another process has removed the file.
fn has_a_name(file: &fs::File) -> io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| true);
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Other processes may share the folder: their partial files stay.
    #[test]
    fn abandoned_file_goes_and_file_in_progress_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".partial-1"), b"x").unwrap();
        fs::write(dir.path().join("whole"), b"x").unwrap();
        let in_progress = create_partial(dir.path()).unwrap();
        remove_abandoned(dir.path()).unwrap();
        in_progress.persist(dir.path().join("next")).unwrap();
        assert_eq!(names(dir.path()), ["next", "whole"]);
    }

    /// One thread writes files, while others sweep the folder again and again.
    #[test]
    fn partial_files_in_progress_survive_other_starts() {
        let dir = tempfile::tempdir().unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_done.load(Relaxed) {
                        remove_abandoned(dir.path()).unwrap();
                    }
                });
            }
            let write = |n: u32| -> io::Result<()> {
                let mut file = create_partial(dir.path())?;
                file.write_all(b"1")?;
                file.persist(dir.path().join(n.to_string()))?;
                Ok(())
            };
            let written: io::Result<()> = (0..2000).try_for_each(write);
            is_done.store(true, Relaxed);
            written.unwrap();
        });
        assert_eq!(names(dir.path()).len(), 2000);
    }
}
