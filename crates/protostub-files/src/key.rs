use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{folder::create, owner, writers::OtherWriters};

/// Length of a key, in bytes: as long as the output of SHA-256, as RFC 2104 advises.
pub const KEY_BYTES: usize = 32;

/// A key that authenticates files.
pub type Key = [u8; KEY_BYTES];

/// Returns the key in a file, and creates the file with a new key if it is missing. The file may
/// not be in one of `folders`, whose files it authenticates: a user who can write there would have
/// the key.
///
/// Blocks.
///
/// # Errors
/// If the file cannot be created or read, is not a key, or other users can read or replace it. If
/// `writers` allows other writers, they may replace the file, but not by a key of theirs.
pub fn secret_key(path: &Path, folders: &[&Path], writers: OtherWriters) -> io::Result<Key> {
    key_or(path, folders, writers, None)
}

/// Does the same, but creates a missing file with this key. Another process may have been quicker,
/// so the result can be another key.
///
/// # Errors
/// As [`secret_key`].
pub fn restore_secret_key(path: &Path, writers: OtherWriters, key: &Key) -> io::Result<Key> {
    key_or(path, &[], writers, Some(key))
}

fn key_or(path: &Path, folders: &[&Path], writers: OtherWriters, known: Option<&Key>) -> io::Result<Key> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    owner::check_links(parent, writers)?;
    create(parent)?;
    let parent = parent.canonicalize()?;
    if folders.iter().any(|folder| parent.starts_with(folder)) {
        return Err(io::Error::other("the cache's key may not be in the cache folder; set `key` in `[cache]` to a path outside"));
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("the path of the key has no file name"))?;
    let path = parent.join(name);
    owner::check_folder_of_key(&parent, writers)?;
    if !fs::exists(&path)? {
        write(&parent, &path, known)?;
    }
    if !fs::symlink_metadata(&path)?.is_file() {
        return Err(io::Error::other("the key is not a regular file"));
    }
    let file = fs::File::open(&path)?;
    owner::close_key(&file, &parent, writers)?;
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    bytes.try_into().map_err(|_| {
        io::Error::other(format!("a key has {KEY_BYTES} bytes, and this file does not; remove the file, and a new key is made"))
    })
}

fn write(parent: &Path, path: &Path, known: Option<&Key>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(parent)?;
    let key = match known {
        Some(key) => *key,
        None => {
            let mut key = Key::default();
            SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system has no random numbers"))?;
            key
        }
    };
    file.write_all(&key)?;
    file.as_file().sync_data()?;
    // If another process was quicker, its key is the key.
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::owner::for_tests::{give_away, mode, set_mode};

    const REFUSED: OtherWriters = OtherWriters::Refused;

    #[test]
    fn key_is_made_once_and_restored_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let key = secret_key(&path, &[], REFUSED).unwrap();
        assert_eq!((secret_key(&path, &[], REFUSED).unwrap(), mode(&path)), (key, 0o600));
        fs::remove_file(&path).unwrap();
        assert_eq!(restore_secret_key(&path, REFUSED, &key).unwrap(), key);
        assert_eq!(secret_key(&path, &[], REFUSED).unwrap(), key);
        // The key of another process, which was quicker, counts.
        assert_eq!(restore_secret_key(&path, REFUSED, &[7; KEY_BYTES]).unwrap(), key);
        let inside = dir.path().canonicalize().unwrap();
        let error = secret_key(&path, &[&inside], REFUSED).unwrap_err().to_string();
        assert!(error.contains("may not be in the cache folder"), "{error}");
    }

    #[test]
    fn key_that_others_can_open_or_own_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let refusal = |writers| secret_key(&path, &[], writers).unwrap_err().to_string();
        secret_key(&path, &[], REFUSED).unwrap();
        set_mode(&path, 0o640);
        assert!(refusal(REFUSED).contains("other users may open the file (mode 640, user "));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "short").unwrap();
        set_mode(&path, 0o600);
        assert!(refusal(REFUSED).contains("a key has 32 bytes"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(refusal(REFUSED), "the key is not a regular file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, [7; KEY_BYTES]).unwrap();
        set_mode(&path, 0o600);
        if give_away(&path) {
            assert!(refusal(REFUSED).contains("user 12345"));
            assert!(refusal(OtherWriters::Allowed).contains("user 12345"));
        }
    }

    /// With each mount, Kubernetes gives the group of a volume access to all files.
    #[test]
    fn key_open_to_the_group_of_a_volume_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, path) = (dir.path().join("volume"), dir.path().join("volume/trust.key"));
        fs::create_dir(&volume).unwrap();
        set_mode(&volume, 0o777);
        give_away(&volume);
        assert!(secret_key(&path, &[], REFUSED).is_err());
        let key = secret_key(&path, &[], OtherWriters::Allowed).unwrap();
        set_mode(&path, 0o660);
        assert!(secret_key(&path, &[], REFUSED).is_err());
        assert_eq!((secret_key(&path, &[], OtherWriters::Allowed).unwrap(), mode(&path)), (key, 0o600));
        set_mode(&path, 0o604);
        assert!(secret_key(&path, &[], OtherWriters::Allowed).is_err());
    }
}
