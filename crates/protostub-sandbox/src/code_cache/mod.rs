//! Native code on disk, for the next process: compiling a component takes seconds, loading it a millisecond.
//!
//! What is loaded is executed, outside of any sandbox. So the folder is one that only its owner can write to ([`private`]), and yet nothing in it
//! is believed: each entry carries a code that only holders of a key can make, the key lies elsewhere, and what was authenticated is what is
//! loaded, from the same memory ([`sealed`]). Whatever is not exactly what this host wrote for this component and this engine is as good as not
//! there: it is removed, and the component is compiled anew.
//!
//! An entry appears whole or not at all, so processes may share a folder.

mod private;
mod sealed;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use protostub_types::Sha256Digest;
use wasmtime::component::Component;

use crate::EngineError;
pub(crate) use sealed::{Key, Name};

/// What the names of entries end with.
const ENTRY: &str = ".code";
/// What the names of files begin with that are still being written.
const PARTIAL: &str = ".partial-";
/// How old such a file has to be to count as left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder, and the key of what is in it. Everything here blocks.
pub(crate) struct CodeCache {
    folder: PathBuf,
    key: Key,
    max_bytes: u64,
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl CodeCache {
    /// Opens the folder and the key, and makes them if they are not there. The key is beside the folder unless it is said where.
    ///
    /// # Errors
    /// If they are not the user's own alone, or cannot be used.
    pub(crate) fn open(folder: &Path, key: Option<&Path>, max_bytes: u64) -> Result<Self, EngineError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| EngineError::Cache { path, source: source.into() }
        };
        let opened = private::folder(folder).map_err(fail(folder))?;
        let default_path = default_key_path(folder);
        let key_path = key.unwrap_or(&default_path);
        let bytes = private::key(key_path, &opened).map_err(fail(key_path))?;
        let cache =
            Self { folder: opened, key: Key::new(&bytes), max_bytes, hits: AtomicUsize::new(0), misses: AtomicUsize::new(0) };
        if let Err(error) = cache.remove_abandoned(SystemTime::now()) {
            tracing::debug!(%error, folder = %cache.folder.display(), "could not look for abandoned files");
        }
        Ok(cache)
    }

    /// How often code was found, and how often it was not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// The code of this component for this engine, if it is there and authentic.
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
            // It may be as good as before once the system can read it again.
            Err(problem) => {
                tracing::warn!(%component, problem, folder = %self.folder.display(), "compiled code in the cache cannot be read; it is compiled again");
            }
        }
        self.misses.fetch_add(1, Relaxed);
        None
    }

    /// Keeps what was compiled. That it could not be kept is traced.
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

    /// An entry, whole. It counts as used.
    fn read(&self, name: &Name) -> Result<Option<Vec<u8>>, String> {
        let in_words = |error: io::Error| error.to_string();
        let file = match fs::File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(in_words(error)),
        };
        let length = file.metadata().map_err(in_words)?.len();
        if length > self.max_bytes {
            return Err(format!("it has {length} bytes, more than all entries together may have"));
        }
        // Where files cannot be written to, others decide what goes first.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(length).read_to_end(&mut bytes).map_err(in_words)?;
        Ok(Some(bytes))
    }

    /// Writes, or replaces, an entry. The oldest go if there are too many bytes now. It need not survive a crash of the machine: half an entry is
    /// none.
    fn write(&self, name: &Name, parts: [&[u8]; 2]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if length > self.max_bytes {
            return Err(io::Error::other(format!(
                "its {length} bytes are more than the {} of `max_cache_bytes`",
                self.max_bytes
            )));
        }
        let make = || tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.folder);
        let mut file = match make() {
            // It was removed meanwhile, and is made and checked as at the start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private::folder(&self.folder)?;
                make()?
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

    /// Removes what was not used for the longest time until no more bytes are left than may be, but not this.
    fn evict(&self, kept: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // One that another process has just removed counts no more.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !is_partial(&entry) {
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

    fn remove_abandoned(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let age = written.ok().and_then(|time| now.duration_since(time).ok());
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

/// `compiled.key` beside `compiled`.
fn default_key_path(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".key");
    folder.with_file_name(name)
}
