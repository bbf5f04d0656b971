//! Native code on disk, for the next process. Compiling a component takes seconds, loading it a
//! millisecond.
//!
//! The host executes loaded code outside of any sandbox. So only the owner can write to the folder
//! ([`private_folder`]), and yet the host trusts no file in it. Each entry carries a tag that only
//! holders of a key can make, and the key is elsewhere. The host loads code from the same memory
//! that it authenticated ([`sealed`]). It accepts exactly the entries that it wrote for this
//! component and this engine. It removes any other entry, and compiles the component again.
//!
//! An entry appears whole or not at all, so processes may share a folder.

mod sealed;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::SystemTime,
};

use protostub_files::{OtherWriters, create_partial, private_folder, remove_abandoned, secret_key};
use protostub_types::Sha256Digest;
use wasmtime::component::Component;

use crate::EngineError;
pub(crate) use sealed::{Key, Name};

/// End of the names of entries.
const ENTRY: &str = ".code";

/// The folder, and the key of its entries. All functions block.
pub(crate) struct CodeCache {
    folder: PathBuf,
    key: Key,
    max_bytes: u64,
    writers: OtherWriters,
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl CodeCache {
    /// Opens the folder and the key, and makes them if they are missing. By default the key is next
    /// to the folder.
    ///
    /// # Errors
    /// If other users have access to the folder or the key, or the host cannot use them.
    pub(crate) fn open(folder: &Path, key: Option<&Path>, max_bytes: u64, writers: OtherWriters) -> Result<Self, EngineError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| EngineError::Cache { path, source: source.into() }
        };
        let opened = private_folder(folder, writers).map_err(fail(folder))?;
        let default_path = default_key_path(folder);
        let key_path = key.unwrap_or(&default_path);
        let bytes = secret_key(key_path, &[&opened], writers).map_err(fail(key_path))?;
        if let Err(error) = remove_abandoned(&opened) {
            tracing::debug!(%error, folder = %opened.display(), "could not look for abandoned files");
        }
        let (hits, misses) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Self { folder: opened, key: Key::new(&bytes), max_bytes, writers, hits, misses })
    }

    /// Returns the number of times that code was found, and of times that it was not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// Returns the code of this component for this engine, if the cache has it and it is authentic.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, component: Sha256Digest) -> Option<Component> {
        let name = Name::new(engine, component);
        match self.read(&name).map(|file| file.map(|file| self.key.load(engine, &name, &file))) {
            Ok(Some(Ok(code))) => {
                self.hits.fetch_add(1, Relaxed);
                tracing::debug!(target: "protostub", %component, "the compiled code is in the cache");
                return Some(code);
            }
            Ok(None) => {}
            Ok(Some(Err(problem))) => {
                tracing::warn!(%component, problem, folder = %self.folder.display(), "compiled code in the cache cannot be used and is removed");
                let _ = fs::remove_file(self.path(&name));
            }
            // The entry may be good once the system can read it again.
            Err(problem) => {
                tracing::warn!(%component, problem, folder = %self.folder.display(), "compiled code in the cache cannot be read; compiling the component again");
            }
        }
        self.misses.fetch_add(1, Relaxed);
        None
    }

    /// Keeps compiled code. Logs a failure.
    pub(crate) fn save(&self, engine: &wasmtime::Engine, component: Sha256Digest, code: &Component) {
        let name = Name::new(engine, component);
        let saved = code.serialize().map_err(|error| format!("{error:#}")).and_then(|code| {
            let seal = self.key.seal(&name, &code);
            self.write(&name, [&seal, &code]).map_err(|error| error.to_string())
        });
        match saved {
            Ok(()) => tracing::debug!(target: "protostub", %component, "the compiled code is kept"),
            Err(problem) => {
                tracing::warn!(%component, problem, folder = %self.folder.display(), "compiled code could not be kept");
            }
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{name}{ENTRY}"))
    }

    /// Reads a whole entry, and marks it as used.
    fn read(&self, name: &Name) -> Result<Option<Vec<u8>>, String> {
        let in_words = |error: io::Error| error.to_string();
        let file = match fs::File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(in_words(error)),
        };
        let length = file.metadata().map_err(in_words)?.len();
        if length > self.max_bytes {
            return Err(format!("the entry has {length} bytes, more than the limit of the whole cache"));
        }
        // Fails where files cannot be written to: other processes decide there which entries go
        // first.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(length).read_to_end(&mut bytes).map_err(in_words)?;
        Ok(Some(bytes))
    }

    /// Writes, or replaces, an entry. Removes the oldest entries if there are too many bytes then.
    /// The entry need not survive a crash of the machine: a partial entry is not accepted.
    fn write(&self, name: &Name, parts: [&[u8]; 2]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if length > self.max_bytes {
            return Err(io::Error::other(format!(
                "the code has {length} bytes, more than the {} of `max_cache_bytes`",
                self.max_bytes
            )));
        }
        let mut file = match create_partial(&self.folder) {
            // The folder was removed meanwhile. It is made and checked as at the start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_folder(&self.folder, self.writers)?;
                create_partial(&self.folder)?
            }
            made => made?,
        };
        for part in parts {
            file.write_all(part)?;
        }
        let path = self.path(name);
        file.persist(&path)?;
        self.evict(&path)
    }

    /// Removes the entries that were not used for the longest time, except for `kept`, until the
    /// rest is within the limit.
    fn evict(&self, kept: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // An entry that another process has just removed does not count.
            let Ok(metadata) = entry.metadata() else { continue };
            // No file of another program is removed.
            if metadata.is_file() && entry.file_name().to_string_lossy().ends_with(ENTRY) {
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        entries.sort();
        let mut bytes = entries.iter().map(|(_, length, _)| length).sum::<u64>();
        for (_, length, path) in entries {
            if bytes <= self.max_bytes {
                break;
            }
            if path != kept {
                tracing::debug!(file = %path.display(), "removing compiled code that was not used for long");
                let _ = fs::remove_file(path);
                bytes -= length;
            }
        }
        Ok(())
    }
}

/// Returns `compiled.key` next to `compiled`.
fn default_key_path(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".key");
    folder.with_file_name(name)
}
