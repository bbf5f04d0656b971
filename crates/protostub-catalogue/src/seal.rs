//! Authentication of the files that decide trust.
//!
//! Such a file begins with a tag that only holders of a key can make. So a file that another
//! program has written, or that was there before the folder was closed to other users, decides
//! nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use protostub_files::{Key, OtherWriters, create_partial, private_folder, restore_secret_key, secret_key};
use protostub_types::Sha256Digest;
use ring::hmac;

use crate::StoreError;

/// Name of the key's file in the cache folder, unless the operator names another file.
const KEY_FILE: &str = "trust.key";
/// Name of the file whose presence shows that the files of earlier releases have their tags. The
/// file is in a private folder: in a shared one, another user could plant a pipe or a device.
const MARK_FILE: &str = ".sealed";
/// Beginning of the authenticated bytes, so that no other use of the key gives the same tag.
const CONTEXT: &[u8] = b"protostub trust state 1";
/// Length of a tag in a file, in bytes: HMAC with SHA-256 in hexadecimal, and a line feed.
pub(crate) const TAG_BYTES: usize = 65;

/// The seal of one kind of files. Cloning is cheap; clones share the key.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    keyring: Arc<Keyring>,
    /// The kind of files. A file of another kind has another tag.
    kind: &'static str,
}

struct Keyring {
    /// The file of the key.
    path: PathBuf,
    mark: PathBuf,
    key: Mutex<Key>,
    writers: OtherWriters,
}

impl Seal {
    /// Opens the key for the files in these folders of `cache_dir`, and creates a missing key. The
    /// mark of adopted files is in the first folder. `kind` is the kind of files in one of them.
    ///
    /// # Errors
    /// If a folder or the key cannot be used, or other users can change it.
    pub(crate) fn open(
        cache_dir: &Path,
        folders: &[&str],
        key: Option<&Path>,
        kind: &'static str,
        writers: OtherWriters,
    ) -> Result<Self, StoreError> {
        let open = |path: PathBuf| private_folder(&path, writers).map_err(|source| StoreError { path, source });
        let folders = folders.iter().map(|name| open(cache_dir.join(name))).collect::<Result<Vec<_>, _>>()?;
        let path = key.map_or_else(|| cache_dir.join(KEY_FILE), Path::to_owned);
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        let key = secret_key(&path, &folders, writers).map_err(|source| StoreError { path: path.clone(), source })?;
        let mark = folders.first().map_or(cache_dir, |folder| *folder).join(MARK_FILE);
        let keyring = Keyring { path, mark, key: Mutex::new(key), writers };
        Ok(Self { keyring: Arc::new(keyring), kind })
    }

    /// Returns the seal of another kind of files, with the same key.
    pub(crate) fn of(&self, kind: &'static str) -> Self {
        Self { keyring: Arc::clone(&self.keyring), kind }
    }

    /// Returns the rule of the cache's folders.
    pub(crate) fn writers(&self) -> OtherWriters {
        self.keyring.writers
    }

    /// Returns `true` if a file begins with a tag, right or wrong. Files of earlier releases do not
    /// have one.
    pub(crate) fn has_tag(file: &[u8]) -> bool {
        file.get(..TAG_BYTES).and_then(decode).is_some()
    }

    /// Returns the content of a file: the tag, and the bytes.
    pub(crate) fn close(&self, subject: Sha256Digest, bytes: &[u8]) -> Vec<u8> {
        let tag = self.tag(subject, bytes, self.keyring.key());
        [tag.as_slice(), bytes].concat()
    }

    /// Returns the bytes of a file after its tag.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`], if the tag is missing or is not that of the bytes.
    pub(crate) fn unclose(&self, subject: Sha256Digest, mut file: Vec<u8>) -> io::Result<Vec<u8>> {
        let is_good = |key: Key| {
            let stated = file.get(..TAG_BYTES)?;
            let bytes = &file[TAG_BYTES..];
            // Compares in constant time.
            let stated: [u8; 32] = decode(stated)?;
            hmac::verify(&hmac_key(key), &self.content(subject, bytes), &stated).ok()
        };
        // Another process may have replaced a lost key.
        if is_good(self.keyring.key()).or_else(|| is_good(self.keyring.reload()?)).is_none() {
            let key = self.keyring.path.display();
            let problem = format!("the file was changed, or was not made with the key {key}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(file.split_off(TAG_BYTES))
    }

    /// Creates the file of the key again if it is gone.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let key = restore_secret_key(&self.keyring.path, self.keyring.writers, &self.keyring.key())?;
        self.keyring.set(key);
        Ok(())
    }

    /// Returns `true` if all files were made by this release, or [marked](Self::mark) since.
    pub(crate) fn is_marked(&self) -> bool {
        let subject = Sha256Digest::of(MARK_FILE.as_bytes());
        fs::read(&self.keyring.mark).is_ok_and(|mark| self.unclose(subject, mark).is_ok())
    }

    /// Records that files without a tag are not files of an earlier release any more.
    pub(crate) fn mark(&self) -> Result<(), StoreError> {
        let subject = Sha256Digest::of(MARK_FILE.as_bytes());
        let write = || {
            let folder = self.keyring.mark.parent().unwrap_or(Path::new("."));
            let mut file = create_partial(folder)?;
            io::Write::write_all(&mut file, &self.close(subject, b""))?;
            file.persist(&self.keyring.mark).map(drop).map_err(io::Error::from)
        };
        write().map_err(|source| StoreError { path: self.keyring.mark.clone(), source })
    }

    fn tag(&self, subject: Sha256Digest, bytes: &[u8], key: Key) -> [u8; TAG_BYTES] {
        let tag = hmac::sign(&hmac_key(key), &self.content(subject, bytes));
        let mut text = [b'\n'; TAG_BYTES];
        for (digits, byte) in text.chunks_exact_mut(2).zip(tag.as_ref()) {
            digits.copy_from_slice(format!("{byte:02x}").as_bytes());
        }
        text
    }

    /// Returns the authenticated bytes. Only the last part has no fixed length, or end.
    fn content(&self, subject: Sha256Digest, bytes: &[u8]) -> Vec<u8> {
        [CONTEXT, self.kind.as_bytes(), b"\0", subject.as_bytes(), bytes].concat()
    }
}

impl Keyring {
    fn key(&self) -> Key {
        // A poisoned lock is safe: the key is replaced as a whole.
        *self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: Key) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// Reads the key again. Returns `None` if it cannot be read, or is the same.
    fn reload(&self) -> Option<Key> {
        let key =
            fs::exists(&self.path).ok().filter(|exists| *exists).and_then(|_| secret_key(&self.path, &[], self.writers).ok())?;
        if key == self.key() {
            return None;
        }
        self.set(key);
        Some(key)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("path", &self.path).finish_non_exhaustive()
    }
}

fn hmac_key(key: Key) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &key)
}

/// Reads a tag. Returns `None` if the text is not one.
fn decode(text: &[u8]) -> Option<[u8; 32]> {
    let digits = text.strip_suffix(b"\n").filter(|digits| digits.len() == 64)?;
    // A tag is as long as a digest of SHA-256, and is written alike.
    let tag: Sha256Digest = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(*tag.as_bytes())
}
