use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::StoreError;

/// What the names of files begin with that are still being written.
const PARTIAL: &str = ".partial-";
/// How old such a file has to be to count as left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long ago a file was used that need not be marked as used once more.
const USED_LATELY: Duration = Duration::from_secs(60 * 60);

/// Which part of a full folder is cleared at once; and which part of it is written before it is looked at again.
const SPARE: usize = 8;

/// A folder of files that appear whole or not at all, and are replaced but never changed: any number of processes may share it. It is bounded
/// in count and bytes; the file that was not used for the longest time goes first.
///
/// Everything here blocks.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    max_files: usize,
    max_bytes: u64,
    room: Arc<Mutex<Room>>,
}

/// What a file was when it was read: which one it is, and when it was touched last, which nobody can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The device, and the number on it.
    file: (u64, u64),
    /// Seconds and nanoseconds since the Unix epoch.
    changed: (i64, i64),
    bytes: u64,
}

impl Stamp {
    /// None where the system does not tell.
    #[cfg(unix)]
    fn of(metadata: &fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let (file, changed) = ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()));
        Some(Self { file, changed, bytes: metadata.len() })
    }

    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Option<Self> {
        None
    }
}

/// How much may be written before it is looked at how much there is: not after every file, since that takes the longer the more there are.
#[derive(Debug, Default)]
struct Room {
    files: usize,
    bytes: u64,
}

impl Folder {
    /// Makes the folder, and removes what processes that died have left there.
    pub(crate) fn open(path: PathBuf, max_files: usize, max_bytes: u64) -> Result<Self, StoreError> {
        create_private(&path).map_err(|source| StoreError { path: path.clone(), source })?;
        let folder = Self { path, max_files, max_bytes, room: Arc::default() };
        if let Err(error) = folder.remove_abandoned(SystemTime::now()) {
            tracing::debug!(%error, folder = %folder.path.display(), "could not look for abandoned files");
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file, whole, unless it is longer. None if there is none. It counts as used.
    pub(crate) fn read(&self, name: &str, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        self.open_used(name)?.map(|file| read_at_most(file, max_bytes)).transpose()
    }

    /// The same, with what tells it from any other that takes its place.
    pub(crate) fn read_stamped(&self, name: &str, max_bytes: usize) -> io::Result<Option<(Vec<u8>, Option<Stamp>)>> {
        let Some(file) = self.open_used(name)? else { return Ok(None) };
        // Before it is read: if it is changed meanwhile, it is not the one that was stamped.
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Some((read_at_most(file, max_bytes)?, stamp)))
    }

    /// Whether a file is still the one with this stamp, and need not be read to count as used. One look at what the system knows of it, which takes less
    /// than waking a thread for it would.
    pub(crate) fn is_still(&self, name: &str, stamp: &Stamp) -> bool {
        let now = fs::symlink_metadata(self.path.join(name));
        now.is_ok_and(|now| {
            let age = now.modified().ok().and_then(|used| SystemTime::now().duration_since(used).ok());
            age.is_some_and(|age| age < USED_LATELY) && Stamp::of(&now).as_ref() == Some(stamp)
        })
    }

    fn open_used(&self, name: &str) -> io::Result<Option<fs::File>> {
        let file = match fs::File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Whoever may only read, reads: then others decide what goes first.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(file))
    }

    /// Writes, or replaces, a file. Others are removed if they are too many now.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.path)?;
        file.write_all(bytes)?;
        // Otherwise a crash of the machine may leave the name and not the content.
        file.as_file().sync_data()?;
        file.persist(self.path.join(name))?;
        let length = bytes.len() as u64;
        {
            let mut room = self.room();
            if room.files > 0 && room.bytes >= length {
                (room.files, room.bytes) = (room.files - 1, room.bytes - length);
                return Ok(());
            }
        }
        self.make_room(name)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Two numbers, whole after every statement.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Removes files until no more are left than may be, but not this one; and if there were too many, some more, so that this is not due again
    /// with the next one. Of what is free then, other processes get their share.
    fn make_room(&self, kept: &str) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // One that another process has just removed counts no more.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !is_partial(&entry) {
                files.push((metadata.modified()?, metadata.len(), entry.file_name()));
            }
        }
        files.sort();
        let (mut count, mut bytes) = (files.len(), files.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
        let is_full = count > self.max_files || bytes > self.max_bytes;
        let (most_files, most_bytes) = match is_full {
            true => (self.max_files - self.max_files / SPARE, self.max_bytes - self.max_bytes / SPARE as u64),
            false => (self.max_files, self.max_bytes),
        };
        for (_, length, name) in files {
            if count <= most_files && bytes <= most_bytes {
                break;
            }
            if name != kept {
                tracing::debug!(folder = %self.path.display(), file = %name.display(), "removing what was not used for long");
                let _ = fs::remove_file(self.path.join(name));
                (count, bytes) = (count - 1, bytes - length);
            }
        }
        let (files, bytes) = (self.max_files.saturating_sub(count), self.max_bytes.saturating_sub(bytes));
        *self.room() = Room { files: files.min(self.max_files / SPARE), bytes: bytes.min(self.max_bytes / SPARE as u64) };
        Ok(())
    }

    fn remove_abandoned(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let age =
                entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| now.duration_since(time).ok());
            if is_partial(&entry) && age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

fn is_partial(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(PARTIAL)
}

/// Reads a file whole, unless it is longer.
fn read_at_most(file: fs::File, max_bytes: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    // Without that it would be read in pieces, from 32 bytes on.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length.min(max_bytes).saturating_add(1));
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

    fn folder(max_files: usize, max_bytes: u64) -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path().join("files"), max_files, max_bytes).unwrap();
        (dir, folder)
    }

    /// Writes a file that was used so long ago.
    fn write(folder: &Folder, name: &str, bytes: &[u8], seconds_ago: u64) {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
    }

    fn names(folder: &Folder) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_died_halfway_is_removed_in_time() {
        let (_dir, folder) = folder(9, 99);
        fs::write(folder.path().join(format!("{PARTIAL}1")), b"x").unwrap();
        fs::write(folder.path().join("whole"), b"x").unwrap();
        folder.remove_abandoned(SystemTime::now() + ABANDONED / 2).unwrap();
        assert_eq!(names(&folder).len(), 2);
        folder.remove_abandoned(SystemTime::now() + ABANDONED * 2).unwrap();
        assert_eq!(names(&folder), ["whole"]);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let (_dir, folder) = folder(3, 1000);
        write(&folder, "a", b"1", 40);
        write(&folder, "b", b"2", 30);
        write(&folder, "c", b"3", 20);
        assert_eq!(folder.read("a", 9).unwrap().as_deref(), Some(&b"1"[..]));
        folder.write("d", b"4").unwrap();
        assert_eq!(names(&folder), ["a", "c", "d"]);
        folder.write("d", b"5").unwrap();
        assert_eq!(names(&folder), ["a", "c", "d"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_was_used_lately_need_not_be_read_to_be_known() {
        let (_dir, folder) = folder(9, 99);
        folder.write("a", b"1").unwrap();
        let stamp = || folder.read_stamped("a", 9).unwrap().unwrap().1.unwrap();
        let first = stamp();
        assert!(folder.is_still("a", &first));
        folder.write("a", b"2").unwrap();
        assert!(!folder.is_still("a", &first), "it is another file");
        let second = stamp();
        assert!(folder.is_still("a", &second));
        let file = fs::File::options().write(true).open(folder.path().join("a")).unwrap();
        file.set_modified(SystemTime::now() - USED_LATELY * 2).unwrap();
        let old = Stamp::of(&file.metadata().unwrap()).unwrap();
        assert!(!folder.is_still("a", &old), "it has to be marked as used once more");
        assert!(!folder.is_still("a", &second));
        folder.remove("a");
        assert!(!folder.is_still("a", &second));
    }

    #[test]
    fn a_folder_that_is_full_is_cleared_by_a_part_of_it() {
        let (_dir, folder) = folder(16, 1000);
        for n in 0..100 {
            folder.write(&format!("{n:03}"), b"1").unwrap();
            let there = names(&folder);
            assert!(there.len() <= 18, "{there:?}");
            assert_eq!(there.last(), Some(&format!("{n:03}")), "what was just written stays");
        }
    }

    #[test]
    fn bytes_are_counted_and_what_was_just_written_stays() {
        let (_dir, folder) = folder(9, 10);
        write(&folder, "a", b"1234", 40);
        write(&folder, "b", b"1234", 30);
        folder.write("c", b"1234").unwrap();
        assert_eq!(names(&folder), ["b", "c"]);
        folder.write("d", b"more than fits").unwrap();
        assert_eq!(names(&folder), ["d"]);
    }
}
