use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protostub_types::{Sha256Digest, StubKey, Version};
use serde::{Deserialize, Serialize};

use crate::{
    StoreError,
    folder::{Folder, Stamp},
};

/// How many stubs are remembered, and how much that may take, in bytes.
const MAX_FILES: usize = 16_384;
const MAX_FOLDER_BYTES: u64 = 4 * 1024 * 1024;
/// How long a file may be, in bytes: a key, a version and a digest.
const MAX_FILE_BYTES: usize = 4096;
/// Of how many stubs is kept in memory what their files say.
const MAX_RECENT: usize = 1024;

/// Which version of a stub was accepted last: see [`Catalogue::commit`](crate::Catalogue::commit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The version that its descriptor stated.
    pub version: Version,
    /// The digest of its component.
    pub digest: Sha256Digest,
    /// Whether it had a good signature: then its successors need one too.
    pub signed: bool,
}

/// What was committed, in the folder `committed`: for each stub a file that is named by the digest of its key.
#[derive(Debug, Clone)]
pub(crate) struct Commits {
    folder: Folder,
    recent: Arc<Mutex<HashMap<StubKey, Recent>>>,
}

/// What a file said when it was read: good for as long as that is the file. Another process that shares the folder may accept a newer version.
#[derive(Debug, Clone)]
struct Recent {
    file: String,
    stamp: Stamp,
    committed: Committed,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// The name of the file is its digest.
    key: String,
    version: String,
    sha256: Sha256Digest,
    #[serde(default)]
    signed: bool,
}

impl Commits {
    pub(crate) fn open(cache_dir: &Path) -> Result<Self, StoreError> {
        let folder = Folder::open(cache_dir.join("committed"), MAX_FILES, MAX_FOLDER_BYTES)?;
        Ok(Self { folder, recent: Arc::default() })
    }

    pub(crate) async fn load(&self, key: &StubKey) -> Option<Committed> {
        if let Some(known) = self.recall(key) {
            return Some(known);
        }
        // What is to be done beside this is begun first: a thread has to be woken.
        tokio::task::yield_now().await;
        let (this, key) = (self.clone(), key.clone());
        tokio::task::spawn_blocking(move || this.read(&key)).await.ok().flatten()
    }

    /// What was read before, if nothing else can have been written since.
    fn recall(&self, key: &StubKey) -> Option<Committed> {
        let Recent { file, stamp, committed } = self.recent().get(key).cloned()?;
        self.folder.is_still(&file, &stamp).then_some(committed)
    }

    fn read(&self, key: &StubKey) -> Option<Committed> {
        let text = text(key);
        let file = file_name(&text);
        let problem = match self.folder.read_stamped(&file, MAX_FILE_BYTES) {
            Ok(None) => return None,
            Ok(Some((bytes, stamp))) => match parse(&bytes, &text) {
                Ok(committed) => {
                    if let Some(stamp) = stamp {
                        self.remember(key, Recent { file, stamp, committed: committed.clone() });
                    }
                    return Some(committed);
                }
                Err(problem) => problem,
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(key = text, problem, "what is remembered of a stub's last version cannot be read and is removed");
        self.folder.remove(&file);
        None
    }

    /// When they are too many, all are forgotten: they are read again.
    fn remember(&self, key: &StubKey, read: Recent) {
        let mut recent = self.recent();
        if recent.len() >= MAX_RECENT {
            recent.clear();
        }
        recent.insert(key.clone(), read);
    }

    fn recent(&self) -> MutexGuard<'_, HashMap<StubKey, Recent>> {
        // Whatever it lacks is in the folder.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn save(&self, key: &StubKey, committed: &Committed) {
        let (folder, key) = (self.folder.clone(), text(key));
        let file = File { key, version: committed.version.to_string(), sha256: committed.digest, signed: committed.signed };
        let write = move || {
            let (name, bytes) = (file_name(&file.key), serde_json::to_vec(&file)?);
            // It is mostly the version that was accepted the last time, too.
            if matches!(folder.read(&name, MAX_FILE_BYTES), Ok(Some(there)) if there == bytes) {
                return Ok(());
            }
            folder.write(&name, &bytes)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, folder = %self.folder.path().display(), "the version of a stub could not be remembered");
            }
            Err(error) => tracing::warn!(%error, "the version of a stub could not be remembered"),
        }
    }
}

/// A key as a text that is no other key's: domains and schemes have no blanks.
fn text(key: &StubKey) -> String {
    let kind = match key {
        StubKey::Domain(_) => "domain",
        StubKey::Legacy { .. } => "legacy",
        _ => "named",
    };
    format!("{kind} {} {}", key.domain(), key.descriptor_name())
}

fn file_name(key: &str) -> String {
    Sha256Digest::of(key.as_bytes()).to_string()
}

fn parse(bytes: &[u8], key: &str) -> Result<Committed, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.key != key {
        return Err("it is of another stub".to_owned());
    }
    Ok(Committed {
        version: Version::parse(&file.version).map_err(|error| error.to_string())?,
        digest: file.sha256,
        signed: file.signed,
    })
}
