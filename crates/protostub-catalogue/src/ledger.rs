//! Trust state: records that decide whether a stub is deployed. They survive faults, floods and
//! crashes.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use protostub_types::{Domain, Sha256Digest};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Bounds, StoreError,
    folder::{Folder, Name, Stamp},
    seal::Seal,
};

/// Delay before the first retry of a file system operation. It doubles with each further retry.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of retries of a file system operation.
const RETRIES: usize = 4;
/// Bytes that are written to check that the folder accepts a record.
const PROBE: &[u8] = &[b' '; 512];

/// A fault of the trust state: the accepted version of a stub, or the keys that a domain publishes.
/// No stub of the domain is deployed or updated until the fault is mended. Running stubs go on.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrustStateError {
    /// The file system could not read a record, even after retries.
    #[error(
        "failed to read {what} of {domain} from {}: {error}; make the file readable: no stub of the domain is deployed until then",
        path.display()
    )]
    Read {
        /// The kind of record.
        what: &'static str,
        /// The domain that it is of.
        domain: Domain,
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        error: Arc<io::Error>,
    },
    /// The file system could not write a record, even after retries.
    #[error(
        "failed to write {what} of {domain} to {}: {error}; make the folder writable: no other version of the stub is live until then",
        path.display()
    )]
    Write {
        /// The kind of record.
        what: &'static str,
        /// The domain that it is of.
        domain: Domain,
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        error: Arc<io::Error>,
    },
    /// The file exists, and is not such a record.
    #[error(
        "failed to parse {what} of {domain} in {}: {problem}; restore the file from a backup, or remove it to trust the domain's next version",
        path.display()
    )]
    Damaged {
        /// The kind of record.
        what: &'static str,
        /// The domain that it should be of.
        domain: Domain,
        /// The file.
        path: PathBuf,
        /// The fault in the file.
        problem: String,
    },
    /// The limit of records is reached. A record of this domain cannot replace another domain's.
    #[error("failed to keep {what} of {domain}: the limit of {limit} records is reached; raise `{setting}`")]
    Full {
        /// The kind of record.
        what: &'static str,
        /// The domain that it is of.
        domain: Domain,
        /// The maximum number of records.
        limit: usize,
        /// The key of the limit in a settings file.
        setting: &'static str,
    },
    /// The present record is not the one by which the deployment was judged.
    #[error(
        "failed to write {what} of {domain}: another process or deployment has changed the record meanwhile; deploy the stub again"
    )]
    Changed {
        /// The kind of record.
        what: &'static str,
        /// The domain that it is of.
        domain: Domain,
    },
}

impl TrustStateError {
    /// Returns `true` if a retry may succeed.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }
}

/// A kind of trust state.
pub(crate) trait Record: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the kind, for errors.
    const WHAT: &'static str;
    /// Settings key of the maximum number of records.
    const SETTING: &'static str;
    /// Maximum size of a file, in bytes.
    const MAX_BYTES: usize;

    /// Returns the text that identifies the record. The name of the file is its digest.
    fn id(&self) -> &str;

    /// Checks a record that was read. The error states the fault.
    fn check(&self) -> Result<(), String>;
}

/// The key of a record in a [`Ledger`]: the text that identifies the record, and its domain.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    id: String,
    domain: Domain,
    /// The registrable domain that the record counts for.
    owner: String,
}

impl Entry {
    pub(crate) fn new(id: String, domain: &Domain) -> Self {
        Self { id, domain: domain.clone(), owner: domain.registrable() }
    }

    fn name(&self) -> Name {
        Name::new(Sha256Digest::of(self.id.as_bytes()), &self.owner)
    }
}

/// Records of one kind: in memory and, with a folder, in one file each. Any number of processes may
/// share the folder.
///
/// A record is replaced only by another one of the same registrable domain. Faults of the file
/// system are errors after a few retries. A record that cannot be read is never taken for a missing
/// one, and never removed for that.
#[derive(Debug, Clone)]
pub(crate) struct Ledger<R> {
    inner: Arc<LedgerInner<R>>,
}

#[derive(Debug)]
struct LedgerInner<R> {
    folder: Option<Folder>,
    bounds: Bounds,
    known: Mutex<Known<R>>,
    /// Held while a new file gets its name, so that every file is counted.
    placing: Mutex<()>,
}

/// The records in memory, by the registrable domain that they count for.
#[derive(Debug)]
struct Known<R> {
    owners: HashMap<String, HashMap<String, RecordInMemory<R>>>,
    count: usize,
    /// Number of uses so far.
    uses: u64,
}

#[derive(Debug)]
struct RecordInMemory<R> {
    record: R,
    /// The stamp of the file that the record was read from. `None` if the file is unknown.
    stamp: Option<Stamp>,
    last_use: u64,
}

impl<R: Record> Ledger<R> {
    /// Opens a ledger: with a folder, whose files the seal authenticates, or only in memory.
    pub(crate) fn open(folder: Option<(PathBuf, Seal)>, bounds: Bounds) -> Result<Self, StoreError> {
        let open = |(path, seal): (PathBuf, Seal)| {
            let writers = seal.writers();
            Folder::open(path, Some(seal), writers)
        };
        let folder = folder.map(open).transpose()?;
        let known = Mutex::new(Known { owners: HashMap::new(), count: 0, uses: 0 });
        Ok(Self { inner: Arc::new(LedgerInner { folder, bounds, known, placing: Mutex::default() }) })
    }

    /// Adopts the records of earlier releases, which have no tags, or removes them.
    pub(crate) fn adopt(&self, keep: bool) -> Result<(), StoreError> {
        self.inner.folder.as_ref().map_or(Ok(()), |folder| folder.adopt(keep, R::MAX_BYTES))
    }

    /// Returns the record of this entry, if it exists.
    pub(crate) async fn load(&self, entry: &Entry) -> Result<Option<R>, TrustStateError> {
        let Some(folder) = &self.inner.folder else { return Ok(self.inner.known().get(entry).map(|(record, _)| record)) };
        let known = self.inner.known().get(entry);
        if let Some((record, Some(stamp))) = known
            && folder.is_still(&entry.name(), &stamp)
        {
            return Ok(Some(record));
        }
        // Yields first, since reading wakes a thread: the caller's other work can begin meanwhile.
        tokio::task::yield_now().await;
        self.with_folder(entry, folder, LedgerInner::read).await
    }

    /// Returns `false` if there is no folder, or if the folder has no file of this entry. A folder
    /// that cannot be read may have one. This takes no thread, unlike [`Self::load`].
    pub(crate) fn may_have(&self, entry: &Entry) -> bool {
        self.inner.folder.as_ref().is_some_and(|folder| !matches!(folder.has(&entry.name()), Ok(false)))
    }

    /// Stores a record, in place of the entry's present one. The record is durable afterwards.
    ///
    /// # Errors
    /// If the record cannot be written, there is no room for it, or the present record is not one
    /// that it `may_replace`.
    pub(crate) async fn save(
        &self,
        entry: &Entry,
        record: R,
        may_replace: impl Fn(Option<&R>) -> bool + Clone + Send + 'static,
    ) -> Result<(), TrustStateError> {
        match &self.inner.folder {
            None => self.inner.keep(entry, record, &may_replace),
            Some(folder) => {
                let write = move |inner: &LedgerInner<R>, folder: &Folder, entry: &Entry| {
                    inner.write(folder, entry, &record, &may_replace)
                };
                self.with_folder(entry, folder, write).await
            }
        }
    }

    /// Stores a record in memory only, and removes its file.
    pub(crate) async fn hold(&self, entry: &Entry, record: R) -> Result<(), TrustStateError> {
        if let Some(folder) = &self.inner.folder {
            self.with_folder(entry, folder, LedgerInner::erase).await?;
        }
        self.inner.keep(entry, record, &|_| true)
    }

    /// Removes the record of an entry.
    pub(crate) async fn remove(&self, entry: &Entry) -> Result<(), TrustStateError> {
        if let Some(folder) = &self.inner.folder {
            self.with_folder(entry, folder, LedgerInner::erase).await?;
        }
        // A reader could take the record from the file until the file was gone.
        self.inner.known().remove(entry);
        Ok(())
    }

    /// Checks if a record of this entry could be stored now.
    pub(crate) async fn check_room(&self, entry: &Entry) -> Result<(), TrustStateError> {
        match &self.inner.folder {
            None if self.inner.known().has_room(entry, self.inner.bounds) => Ok(()),
            None => Err(self.inner.full(entry)),
            Some(folder) => self.with_folder(entry, folder, LedgerInner::probe).await,
        }
    }

    /// Runs a blocking job, with a few retries if the file system fails.
    async fn with_folder<T: Send + 'static>(
        &self,
        entry: &Entry,
        folder: &Folder,
        job: impl Fn(&LedgerInner<R>, &Folder, &Entry) -> Result<T, TrustStateError> + Clone + Send + 'static,
    ) -> Result<T, TrustStateError> {
        let attempt = || async {
            let (inner, folder, entry, job) = (Arc::clone(&self.inner), folder.clone(), entry.clone(), job.clone());
            let path = folder.path_of(&entry.name());
            let domain = entry.domain.clone();
            let outcome = tokio::task::spawn_blocking(move || job(&inner, &folder, &entry)).await;
            outcome.unwrap_or_else(|error| {
                let error = Arc::new(io::Error::other(error));
                Err(TrustStateError::Read { what: R::WHAT, domain, path, error })
            })
        };
        let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_times(RETRIES);
        let notify = |error: &TrustStateError, _pause| tracing::debug!(%error, "retrying an operation on the trust state");
        attempt.retry(pauses).when(TrustStateError::may_pass).notify(notify).await
    }
}

impl<R: Record> LedgerInner<R> {
    fn known(&self) -> MutexGuard<'_, Known<R>> {
        // A poisoned lock is safe: each change is complete before the lock is released, and the
        // records themselves are always complete.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, folder: &Folder, entry: &Entry) -> Result<Option<R>, TrustStateError> {
        let name = entry.name();
        let path = || folder.path_of(&name);
        let unreadable = |error: io::Error| {
            let (what, domain, path) = (R::WHAT, entry.domain.clone(), path());
            if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData) {
                return TrustStateError::Damaged { what, domain, path, problem: error.to_string() };
            }
            TrustStateError::Read { what, domain, path, error: Arc::new(error) }
        };
        let Some((bytes, stamp)) = folder.read_stamped(&name, R::MAX_BYTES).map_err(unreadable)? else {
            // A link to a missing file does not count as a missing record.
            if folder.has(&name).map_err(unreadable)? && folder.read_stamped(&name, R::MAX_BYTES).map_err(unreadable)?.is_none() {
                return Err(unreadable(io::Error::other("the file is a link to a missing file")));
            }
            return Ok(self.known().get(entry).map(|(record, _)| record));
        };
        let record = parse::<R>(&bytes, &entry.id).map_err(|problem| {
            let (what, domain) = (R::WHAT, entry.domain.clone());
            TrustStateError::Damaged { what, domain, path: path(), problem }
        })?;
        // If memory has no room for the record, the next use reads the file again.
        let _ = self.known().put(entry, record.clone(), stamp, self.bounds);
        Ok(Some(record))
    }

    fn write(
        &self,
        folder: &Folder,
        entry: &Entry,
        record: &R,
        may_replace: &dyn Fn(Option<&R>) -> bool,
    ) -> Result<(), TrustStateError> {
        let name = entry.name();
        let unwritable = |error| Self::unwritable(folder, entry, error);
        let is_there = |now: Option<&R>| Ok(now == Some(record) && folder.has(&name).map_err(unwritable)?);
        if !is_there(self.read(folder, entry)?.as_ref())? {
            let bytes = serde_json::to_vec(record).map_err(|error| unwritable(error.into()))?;
            // Writing takes longest, so it happens before the lock is taken.
            let staged = folder.stage(&name, &bytes).map_err(unwritable)?;
            let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.read(folder, entry)?;
            if !is_there(now.as_ref())? {
                if now.as_ref() != Some(record) && !may_replace(now.as_ref()) {
                    return Err(TrustStateError::Changed { what: R::WHAT, domain: entry.domain.clone() });
                }
                for path in self.in_the_way(folder, entry)? {
                    tracing::info!(domain = %entry.domain, file = %path.display(), "the domain has too many records; removing the oldest one");
                    std::fs::remove_file(path).map_err(unwritable)?;
                }
                folder.place(staged, &name).map_err(unwritable)?;
            }
        }
        // Syncs also after an earlier attempt that failed here.
        folder.sync().map_err(unwritable)?;
        let _ = self.known().put(entry, record.clone(), None, self.bounds);
        Ok(())
    }

    /// Returns the files of the same registrable domain that must be removed for this entry's file.
    fn in_the_way(&self, folder: &Folder, entry: &Entry) -> Result<Vec<PathBuf>, TrustStateError> {
        let unwritable = |error| Self::unwritable(folder, entry, error);
        if folder.has(&entry.name()).map_err(unwritable)? {
            return Ok(Vec::new());
        }
        let (all, mut own) = folder.beside(&entry.name()).map_err(unwritable)?;
        own.truncate((own.len() + 1).saturating_sub(self.bounds.per_domain));
        if all - own.len() >= self.bounds.total { Err(self.full(entry)) } else { Ok(own) }
    }

    fn erase(&self, folder: &Folder, entry: &Entry) -> Result<(), TrustStateError> {
        folder.remove(&entry.name()).map_err(|error| Self::unwritable(folder, entry, error))
    }

    fn probe(&self, folder: &Folder, entry: &Entry) -> Result<(), TrustStateError> {
        self.in_the_way(folder, entry)?;
        folder.draft(PROBE).map(drop).map_err(|error| Self::unwritable(folder, entry, error))
    }

    fn keep(&self, entry: &Entry, record: R, may_replace: &dyn Fn(Option<&R>) -> bool) -> Result<(), TrustStateError> {
        let mut known = self.known();
        let now = known.get(entry).map(|(record, _)| record);
        if now.as_ref() != Some(&record) && !may_replace(now.as_ref()) {
            return Err(TrustStateError::Changed { what: R::WHAT, domain: entry.domain.clone() });
        }
        if known.put(entry, record, None, self.bounds) { Ok(()) } else { Err(self.full(entry)) }
    }

    fn full(&self, entry: &Entry) -> TrustStateError {
        let (what, domain, limit, setting) = (R::WHAT, entry.domain.clone(), self.bounds.total, R::SETTING);
        TrustStateError::Full { what, domain, limit, setting }
    }

    fn unwritable(folder: &Folder, entry: &Entry, error: io::Error) -> TrustStateError {
        let (domain, path) = (entry.domain.clone(), folder.path_of(&entry.name()));
        TrustStateError::Write { what: R::WHAT, domain, path, error: Arc::new(error) }
    }
}

impl<R: Record> Known<R> {
    fn get(&mut self, entry: &Entry) -> Option<(R, Option<Stamp>)> {
        self.uses += 1;
        let held = self.owners.get_mut(&entry.owner)?.get_mut(&entry.id)?;
        held.last_use = self.uses;
        Some((held.record.clone(), held.stamp.clone()))
    }

    fn has_room(&self, entry: &Entry, bounds: Bounds) -> bool {
        let own = self.owners.get(&entry.owner);
        own.is_some_and(|own| own.contains_key(&entry.id) || own.len() >= bounds.per_domain.max(1)) || self.count < bounds.total
    }

    /// Stores a record. If the registrable domain has too many, replaces its record that was not
    /// used for the longest time. Returns `false` if there is no room.
    fn put(&mut self, entry: &Entry, record: R, stamp: Option<Stamp>, bounds: Bounds) -> bool {
        if !self.has_room(entry, bounds) {
            return false;
        }
        self.uses += 1;
        let own = self.owners.entry(entry.owner.clone()).or_default();
        if !own.contains_key(&entry.id) && own.len() >= bounds.per_domain.max(1) {
            let oldest = own.iter().min_by_key(|(_, held)| held.last_use).map(|(id, _)| id.clone());
            self.count -= usize::from(oldest.is_some_and(|oldest| own.remove(&oldest).is_some()));
        }
        let before = own.insert(entry.id.clone(), RecordInMemory { record, stamp, last_use: self.uses });
        self.count += usize::from(before.is_none());
        true
    }

    fn remove(&mut self, entry: &Entry) {
        let Some(own) = self.owners.get_mut(&entry.owner) else { return };
        self.count -= usize::from(own.remove(&entry.id).is_some());
        if own.is_empty() {
            self.owners.remove(&entry.owner);
        }
    }
}

fn parse<R: Record>(bytes: &[u8], id: &str) -> Result<R, String> {
    // Reports only the position of the fault: parts of the file may be a stranger's.
    let record: R = serde_json::from_slice(bytes)
        .map_err(|error| format!("the file is cut off or changed at line {}, column {}", error.line(), error.column()))?;
    if record.id() != id {
        return Err("the record is of another stub or domain".to_owned());
    }
    record.check()?;
    Ok(record)
}
