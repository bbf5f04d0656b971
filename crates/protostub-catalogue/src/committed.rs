use std::path::Path;

use protostub_types::{Sha256Digest, StubKey, Version};
use serde::{Deserialize, Serialize};

use crate::{
    Bounds, StoreError, TrustStateError,
    ledger::{Entry, Ledger, Record},
    seal::Seal,
};

/// Name of the folder, and of the kind of its files.
pub(crate) const COMMITTED: &str = "committed";

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
    pub(crate) fn open(cache: Option<(&Path, &Seal)>, bounds: Bounds) -> Result<Self, StoreError> {
        Ledger::open(cache.map(|(dir, seal)| (dir.join(COMMITTED), seal.of(COMMITTED))), bounds).map(Self)
    }

    /// Adopts the versions of earlier releases, which have no tags. A planted one can only refuse.
    pub(crate) fn adopt_earlier(&self) -> Result<(), StoreError> {
        self.0.adopt(true)
    }

    pub(crate) async fn load(&self, key: &StubKey) -> Result<Option<AcceptedRelease>, TrustStateError> {
        let accepted = self.load_one(&entry(key)).await?;
        Ok(stricter(accepted, self.load_former(key).await?.map(|(_, accepted)| accepted)))
    }

    async fn load_one(&self, entry: &Entry) -> Result<Option<AcceptedRelease>, TrustStateError> {
        // A record without a valid version was refused when it was read.
        Ok(self.0.load(entry).await?.and_then(|file| file.committed()))
    }

    /// Returns the version that an earlier release accepted for the same stub, when the text of its
    /// domain had the port 443.
    async fn load_former(&self, key: &StubKey) -> Result<Option<(Entry, AcceptedRelease)>, TrustStateError> {
        let Some(entry) = former_entry(key).filter(|entry| self.0.may_have(entry)) else { return Ok(None) };
        Ok(self.load_one(&entry).await?.map(|accepted| (entry, accepted)))
    }

    /// Stores a version, in place of the one that it was judged by. Removes the record of the
    /// domain's former spelling, which the version was judged by, too.
    pub(crate) async fn save(
        &self,
        key: &StubKey,
        committed: &AcceptedRelease,
        before: Option<&AcceptedRelease>,
    ) -> Result<(), TrustStateError> {
        let former = self.load_former(key).await?;
        let (judged, accepted) = (before.cloned(), former.as_ref().map(|(_, accepted)| accepted.clone()));
        let may_replace = move |now: Option<&File>| stricter(now.and_then(File::committed), accepted.clone()) == judged;
        self.0.save(&entry(key), File::new(text(key, key.domain().as_str()), committed), may_replace).await?;
        match former {
            Some((entry, _)) => self.0.remove(&entry).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn remove(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.0.remove(&entry(key)).await
    }

    pub(crate) async fn check_room(&self, key: &StubKey) -> Result<(), TrustStateError> {
        self.0.check_room(&entry(key)).await
    }
}

/// Returns a record that refuses what either of the two refuses: the newer version, with a
/// signature if one of them has a signature.
fn stricter(one: Option<AcceptedRelease>, other: Option<AcceptedRelease>) -> Option<AcceptedRelease> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let signed = one.signed || other.signed;
            let newer = if other.version > one.version { other } else { one };
            Some(AcceptedRelease { signed, ..newer })
        }
        (one, other) => one.or(other),
    }
}

fn entry(key: &StubKey) -> Entry {
    Entry::new(text(key, key.domain().as_str()), key.domain())
}

/// Returns the entry that earlier releases used if the domain was written with the port 443. Such a
/// domain has no port today.
fn former_entry(key: &StubKey) -> Option<Entry> {
    let domain = key.domain();
    domain.port().is_none().then(|| Entry::new(text(key, &format!("{domain}:443")), domain))
}

/// Returns the unique text of a key whose domain is written like this. Domains and schemes have no
/// blanks, so blanks separate the parts.
fn text(key: &StubKey, domain: &str) -> String {
    let kind = match key {
        StubKey::Domain(_) => "domain",
        StubKey::Legacy { .. } => "legacy",
        _ => "named",
    };
    format!("{kind} {domain} {}", key.descriptor_name())
}
