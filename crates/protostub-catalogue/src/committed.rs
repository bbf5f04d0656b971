use std::path::Path;

use protostub_types::{Sha256Digest, StubKey, Version};
use serde::{Deserialize, Serialize};

use crate::{StoreError, folder::Folder};

/// How many stubs are remembered, and how much that may take, in bytes.
const MAX_FILES: usize = 16_384;
const MAX_FOLDER_BYTES: u64 = 4 * 1024 * 1024;
/// How long a file may be, in bytes: a key, a version and a digest.
const MAX_FILE_BYTES: usize = 4096;

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
        Ok(Self { folder: Folder::open(cache_dir.join("committed"), MAX_FILES, MAX_FOLDER_BYTES)? })
    }

    pub(crate) async fn load(&self, key: &StubKey) -> Option<Committed> {
        let (folder, key) = (self.folder.clone(), text(key));
        let read = move || {
            let name = file_name(&key);
            let problem = match folder.read(&name, MAX_FILE_BYTES) {
                Ok(None) => return None,
                Ok(Some(bytes)) => match parse(&bytes, &key) {
                    Ok(committed) => return Some(committed),
                    Err(problem) => problem,
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!(key, problem, "what is remembered of a stub's last version cannot be read and is removed");
            folder.remove(&name);
            None
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
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
