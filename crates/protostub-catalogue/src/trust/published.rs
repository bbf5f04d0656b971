use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use protostub_types::Domain;
use serde::{Deserialize, Serialize};
use url::Url;

use super::PublicKey;
use crate::{
    Bounds, StoreError, TrustStateError,
    https::MAX_KEPT,
    ledger::{Entry, Ledger, Record},
    seal::Seal,
};

/// Name of the folder, and of the kind of its files.
pub(crate) const KEYS: &str = "keys";

/// Maximum size of a key set, in bytes.
pub(crate) const MAX_SET_BYTES: usize = 64 * 1024;

/// The key sets that domains have published: in memory, and with a cache in the folder `keys`.
#[derive(Debug)]
pub(crate) struct Published(Ledger<KeySet>);

/// A key set, as the domain last published it. The file holds this as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeySet {
    /// The URL that was asked. The name of the file is its digest.
    asked: String,
    /// In seconds since the Unix epoch.
    confirmed: u64,
    keep_seconds: u64,
    /// The key set's JSON, verbatim.
    pub(crate) json: String,
}

/// Returns the URL at which a domain publishes its keys.
pub(crate) fn url(scheme: &str, publisher: &Domain) -> Option<Url> {
    Url::parse(&format!("{scheme}://{publisher}/.well-known/protostub-jwks.json")).ok()
}

impl KeySet {
    pub(crate) fn new(asked: &Url, json: String, keep: Duration) -> Self {
        let confirmed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { asked: asked.to_string(), confirmed, keep_seconds: keep.as_secs(), json }
    }

    /// Returns the time since the domain confirmed the set. Returns `None` if the clock was set
    /// back since.
    pub(crate) fn age(&self) -> Option<Duration> {
        let confirmed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.confirmed))?;
        SystemTime::now().duration_since(confirmed).ok()
    }

    /// Returns `true` if the domain need not be asked again.
    pub(crate) fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < Duration::from_secs(self.keep_seconds).min(MAX_KEPT))
    }
}

impl Record for KeySet {
    const WHAT: &'static str = "the published keys";
    const SETTING: &'static str = "max-key-sets";
    /// Twice the limit of a set, since its quotation marks are escaped.
    const MAX_BYTES: usize = 2 * MAX_SET_BYTES;

    fn id(&self) -> &str {
        &self.asked
    }

    fn check(&self) -> Result<(), String> {
        PublicKey::read_set(self.json.as_bytes()).map(drop).map_err(|_| "the record has no key set".to_owned())
    }
}

impl Published {
    pub(crate) fn open(cache: Option<(&Path, &Seal)>, bounds: Bounds) -> Result<Self, StoreError> {
        Ledger::open(cache.map(|(dir, seal)| (dir.join(KEYS), seal.of(KEYS))), bounds).map(Self)
    }

    /// Removes the sets of earlier releases, which have no tags. The domains are asked again.
    pub(crate) fn remove_earlier(&self) -> Result<(), StoreError> {
        self.0.adopt(false)
    }

    pub(crate) async fn load(&self, asked: &Url, publisher: &Domain) -> Result<Option<KeySet>, TrustStateError> {
        self.0.load(&entry(asked, publisher)).await
    }

    /// Stores a set for this process and the next one, in place of any other: the last answer
    /// counts.
    pub(crate) async fn save(&self, asked: &Url, publisher: &Domain, set: KeySet) -> Result<(), TrustStateError> {
        self.0.save(&entry(asked, publisher), set, |_| true).await
    }

    /// Stores a set for this process only, in place of any other: the last answer counts.
    pub(crate) async fn hold(&self, asked: &Url, publisher: &Domain, set: KeySet) -> Result<(), TrustStateError> {
        self.0.hold(&entry(asked, publisher), set).await
    }

    /// Removes the key set of a domain that no longer publishes one.
    pub(crate) async fn remove(&self, asked: &Url, publisher: &Domain) -> Result<(), TrustStateError> {
        self.0.remove(&entry(asked, publisher)).await
    }
}

fn entry(asked: &Url, publisher: &Domain) -> Entry {
    Entry::new(asked.to_string(), publisher)
}
