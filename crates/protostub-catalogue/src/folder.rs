use std::{
    collections::HashMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use protostub_types::Sha256Digest;
use tempfile::NamedTempFile;

use crate::StoreError;

/// What the names of files begin with that are still being written.
const PARTIAL: &str = ".partial-";
/// How old such a file has to be to count as left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long ago a file was used that need not be marked as used once more.
const USED_LATELY: Duration = Duration::from_secs(60 * 60);

/// Which part of a full folder is cleared at once; and which part of it is written before it is looked at again.
const SPARE: usize = 8;

/// The share of a full folder up to which the files of one registrable domain are spared: an
/// eighth.
const SHARES: usize = 8;

/// A folder of files that appear whole or not at all, and are replaced but never changed: any
/// number of processes may share it.
///
/// Everything here blocks.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// A folder that is bounded in count and bytes. Of the files of registrable domains that hold more
/// than their share, the one that was not used for the longest time goes first; then of all files.
/// So one domain pushes out an eighth of the others' files at most.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    folder: Folder,
    max_files: usize,
    max_bytes: u64,
    room: Arc<Mutex<Room>>,
}

/// The name of a file: a digest of its subject, and the registrable domain to which the file is
/// charged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    subject: Sha256Digest,
    /// Half of the digest of the registrable domain, in hexadecimal.
    owner: String,
}

/// The hexadecimal digits of an owner in a name.
const OWNER_DIGITS: usize = 32;

impl Name {
    pub(crate) fn new(subject: Sha256Digest, registrable: &str) -> Self {
        let mut owner = Sha256Digest::of(registrable.as_bytes()).to_string();
        owner.truncate(OWNER_DIGITS);
        Self { subject, owner }
    }

    fn file(&self) -> String {
        format!("{}.{}", self.subject, self.owner)
    }

    /// The name that earlier versions gave to the file.
    fn without_owner(&self) -> String {
        self.subject.to_string()
    }
}

/// The owner in the name of a file; nothing in a name of an earlier version.
fn owner(file: &str) -> &str {
    file.split_once('.').map_or("", |(_, owner)| owner)
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
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        create_private(&path).map_err(|source| StoreError { path: path.clone(), source })?;
        let folder = Self { path };
        if let Err(error) = folder.remove_abandoned(SystemTime::now()) {
            tracing::debug!(%error, folder = %folder.path.display(), "could not look for abandoned files");
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, as it is written.
    pub(crate) fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.file())
    }

    /// Both paths that a file may have.
    fn paths_of(&self, name: &Name) -> [PathBuf; 2] {
        [self.path_of(name), self.path.join(name.without_owner())]
    }

    /// A file, whole, unless it is longer. None if there is none. It counts as used.
    pub(crate) fn read(&self, name: &Name, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        self.open_used(name)?.map(|file| read_at_most(file, max_bytes)).transpose()
    }

    /// The same, with what tells it from any other that takes its place.
    pub(crate) fn read_stamped(&self, name: &Name, max_bytes: usize) -> io::Result<Option<(Vec<u8>, Option<Stamp>)>> {
        let Some(file) = self.open_used(name)? else { return Ok(None) };
        // Before it is read: if it is changed meanwhile, it is not the one that was stamped.
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Some((read_at_most(file, max_bytes)?, stamp)))
    }

    /// Whether a file is still the one with this stamp, and need not be read to count as used. One look at what the system knows of it, which takes less
    /// than waking a thread for it would.
    pub(crate) fn is_still(&self, name: &Name, stamp: &Stamp) -> bool {
        let now = fs::symlink_metadata(self.path_of(name));
        now.is_ok_and(|now| {
            let age = now.modified().ok().and_then(|used| SystemTime::now().duration_since(used).ok());
            age.is_some_and(|age| age < USED_LATELY) && Stamp::of(&now).as_ref() == Some(stamp)
        })
    }

    /// Returns `true` if there is a file, or anything else in its place. Takes no descriptor.
    pub(crate) fn has(&self, name: &Name) -> io::Result<bool> {
        for path in self.paths_of(name) {
            match fs::symlink_metadata(path) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn open_used(&self, name: &Name) -> io::Result<Option<fs::File>> {
        for path in self.paths_of(name) {
            match fs::File::open(path) {
                Ok(file) => {
                    // Whoever may only read, reads: then others decide what goes first.
                    let _ = file.set_modified(SystemTime::now());
                    return Ok(Some(file));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Writes, or replaces, a file.
    pub(crate) fn write(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        self.place(self.stage(bytes)?, name)
    }

    /// Writes a file that has no name yet. Dropped, it is gone.
    pub(crate) fn stage(&self, bytes: &[u8]) -> io::Result<NamedTempFile> {
        let file = self.draft(bytes)?;
        // Otherwise a crash of the machine may leave the name and not the content.
        file.as_file().sync_data()?;
        Ok(file)
    }

    /// The same, without waiting until it is on the disk. Makes the folder if it was removed.
    pub(crate) fn draft(&self, bytes: &[u8]) -> io::Result<NamedTempFile> {
        let make = || tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.path);
        let mut file = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_private(&self.path)?;
                make()?
            }
            made => made?,
        };
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Gives a file its name, in place of whichever had it.
    pub(crate) fn place(&self, file: NamedTempFile, name: &Name) -> io::Result<()> {
        let [path, before] = self.paths_of(name);
        file.persist(path)?;
        remove(&before)
    }

    /// Has the system keep the names that files were given, also if the machine crashes.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        fs::File::open(&self.path)?.sync_all()?;
        Ok(())
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &Name) -> io::Result<()> {
        self.paths_of(name).iter().try_for_each(|path| remove(path))
    }

    /// Counts the files, and lists those of the owner of this one, the one first that
    /// was not used for the longest time.
    pub(crate) fn beside(&self, name: &Name) -> io::Result<(usize, Vec<PathBuf>)> {
        let (mut all, mut own) = (0, Vec::new());
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if is_partial(&entry) {
                continue;
            }
            all += 1;
            if owner(&entry.file_name().to_string_lossy()) == name.owner {
                let used = entry.metadata().and_then(|metadata| metadata.modified());
                own.push((used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
            }
        }
        own.sort();
        Ok((all, own.into_iter().map(|(_, path)| path).collect()))
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

impl Pool {
    /// Makes the folder, and removes what processes that died have left there.
    pub(crate) fn open(path: PathBuf, max_files: usize, max_bytes: u64) -> Result<Self, StoreError> {
        Ok(Self { folder: Folder::open(path)?, max_files, max_bytes, room: Arc::default() })
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Writes, or replaces, a file. Others are removed if they are too many now.
    pub(crate) fn write(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        self.folder.write(name, bytes)?;
        let length = bytes.len() as u64;
        {
            let mut room = self.room();
            if room.files > 0 && room.bytes >= length {
                (room.files, room.bytes) = (room.files - 1, room.bytes - length);
                return Ok(());
            }
        }
        self.make_room(&name.file())
    }

    /// A file with this subject, whichever domain it is charged to, with its name.
    pub(crate) fn read_any(&self, name: &Name, max_bytes: usize) -> io::Result<Option<(Name, Vec<u8>)>> {
        let read = |name: Name| Ok(self.folder.read(&name, max_bytes)?.map(|bytes| (name, bytes)));
        if let Some(own) = read(name.clone())? {
            return Ok(Some(own));
        }
        let wanted = name.subject.to_string();
        let entries = match fs::read_dir(&self.folder.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        for entry in entries {
            let file = entry?.file_name();
            if let Some((subject, owner)) = file.to_string_lossy().split_once('.')
                && subject == wanted
            {
                return read(Name { owner: owner.to_owned(), ..name.clone() });
            }
        }
        Ok(None)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Two numbers, whole after every statement.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes files until no more are left than may be, but not this one; and if there were too many, some more, so that this is not due again
    /// with the next one. Of what is free then, other processes get their share.
    fn make_room(&self, kept: &str) -> io::Result<()> {
        let path = &self.folder.path;
        let (mut files, mut held) = (Vec::new(), HashMap::<String, (usize, u64)>::new());
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // One that another process has just removed counts no more.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !is_partial(&entry) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let share = held.entry(owner(&name).to_owned()).or_default();
                *share = (share.0 + 1, share.1 + metadata.len());
                files.push((metadata.modified()?, metadata.len(), name));
            }
        }
        files.sort();
        let (mut count, mut bytes) = (files.len(), files.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
        let is_full = count > self.max_files || bytes > self.max_bytes;
        let (most_files, most_bytes) = match is_full {
            true => (self.max_files - self.max_files / SPARE, self.max_bytes - self.max_bytes / SPARE as u64),
            false => (self.max_files, self.max_bytes),
        };
        let (share_of_files, share_of_bytes) = (self.max_files / SHARES, self.max_bytes / SHARES as u64);
        for spares_shares in [true, false] {
            files.retain(|(_, length, name)| {
                let is_enough = count <= most_files && bytes <= most_bytes;
                let share = held.entry(owner(name).to_owned()).or_default();
                let is_spared = spares_shares && share.0 <= share_of_files && share.1 <= share_of_bytes;
                if is_enough || is_spared || name == kept {
                    return true;
                }
                tracing::debug!(folder = %path.display(), file = name, "removing what was not used for long");
                let _ = fs::remove_file(path.join(name));
                (count, bytes) = (count - 1, bytes - length);
                *share = (share.0 - 1, share.1 - length);
                false
            });
        }
        let (files, bytes) = (self.max_files.saturating_sub(count), self.max_bytes.saturating_sub(bytes));
        *self.room() = Room { files: files.min(self.max_files / SPARE), bytes: bytes.min(self.max_bytes / SPARE as u64) };
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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

/// Makes a folder that only the user who runs this can write to. One that exists becomes that, if
/// it is the user's own.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let metadata = fs::metadata(folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "it belongs to another user ({}): remove it, or choose another one",
                metadata.uid()
            )));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max_files: usize, max_bytes: u64) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open(dir.path().join("files"), max_files, max_bytes).unwrap();
        (dir, pool)
    }

    fn name(subject: &str, domain: &str) -> Name {
        Name::new(Sha256Digest::of(subject.as_bytes()), domain)
    }

    /// Writes a file of this domain that was used so long ago.
    fn write(pool: &Pool, name: &Name, bytes: &[u8], seconds_ago: u64) {
        let path = pool.folder().path_of(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
    }

    /// Which of these subjects have a file.
    fn there<'a>(pool: &Pool, subjects: &[&'a str], domain: &str) -> Vec<&'a str> {
        subjects.iter().copied().filter(|subject| pool.folder().has(&name(subject, domain)).unwrap()).collect()
    }

    fn count(pool: &Pool) -> usize {
        fs::read_dir(pool.folder().path()).unwrap().count()
    }

    const A: &str = "a.example";

    #[test]
    fn what_died_halfway_is_removed_in_time() {
        let (_dir, pool) = pool(9, 99);
        let path = pool.folder().path();
        fs::write(path.join(format!("{PARTIAL}1")), b"x").unwrap();
        fs::write(path.join("whole"), b"x").unwrap();
        pool.folder().remove_abandoned(SystemTime::now() + ABANDONED / 2).unwrap();
        assert_eq!(count(&pool), 2);
        pool.folder().remove_abandoned(SystemTime::now() + ABANDONED * 2).unwrap();
        assert!(count(&pool) == 1 && path.join("whole").exists());
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let (_dir, pool) = pool(3, 1000);
        write(&pool, &name("a", A), b"1", 40);
        write(&pool, &name("b", A), b"2", 30);
        write(&pool, &name("c", A), b"3", 20);
        assert_eq!(pool.folder().read(&name("a", A), 9).unwrap().as_deref(), Some(&b"1"[..]));
        for content in [b"4", b"5"] {
            pool.write(&name("d", A), content).unwrap();
            assert_eq!(there(&pool, &["a", "b", "c", "d"], A), ["a", "c", "d"]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_was_used_lately_need_not_be_read_to_be_known() {
        let (_dir, pool) = pool(9, 99);
        let (folder, a) = (pool.folder(), name("a", A));
        folder.write(&a, b"1").unwrap();
        let stamp = || folder.read_stamped(&a, 9).unwrap().unwrap().1.unwrap();
        let first = stamp();
        assert!(folder.is_still(&a, &first));
        folder.write(&a, b"2").unwrap();
        assert!(!folder.is_still(&a, &first), "it is another file");
        let second = stamp();
        assert!(folder.is_still(&a, &second));
        let file = fs::File::options().write(true).open(folder.path_of(&a)).unwrap();
        file.set_modified(SystemTime::now() - USED_LATELY * 2).unwrap();
        let old = Stamp::of(&file.metadata().unwrap()).unwrap();
        assert!(!folder.is_still(&a, &old), "it has to be marked as used once more");
        assert!(!folder.is_still(&a, &second));
        folder.remove(&a).unwrap();
        assert!(!folder.is_still(&a, &second));
    }

    #[test]
    fn a_folder_that_is_full_is_cleared_by_a_part_of_it() {
        let (_dir, pool) = pool(16, 1000);
        for n in 0..100 {
            let last = name(&n.to_string(), A);
            pool.write(&last, b"1").unwrap();
            assert!(count(&pool) <= 18);
            assert!(pool.folder().has(&last).unwrap(), "what was just written stays");
        }
    }

    #[test]
    fn bytes_are_counted_and_what_was_just_written_stays() {
        let (_dir, pool) = pool(9, 10);
        write(&pool, &name("a", A), b"1234", 40);
        write(&pool, &name("b", A), b"1234", 30);
        pool.write(&name("c", A), b"1234").unwrap();
        assert_eq!(there(&pool, &["a", "b", "c"], A), ["b", "c"]);
        pool.write(&name("d", A), b"more than fits").unwrap();
        assert_eq!(there(&pool, &["a", "b", "c", "d"], A), ["d"]);
    }

    /// A domain that writes without end pushes out its own files, and no more of the others' than
    /// its share.
    #[test]
    fn flood_of_one_domain_leaves_the_files_of_others() {
        let (_dir, pool) = pool(64, 64_000);
        let subjects: Vec<String> = (0..56).map(|n| format!("honest {n}")).collect();
        for (n, subject) in subjects.iter().enumerate() {
            write(&pool, &name(subject, &format!("d{n}.example")), b"1", 1000);
        }
        for n in 0..500 {
            pool.write(&name(&n.to_string(), A), b"1").unwrap();
        }
        let left = subjects
            .iter()
            .enumerate()
            .filter(|(n, subject)| pool.folder().has(&name(subject, &format!("d{n}.example"))).unwrap());
        let left = left.count();
        assert!(left >= 56 - 64 / SHARES, "{left} of 56 are left");
    }

    #[test]
    fn files_of_earlier_versions_are_read_and_replaced() {
        let (_dir, pool) = pool(9, 99);
        let (folder, a) = (pool.folder(), name("a", A));
        let before = folder.path().join(a.without_owner());
        fs::write(&before, b"1").unwrap();
        assert!(folder.has(&a).unwrap());
        assert_eq!(folder.read(&a, 9).unwrap().as_deref(), Some(&b"1"[..]));
        folder.write(&a, b"2").unwrap();
        assert!(!before.exists());
        assert_eq!(folder.read(&a, 9).unwrap().as_deref(), Some(&b"2"[..]));
    }

    /// A folder that was there before is closed to other users, too.
    #[cfg(unix)]
    #[test]
    fn folder_open_to_others_becomes_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        Folder::open(dir.path().to_owned()).unwrap();
        assert_eq!(mode(), 0o700);
        // Root may give a folder away.
        if std::os::unix::fs::chown(dir.path(), Some(12_345), None).is_ok() && rustix::process::geteuid().is_root() {
            let error = std::error::Error::source(&Folder::open(dir.path().to_owned()).unwrap_err()).unwrap().to_string();
            assert!(error.contains("another user (12345)"), "{error}");
        }
    }

    /// The next write makes the folder again, for its owner only.
    #[test]
    fn folder_removed_meanwhile_is_made_again() {
        let (dir, pool) = pool(9, 99);
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(pool.folder().read(&name("a", A), 9).unwrap(), None);
        pool.write(&name("a", A), b"1").unwrap();
        assert_eq!(pool.read_any(&name("a", "b.example"), 9).unwrap(), Some((name("a", A), b"1".to_vec())));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(pool.folder().path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
