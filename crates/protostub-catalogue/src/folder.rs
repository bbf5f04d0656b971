use std::{
    collections::HashMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use protostub_files::{OtherWriters, create_partial, private_folder, remove_abandoned};
use protostub_types::Sha256Digest;
use tempfile::NamedTempFile;

use crate::{
    StoreError,
    seal::{Seal, TAG_BYTES},
};

/// Time after a use in which the file is not marked as used again.
const USED_LATELY: Duration = Duration::from_secs(60 * 60);

/// Divisor of a folder's limits: the part of a full folder that is cleared at once, and the part
/// that is written before the folder is counted again.
const SPARE: usize = 8;

/// Divisor of a folder's limits: the files of one registrable domain are spared up to this share,
/// an eighth.
const SHARES: usize = 8;

/// A folder whose files appear whole or not at all, and are replaced but never changed. Any number
/// of processes may share the folder. No other user may be able to write to the folder.
///
/// All methods block.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Authenticates the files. `None` if the name of a file is the digest of its content.
    seal: Option<Seal>,
    writers: OtherWriters,
}

/// A folder with a limit on files and bytes. Files of registrable domains that hold more than their
/// share are removed first. Among them, and then among all files, the one that was not used for the
/// longest time goes first. So one domain displaces at most an eighth of the other domains' files.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    folder: Folder,
    max_files: usize,
    max_bytes: u64,
    room: Arc<Mutex<Room>>,
}

/// The name of a file: a digest of its subject, and the registrable domain that the file counts
/// for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    subject: Sha256Digest,
    /// The first half of the digest of the registrable domain, in hexadecimal.
    owner: String,
}

/// Number of hexadecimal digits of the owner in a name.
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

    /// Returns the name that earlier versions gave to the file.
    fn without_owner(&self) -> String {
        self.subject.to_string()
    }
}

/// Returns the subject in the name of a file. Returns `None` if the file is not one of a folder:
/// such a file does not count, and nothing removes it.
fn subject(file: &str) -> Option<Sha256Digest> {
    file.split('.').next()?.parse().ok()
}

/// Returns the owner in the name of a file. Empty for a name of an earlier version.
fn owner(file: &str) -> &str {
    file.split_once('.').map_or("", |(_, owner)| owner)
}

/// The identity of a file when it was read, and its last change, which no program can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The device, and the file's number on it.
    file: (u64, u64),
    /// Seconds and nanoseconds since the Unix epoch.
    changed: (i64, i64),
    bytes: u64,
}

impl Stamp {
    /// Returns `None` if the system provides no such data.
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

/// The files and bytes that may be written before the folder is counted again. Counting after every
/// write would take longer the more files there are.
#[derive(Debug, Default)]
struct Room {
    files: usize,
    bytes: u64,
}

impl Folder {
    /// Creates the folder, and removes partial files of processes that died.
    pub(crate) fn open(path: PathBuf, seal: Option<Seal>, writers: OtherWriters) -> Result<Self, StoreError> {
        let path = private_folder(&path, writers).map_err(|source| StoreError { path, source })?;
        if let Err(error) = remove_abandoned(&path) {
            tracing::debug!(%error, folder = %path.display(), "failed to look for files of processes that died");
        }
        Ok(Self { path, seal, writers })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path to which a file is written.
    pub(crate) fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.file())
    }

    /// Returns both paths at which a file may be found.
    fn paths_of(&self, name: &Name) -> [PathBuf; 2] {
        [self.path_of(name), self.path.join(name.without_owner())]
    }

    /// Reads a whole file, and marks the file as used. Returns `None` if it does not exist; fails
    /// if it is longer than `max_bytes`, or not authentic ([`io::ErrorKind::InvalidData`]).
    pub(crate) fn read(&self, name: &Name, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        self.open_used(name)?.map(|file| self.content(name, file, max_bytes)).transpose()
    }

    /// Does the same. Also returns the stamp that tells the file from any replacement.
    pub(crate) fn read_stamped(&self, name: &Name, max_bytes: usize) -> io::Result<Option<(Vec<u8>, Option<Stamp>)>> {
        let Some(file) = self.open_used(name)? else { return Ok(None) };
        // Taken before reading: if the file is changed meanwhile, the stamp no longer matches.
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Some((self.content(name, file, max_bytes)?, stamp)))
    }

    fn content(&self, name: &Name, file: fs::File, max_bytes: usize) -> io::Result<Vec<u8>> {
        match &self.seal {
            None => read_at_most(file, max_bytes),
            Some(seal) => seal.unclose(name.subject, read_at_most(file, max_bytes.saturating_add(TAG_BYTES))?),
        }
    }

    /// Gives the files of earlier releases, which have no tag, their tags. With `keep` as `false`,
    /// removes them instead. Files that are longer than `max_bytes` stay as they are.
    ///
    /// # Errors
    /// If a file cannot be read or replaced.
    pub(crate) fn adopt(&self, keep: bool, max_bytes: usize) -> Result<(), StoreError> {
        let Some(seal) = &self.seal else { return Ok(()) };
        let fail = |path: &Path, source| StoreError { path: path.to_owned(), source };
        for entry in fs::read_dir(&self.path).map_err(|error| fail(&self.path, error))? {
            let entry = entry.map_err(|error| fail(&self.path, error))?;
            let (path, file) = (entry.path(), entry.file_name());
            let subject = subject(&file.to_string_lossy());
            let Some(subject) = subject.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) else { continue };
            let bytes = match fs::File::open(&path).and_then(|file| read_at_most(file, max_bytes)) {
                Ok(bytes) => bytes,
                // Another process that starts may have removed the file.
                Err(error) if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::NotFound) => continue,
                Err(error) => return Err(fail(&path, error)),
            };
            if Seal::has_tag(&bytes) {
                continue;
            }
            let adopted = match keep {
                true => self.draft(&seal.close(subject, &bytes)).and_then(|file| {
                    file.as_file().sync_data()?;
                    file.persist(&path).map(drop).map_err(io::Error::from)
                }),
                false => remove(&path),
            };
            adopted.map_err(|error| fail(&path, error))?;
        }
        Ok(())
    }

    /// Returns `true` if a file still has this stamp and was marked as used lately, so that it need
    /// not be read. This is one `stat` call, which is cheaper than waking a thread.
    pub(crate) fn is_still(&self, name: &Name, stamp: &Stamp) -> bool {
        let now = fs::symlink_metadata(self.path_of(name));
        now.is_ok_and(|now| {
            let age = now.modified().ok().and_then(|used| SystemTime::now().duration_since(used).ok());
            age.is_some_and(|age| age < USED_LATELY) && Stamp::of(&now).as_ref() == Some(stamp)
        })
    }

    /// Returns `true` if there is a file, or anything else in its place. Opens no file descriptor.
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
                    // A process that may only read still reads. Then other processes decide the
                    // order of removal.
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
        self.place(self.stage(name, bytes)?, name)
    }

    /// Writes the file that gets this name later. Dropping the file removes it.
    pub(crate) fn stage(&self, name: &Name, bytes: &[u8]) -> io::Result<NamedTempFile> {
        let mut file = self.make()?;
        match &self.seal {
            None => file.write_all(bytes)?,
            Some(seal) => file.write_all(&seal.close(name.subject, bytes))?,
        }
        // After a crash of the machine there could otherwise be the name without the content.
        file.as_file().sync_data()?;
        Ok(file)
    }

    /// Writes a file without a name and without a tag. Does not wait for the disk.
    pub(crate) fn draft(&self, bytes: &[u8]) -> io::Result<NamedTempFile> {
        let mut file = self.make()?;
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Makes an empty file. Creates the folder and the key if they were removed.
    fn make(&self) -> io::Result<NamedTempFile> {
        match create_partial(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_folder(&self.path, self.writers)?;
                self.seal.as_ref().map_or(Ok(()), Seal::restore)?;
                create_partial(&self.path)
            }
            made => made,
        }
    }

    /// Gives a file its name, and replaces the file that had the name.
    pub(crate) fn place(&self, file: NamedTempFile, name: &Name) -> io::Result<()> {
        let [path, before] = self.paths_of(name);
        file.persist(path)?;
        remove(&before)
    }

    /// Makes the names of the files durable, also after a crash of the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        fs::File::open(&self.path)?.sync_all()?;
        Ok(())
    }

    /// Removes a file, if it exists.
    pub(crate) fn remove(&self, name: &Name) -> io::Result<()> {
        self.paths_of(name).iter().try_for_each(|path| remove(path))
    }

    /// Counts the files, and lists those of the same owner. The file that was not used for the
    /// longest time is first.
    pub(crate) fn beside(&self, name: &Name) -> io::Result<(usize, Vec<PathBuf>)> {
        let (mut all, mut own) = (0, Vec::new());
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let file = entry.file_name();
            let file = file.to_string_lossy();
            if subject(&file).is_none() {
                continue;
            }
            all += 1;
            if owner(&file) == name.owner {
                let used = entry.metadata().and_then(|metadata| metadata.modified());
                own.push((used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
            }
        }
        own.sort();
        Ok((all, own.into_iter().map(|(_, path)| path).collect()))
    }
}

impl Pool {
    /// Creates the folder, and removes partial files of processes that died.
    pub(crate) fn open(
        path: PathBuf,
        max_files: usize,
        max_bytes: u64,
        seal: Option<Seal>,
        writers: OtherWriters,
    ) -> Result<Self, StoreError> {
        Ok(Self { folder: Folder::open(path, seal, writers)?, max_files, max_bytes, room: Arc::default() })
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Writes, or replaces, a file. Removes other files if the limits are exceeded.
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

    /// Reads the file with this subject, of any domain. Also returns its name.
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
        // A poisoned lock is safe: both numbers are valid after every statement.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes files, except `kept`, until the limits hold. If they were exceeded, an eighth more
    /// is removed, so that the next write does not clear again. Other processes get their share of
    /// the free room.
    fn make_room(&self, kept: &str) -> io::Result<()> {
        let path = &self.folder.path;
        let (mut files, mut held) = (Vec::new(), HashMap::<String, (usize, u64)>::new());
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // Another process has just removed this file, so it does not count.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if metadata.is_file() && subject(&name).is_some() {
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
                tracing::debug!(folder = %path.display(), file = name, "removing a file that was not used for long");
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

/// Reads a whole file. Fails if it is longer than `max_bytes`.
fn read_at_most(file: fs::File, max_bytes: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    // Without this capacity the file would be read in pieces, from 32 bytes on.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length.min(max_bytes).saturating_add(1));
    io::Read::read_to_end(&mut io::Read::take(file, limit.saturating_add(1)), &mut bytes)?;
    if bytes.len() > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max_files: usize, max_bytes: u64) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open(dir.path().join("files"), max_files, max_bytes, None, OtherWriters::Refused).unwrap();
        (dir, pool)
    }

    fn name(subject: &str, domain: &str) -> Name {
        Name::new(Sha256Digest::of(subject.as_bytes()), domain)
    }

    /// Writes a file of this domain, last used `seconds_ago`.
    fn write(pool: &Pool, name: &Name, bytes: &[u8], seconds_ago: u64) {
        let path = pool.folder().path_of(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
    }

    /// Returns the subjects that have a file.
    fn there<'a>(pool: &Pool, subjects: &[&'a str], domain: &str) -> Vec<&'a str> {
        subjects.iter().copied().filter(|subject| pool.folder().has(&name(subject, domain)).unwrap()).collect()
    }

    fn count(pool: &Pool) -> usize {
        fs::read_dir(pool.folder().path()).unwrap().count()
    }

    const A: &str = "a.example";

    /// Other processes may share the folder: their partial files stay.
    #[test]
    fn partial_file_without_a_writer_is_removed_at_start() {
        let (_dir, pool) = pool(9, 99);
        let folder = pool.folder();
        let left = folder.path().join(".partial-1");
        fs::write(&left, b"x").unwrap();
        folder.write(&name("whole", A), b"x").unwrap();
        let in_progress = folder.stage(&name("next", A), b"y").unwrap();
        Folder::open(folder.path().to_owned(), None, OtherWriters::Refused).unwrap();
        assert!(!left.exists());
        folder.place(in_progress, &name("next", A)).unwrap();
        assert_eq!(there(&pool, &["whole", "next"], A), ["whole", "next"]);
        assert_eq!(count(&pool), 2);
    }

    #[test]
    fn full_pool_removes_least_recently_used_file_first() {
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
    fn stamp_of_recently_used_file_matches_until_it_changes() {
        let (_dir, pool) = pool(9, 99);
        let (folder, a) = (pool.folder(), name("a", A));
        folder.write(&a, b"1").unwrap();
        let stamp = || folder.read_stamped(&a, 9).unwrap().unwrap().1.unwrap();
        let first = stamp();
        assert!(folder.is_still(&a, &first));
        folder.write(&a, b"2").unwrap();
        assert!(!folder.is_still(&a, &first), "the file was replaced");
        let second = stamp();
        assert!(folder.is_still(&a, &second));
        let file = fs::File::options().write(true).open(folder.path_of(&a)).unwrap();
        file.set_modified(SystemTime::now() - USED_LATELY * 2).unwrap();
        let old = Stamp::of(&file.metadata().unwrap()).unwrap();
        assert!(!folder.is_still(&a, &old), "the file has to be marked as used again");
        assert!(!folder.is_still(&a, &second));
        folder.remove(&a).unwrap();
        assert!(!folder.is_still(&a, &second));
    }

    #[test]
    fn full_pool_clears_a_part_and_keeps_the_new_file() {
        let (_dir, pool) = pool(16, 1000);
        for n in 0..100 {
            let last = name(&n.to_string(), A);
            pool.write(&last, b"1").unwrap();
            assert!(count(&pool) <= 18);
            assert!(pool.folder().has(&last).unwrap(), "the file just written stays");
        }
    }

    #[test]
    fn pool_over_its_byte_limit_keeps_the_new_file() {
        let (_dir, pool) = pool(9, 10);
        write(&pool, &name("a", A), b"1234", 40);
        write(&pool, &name("b", A), b"1234", 30);
        pool.write(&name("c", A), b"1234").unwrap();
        assert_eq!(there(&pool, &["a", "b", "c"], A), ["b", "c"]);
        pool.write(&name("d", A), b"more than fits").unwrap();
        assert_eq!(there(&pool, &["a", "b", "c", "d"], A), ["d"]);
    }

    /// Other writers could put a link to any folder of this user in the place of the pool's.
    #[test]
    fn files_of_other_programs_are_never_removed() {
        let (_dir, pool) = pool(2, 1000);
        let other = pool.folder().path().join("letter.txt");
        fs::write(&other, vec![b'x'; 2000]).unwrap();
        for n in 0..20 {
            pool.write(&name(&n.to_string(), A), b"1").unwrap();
        }
        assert!(other.exists());
        assert_eq!(pool.folder().beside(&name("0", A)).unwrap().0, count(&pool) - 1);
    }

    /// A domain that writes without end displaces its own files, and at most its share of the
    /// others' files.
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

    /// A folder that existed before is closed to other users, too.
    #[cfg(unix)]
    #[test]
    fn folder_open_to_others_becomes_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        Folder::open(dir.path().to_owned(), None, OtherWriters::Refused).unwrap();
        assert_eq!(mode(), 0o700);
        // Root may change the owner of a folder.
        if std::os::unix::fs::chown(dir.path(), Some(12_345), None).is_ok() && rustix::process::geteuid().is_root() {
            let error = Folder::open(dir.path().to_owned(), None, OtherWriters::Refused).unwrap_err();
            let error = std::error::Error::source(&error).unwrap().to_string();
            assert!(error.contains("belongs to the user 12345"), "{error}");
        }
    }

    fn sealed(dir: &tempfile::TempDir, kind: &'static str) -> Folder {
        let seal = Seal::open(dir.path(), &["files"], None, kind, OtherWriters::Refused).unwrap();
        Folder::open(dir.path().join("files"), Some(seal), OtherWriters::Refused).unwrap()
    }

    /// A file counts only for its kind, its name and its bytes.
    #[test]
    fn file_without_the_right_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, a, b) = (sealed(&dir, "x"), name("a", A), name("b", A));
        folder.write(&a, b"content").unwrap();
        let path = folder.path_of(&a);
        let intact = fs::read(&path).unwrap();
        let read = |folder: &Folder, name: &Name| folder.read(name, 9).map_err(|error| error.kind());
        let refused = Err(io::ErrorKind::InvalidData);
        assert_eq!(read(&folder, &a), Ok(Some(b"content".to_vec())));
        assert_eq!(read(&sealed(&dir, "x"), &a), Ok(Some(b"content".to_vec())), "the next process has the key");
        assert_eq!(read(&sealed(&dir, "y"), &a), refused);
        fs::copy(&path, folder.path_of(&b)).unwrap();
        assert_eq!(read(&folder, &b), refused);
        let changed = |at: usize| [&intact[..at], &[intact[at] ^ 1], &intact[at + 1..]].concat();
        let planted: [&[u8]; 6] = [b"", b"content", &intact[1..], &changed(0), &changed(64), &changed(intact.len() - 1)];
        for planted in planted {
            fs::write(&path, planted).unwrap();
            assert_eq!(read(&folder, &a), refused, "{planted:?}");
        }
        fs::write(&path, &intact).unwrap();
        assert!(folder.read(&a, 6).is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge));
        // Another key, or none.
        fs::remove_file(dir.path().join("trust.key")).unwrap();
        assert_eq!(read(&sealed(&dir, "x"), &a), refused);
    }

    #[test]
    fn files_of_earlier_releases_get_tags_or_go() {
        for keep in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (folder, a, b, c) = (sealed(&dir, "x"), name("a", A), name("b", A), name("c", A));
            folder.write(&a, b"new").unwrap();
            fs::write(folder.path_of(&b), b"old").unwrap();
            fs::write(folder.path_of(&c), vec![b'x'; 200]).unwrap();
            let before = fs::read(folder.path_of(&a)).unwrap();
            folder.adopt(keep, 100).unwrap();
            assert_eq!(fs::read(folder.path_of(&a)).unwrap(), before);
            assert_eq!(folder.read(&b, 9).unwrap(), keep.then(|| b"old".to_vec()));
            assert!(folder.read(&c, 300).is_err(), "too long for a file of an earlier release");
            let seal = folder.seal.as_ref().unwrap();
            assert!(!seal.is_marked());
            seal.mark().unwrap();
            assert!(sealed(&dir, "x").seal.unwrap().is_marked());
        }
    }

    /// The cache is removed while the process runs. The next process reads what this one writes.
    #[test]
    fn key_removed_meanwhile_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let cache = tempfile::TempDir::new_in(dir.path()).unwrap();
        let (folder, a) = (sealed(&cache, "x"), name("a", A));
        fs::remove_dir_all(cache.path()).unwrap();
        folder.write(&a, b"1").unwrap();
        assert_eq!(sealed(&cache, "x").read(&a, 9).unwrap().as_deref(), Some(&b"1"[..]));
        // Another process has made a new key.
        fs::remove_file(cache.path().join("trust.key")).unwrap();
        sealed(&cache, "x").write(&a, b"2").unwrap();
        assert_eq!(folder.read(&a, 9).unwrap().as_deref(), Some(&b"2"[..]));
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
