use std::path::Path;

use protostub_types::{Sha256Digest, StubKey, Version};
use serde::{Deserialize, Serialize};

use crate::{
    Bounds, StoreError, TrustStateError,
    ledger::{Entry, Ledger, Record},
};

/// The last accepted version of a stub: see [`Catalogue::commit`](crate::Catalogue::commit).
#[expect(clippy::exhaustive_structs, reason = "a caller accepts all of it")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedRelease {
    /// The version in its descriptor.
    pub version: Version,
    /// The digest of its component.
    pub digest: Sha256Digest,
    /// `true` if the version had a valid signature. Then its successors need one too.
    pub signed: bool,
}

/// The accepted versions of stubs: in memory, and with a cache in the folder `committed`.
#[derive(Debug, Clone)]
pub(crate) struct Commits(Ledger<File>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct File {
    /// The stub's key. The name of the file is its digest.
    key: String,
    version: String,
    sha256: Sha256Digest,
    #[serde(default)]
    signed: bool,
}

impl Record for File {
    const WHAT: &'static str = "the accepted version";
    const SETTING: &'static str = "max-accepted-versions";
    /// Holds a key, a version and a digest.
    const MAX_BYTES: usize = 4096;

    fn id(&self) -> &str {
        &self.key
    }

    fn check(&self) -> Result<(), String> {
        Version::parse(&self.version).map(drop).map_err(|_| "the record has no valid version".to_owned())
    }
}

impl File {
    fn new(key: String, committed: &AcceptedRelease) -> Self {
        Self { key, version: committed.version.to_string(), sha256: committed.digest, signed: committed.signed }
    }

    fn committed(&self) -> Option<AcceptedRelease> {
        let version = Version::parse(&self.version).ok()?;
        Some(AcceptedRelease { version, digest: self.sha256, signed: self.signed })
    }
}

impl Commits {
    pub(crate) fn open(cache_dir: Option<&Path>, bounds: Bounds) -> Result<Self, StoreError> {
        Ledger::open(cache_dir.map(|dir| dir.join("committed")).as_deref(), bounds).map(Self)
    }

    pub(crate) async fn load(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        // A record without a valid version was refused when it was read.
        Ok(self.0.load(&entry(key)).await?.and_then(|file| file.committed()))
    }

    /// Stores a version, in place of the one that it was judged by.
    pub(crate) async fn save(
        &self,
        key: &StubKey,
        committed: &AcceptedRelease,
        before: Option<&AcceptedRelease>,
    ) -> Result<(), TrustStateError> {
        let judged = before.map(|before| File::new(text(key), before));
        let may_replace = move |now: Option<&File>| now == judged.as_ref();
        self.0.save(&entry(key), File::new(text(key), committed), may_replace).await
    }

    pub(crate) async fn remove(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.0.remove(&entry(key)).await
    }

    pub(crate) async fn check_room(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.0.check_room(&entry(key)).await
    }
}

fn entry(key: &StubKey) -> Entry {
    Entry::new(text(key), key.domain())
}

/// Returns the unique text of a key. Domains and schemes have no blanks, so blanks separate the
/// parts.
fn text(key: &StubKey) -> String {
    let kind = match key {
        StubKey::Domain(_) => "domain",
        StubKey::Legacy { .. } => "legacy",
        _ => "named",
    };
    format!("{kind} {} {}", key.domain(), key.descriptor_name())
}
