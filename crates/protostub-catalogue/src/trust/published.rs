use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use protostub_types::{Domain, Sha256Digest};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{StoreError, folder::Folder};

/// How many key sets are kept, and how much they may be together, in bytes.
const MAX_FILES: usize = 1024;
const MAX_FOLDER_BYTES: u64 = 16 * 1024 * 1024;
/// How long a key set may be, in bytes.
pub(crate) const MAX_SET_BYTES: usize = 64 * 1024;
/// How many key sets are remembered without a folder.
const MAX_REMEMBERED: usize = 1024;

/// The key sets that domains have published, in memory and, with a folder, for the next process.
#[derive(Debug)]
pub(crate) struct Published {
    folder: Option<Folder>,
    sets: Mutex<HashMap<Url, Arc<KeySet>>>,
}

/// A key set, as it was when it was last asked for. The file is this, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeySet {
    /// What was asked: the name of the file is its digest.
    asked: String,
    /// In seconds since the Unix epoch.
    confirmed: u64,
    keep_seconds: u64,
    /// As it came.
    pub(crate) json: String,
}

/// Where a domain publishes its keys.
pub(crate) fn url(scheme: &str, publisher: &Domain) -> Option<Url> {
    Url::parse(&format!("{scheme}://{publisher}/.well-known/protostub-jwks.json")).ok()
}

impl KeySet {
    pub(crate) fn new(asked: &Url, json: String, keep: Duration) -> Self {
        let confirmed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { asked: asked.to_string(), confirmed, keep_seconds: keep.as_secs(), json }
    }

    /// How long ago the domain confirmed it. None if the clock was set back since.
    pub(crate) fn age(&self) -> Option<Duration> {
        let confirmed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.confirmed))?;
        SystemTime::now().duration_since(confirmed).ok()
    }

    /// Whether the domain need not be asked again.
    pub(crate) fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < Duration::from_secs(self.keep_seconds))
    }
}

impl Published {
    pub(crate) fn open(cache_dir: Option<&Path>) -> Result<Self, StoreError> {
        let folder = cache_dir.map(|dir| Folder::open(dir.join("keys"), MAX_FILES, MAX_FOLDER_BYTES)).transpose()?;
        Ok(Self { folder, sets: Mutex::default() })
    }

    pub(crate) async fn load(&self, asked: &Url) -> Option<Arc<KeySet>> {
        let known = self.sets.lock().unwrap_or_else(PoisonError::into_inner).get(asked).cloned();
        if known.is_some() {
            return known;
        }
        let (folder, url) = (self.folder.clone()?, asked.clone());
        let read = move || {
            let bytes = folder.read(&file_name(&url), 2 * MAX_SET_BYTES).ok()??;
            let set: KeySet = serde_json::from_slice(&bytes).ok()?;
            (set.asked == url.as_str()).then_some(set)
        };
        let set = Arc::new(tokio::task::spawn_blocking(read).await.ok()??);
        self.remember(asked, Arc::clone(&set));
        Some(set)
    }

    /// Keeps it for this process, and if `stored`, for the next one.
    pub(crate) async fn save(&self, asked: &Url, set: KeySet, stored: bool) {
        self.remember(asked, Arc::new(set.clone()));
        let Some(folder) = self.folder.clone().filter(|_| stored) else { return };
        let name = file_name(asked);
        let write = move || folder.write(&name, &serde_json::to_vec(&set)?);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the keys of a domain could not be kept"),
            Err(error) => tracing::warn!(%error, "the keys of a domain could not be kept"),
        }
    }

    /// The domain publishes none any more.
    pub(crate) async fn remove(&self, asked: &Url) {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).remove(asked);
        let Some(folder) = self.folder.clone() else { return };
        let name = file_name(asked);
        let _ = tokio::task::spawn_blocking(move || folder.remove(&name)).await;
    }

    fn remember(&self, asked: &Url, set: Arc<KeySet>) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MAX_REMEMBERED && !sets.contains_key(asked) {
            sets.clear();
        }
        sets.insert(asked.clone(), set);
    }
}

fn file_name(asked: &Url) -> String {
    Sha256Digest::of(asked.as_str().as_bytes()).to_string()
}
