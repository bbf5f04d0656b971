use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use protostub_types::{Descriptor, Domain, Sha256Digest};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    StoreError,
    folder::{Name, Pool},
    https::MAX_KEPT,
    seal::Seal,
    source::Validators,
};

/// Name of the folder, and of the kind of its files.
pub(crate) const DESCRIPTORS: &str = "descriptors";

/// Maximum number of descriptors in the folder, and their maximum size together, in bytes.
const MAX_FILES: usize = 16_384;
const MAX_FOLDER_BYTES: u64 = 64 * 1024 * 1024;
/// Time for which confirmations are not written to disk, for a descriptor that must be confirmed
/// each time. Its recorded age is exact to this time.
const CONFIRMED_RECENTLY: Duration = Duration::from_secs(60);

/// Maximum number of URLs whose copies are kept in memory, and their maximum size together, in
/// bytes.
const MAX_RECENT: usize = 1024;
const MAX_RECENT_BYTES: usize = 4 * 1024 * 1024;

/// Maximum length of the first line of a file, in bytes. It holds URLs and validators.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Copies of descriptors in the folder `descriptors`. Each is in a file that is named by the digest
/// of its URL: a line of JSON about the copy, then the descriptor, verbatim. Copies are trusted,
/// unlike components, so a key authenticates each file.
#[derive(Clone)]
pub(crate) struct Copies {
    pool: Pool,
    max_descriptor_bytes: usize,
    recent: Arc<Mutex<Recent>>,
}

/// The copies that were read or written last, by URL. Another process that shares the folder may
/// have newer ones. So this state is used only to ask if a copy is still current, and for a copy
/// that need not be confirmed yet.
#[derive(Default)]
struct Recent {
    by_url: HashMap<Url, Option<Copy>>,
    /// Size of the descriptors, in bytes.
    bytes: usize,
}

/// The known state of the descriptor at a URL.
#[derive(Clone)]
pub(crate) enum Copy {
    /// The last descriptor that the domain sent or confirmed.
    Kept(Arc<Kept>),
    /// The domain had a descriptor, and withdrew it.
    Withdrawn,
}

/// A descriptor that the domain has sent before.
#[derive(Clone)]
pub(crate) struct Kept {
    /// The descriptor's JSON, verbatim.
    pub(crate) json: Bytes,
    /// The parsed descriptor.
    pub(crate) descriptor: Descriptor,
    /// The URL that it came from, after redirects.
    pub(crate) url: Url,
    pub(crate) validators: Validators,
    /// Time when the domain last sent or confirmed the descriptor.
    pub(crate) confirmed: SystemTime,
    /// Time from then on for which it may be used without asking.
    pub(crate) keep: Duration,
    /// The digest of the code that came with the descriptor, if the descriptor states none.
    pub(crate) component: Option<Sha256Digest>,
}

impl Copy {
    /// Returns the copy, or `None` if it was withdrawn.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Kept(kept) => Some(kept),
            Self::Withdrawn => None,
        }
    }
}

impl Kept {
    /// Returns the time since the domain confirmed the copy. Returns `None` if the clock was set
    /// back since.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.confirmed).ok()
    }

    /// Returns `true` if `other` is the same copy, confirmed only a moment later.
    pub(crate) fn is_as_good_as(&self, other: &Self) -> bool {
        let passed = other.confirmed.duration_since(self.confirmed);
        self.keep.is_zero()
            && other.keep.is_zero()
            && passed.is_ok_and(|passed| passed < CONFIRMED_RECENTLY)
            && (&self.json, &self.url, &self.validators, self.component)
                == (&other.json, &other.url, &other.validators, other.component)
    }

    /// Returns the time since the domain confirmed the copy, if the domain need not be asked yet.
    /// Returns `None` if the clock was set back since: the domain must be asked.
    pub(crate) fn fresh(&self, now: SystemTime) -> Option<Duration> {
        self.age(now).filter(|age| *age < self.keep)
    }
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct FileHeader {
    /// The URL that was asked. The name of the file is its digest.
    asked: String,
    /// `None` if the descriptor was withdrawn.
    copy: Option<CopyHeader>,
}

#[derive(Serialize, Deserialize)]
struct CopyHeader {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    /// In seconds since the Unix epoch.
    confirmed: u64,
    keep_seconds: u64,
    /// The digest of the rest of the file, after the line.
    sha256: Sha256Digest,
    component: Option<Sha256Digest>,
}

impl Copies {
    pub(crate) fn open(cache_dir: &Path, seal: &Seal, max_descriptor_bytes: usize) -> Result<Self, StoreError> {
        let (seal, writers) = (seal.of(DESCRIPTORS), seal.writers());
        let pool = Pool::open(cache_dir.join(DESCRIPTORS), MAX_FILES, MAX_FOLDER_BYTES, Some(seal), writers)?;
        Ok(Self { pool, max_descriptor_bytes, recent: Arc::default() })
    }

    /// Returns the copies of these URLs that this process knows.
    pub(crate) async fn recall(&self, asked: &[Url]) -> Vec<Option<Copy>> {
        let recalled = {
            let recent = self.recent();
            asked.iter().map(|asked| recent.by_url.get(asked).cloned()).collect::<Option<Vec<_>>>()
        };
        match recalled {
            Some(known) => known,
            None => self.load(asked).await,
        }
    }

    /// Reads the copies of these URLs. A file that cannot be read or used counts as no copy, and
    /// stays until it is replaced.
    pub(crate) async fn load(&self, asked: &[Url]) -> Vec<Option<Copy>> {
        let (this, asked) = (self.clone(), asked.to_vec());
        let read = move || {
            let read = |asked: &Url| {
                let copy = this.read(asked);
                this.recent().put(asked, copy.clone());
                copy
            };
            asked.iter().map(read).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    async fn load_one(&self, asked: &Url) -> Option<Copy> {
        self.load(std::slice::from_ref(asked)).await.pop().flatten()
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // A poisoned lock is safe: the folder has everything that this state lacks.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, asked: &Url) -> Option<Copy> {
        let problem = match self.pool.folder().read(&name(asked), self.max_descriptor_bytes.saturating_add(MAX_HEADER_BYTES)) {
            Ok(None) => return None,
            Ok(Some(file)) => match parse(Bytes::from(file), asked) {
                Ok(copy) => return Some(copy),
                Err(problem) => problem,
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(url = %asked, problem, "the copy of the descriptor cannot be used; asking the domain for the descriptor");
        None
    }

    /// Returns `true` if any of these URLs has a copy, even an unusable or withdrawn one: then the
    /// domain has served a descriptor.
    ///
    /// # Errors
    /// If the folder cannot be read. The error names the file.
    pub(crate) async fn any(&self, asked: &[Url]) -> Result<bool, (PathBuf, io::Error)> {
        let (pool, names) = (self.pool.clone(), asked.iter().map(name).collect::<Vec<_>>());
        let look = move || {
            for name in &names {
                if pool.folder().has(name).map_err(|error| (pool.folder().path_of(name), error))? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let lost = |error| Err((self.pool.folder().path().to_owned(), io::Error::other(error)));
        tokio::task::spawn_blocking(look).await.unwrap_or_else(lost)
    }

    /// Stores a copy in place of the present one. A failure is only logged.
    pub(crate) async fn save(&self, asked: &Url, kept: &Kept) {
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let copy = CopyHeader {
            url: kept.url.to_string(),
            etag: kept.validators.etag.clone(),
            last_modified: kept.validators.last_modified.clone(),
            confirmed: seconds(kept.confirmed),
            keep_seconds: kept.keep.as_secs(),
            sha256: Sha256Digest::of(&kept.json),
            component: kept.component,
        };
        if self.write(asked, Some(copy), kept.json.clone()).await {
            self.recent().put(asked, Some(Copy::Kept(Arc::new(kept.clone()))));
        }
    }

    /// Remembers the digest of the code that came with a descriptor without a digest, as long as
    /// the descriptor is unchanged.
    pub(crate) async fn came_with(&self, asked: &Url, descriptor: &Descriptor, component: Sha256Digest) {
        if let Some(Copy::Kept(kept)) = self.load_one(asked).await
            && kept.descriptor == *descriptor
            && kept.component != Some(component)
        {
            self.save(asked, &Kept { component: Some(component), ..(*kept).clone() }).await;
        }
    }

    /// Marks an existing copy as withdrawn. A copy that cannot be read counts as one.
    pub(crate) async fn withdraw(&self, asked: &Url) {
        let was_there = match self.load_one(asked).await {
            Some(copy) => copy.kept().is_some(),
            None => self.any(std::slice::from_ref(asked)).await.unwrap_or(true),
        };
        if was_there && self.write(asked, None, Bytes::new()).await {
            self.recent().put(asked, Some(Copy::Withdrawn));
        }
    }

    /// Forgets the URL.
    pub(crate) async fn remove(&self, asked: &Url) {
        self.recent().put(asked, None);
        let (folder, name) = (self.pool.folder().clone(), name(asked));
        match tokio::task::spawn_blocking(move || folder.remove(&name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, url = %asked, "failed to remove the copy of the descriptor"),
            Err(error) => tracing::warn!(%error, url = %asked, "failed to remove the copy of the descriptor"),
        }
    }

    /// Writes a file. Returns `true` on success.
    async fn write(&self, asked: &Url, copy: Option<CopyHeader>, json: Bytes) -> bool {
        let (pool, asked) = (self.pool.clone(), asked.clone());
        let write = move || {
            let header = FileHeader { asked: asked.to_string(), copy };
            let mut file = serde_json::to_vec(&header)?;
            file.push(b'\n');
            file.extend_from_slice(&json);
            pool.write(&name(&asked), &file)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(%error, folder = %self.pool.folder().path().display(), "failed to store the copy of a descriptor");
            }
            Err(error) => tracing::warn!(%error, "failed to store the copy of a descriptor"),
        }
        false
    }
}

impl Recent {
    /// Stores a copy in memory. A full memory is cleared completely, and later read from the folder
    /// again.
    fn put(&mut self, asked: &Url, copy: Option<Copy>) {
        let bytes = |copy: &Option<Copy>| copy.as_ref().and_then(Copy::kept).map_or(0, |kept| kept.json.len());
        self.bytes += bytes(&copy);
        if self.by_url.len() >= MAX_RECENT || self.bytes > MAX_RECENT_BYTES {
            self.by_url.clear();
            self.bytes = bytes(&copy);
        }
        if let Some(before) = self.by_url.insert(asked.clone(), copy) {
            self.bytes -= bytes(&before);
        }
    }
}

/// Returns the file name of a copy, which counts for the domain that was asked.
fn name(asked: &Url) -> Name {
    let host = asked.host_str().unwrap_or_default();
    let owner = Domain::parse(host).map_or_else(|_| host.to_owned(), |domain| domain.registrable());
    Name::new(Sha256Digest::of(asked.as_str().as_bytes()), &owner)
}

fn parse(file: Bytes, asked: &Url) -> Result<Copy, String> {
    let end = file.iter().position(|byte| *byte == b'\n').ok_or("the file has no first line")?;
    let header: FileHeader = serde_json::from_slice(&file[..end]).map_err(|error| error.to_string())?;
    if header.asked != asked.as_str() {
        return Err("the copy is of another URL".to_owned());
    }
    let Some(copy) = header.copy else { return Ok(Copy::Withdrawn) };
    let json = file.slice(end + 1..);
    if Sha256Digest::of(&json) != copy.sha256 {
        return Err("the file is damaged".to_owned());
    }
    let descriptor = Descriptor::parse(&json).map_err(|error| error.to_string())?;
    descriptor.check_deployable().map_err(|error| error.to_string())?;
    let confirmed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(copy.confirmed)).ok_or("its time is out of range")?;
    Ok(Copy::Kept(Arc::new(Kept {
        json,
        descriptor,
        url: Url::parse(&copy.url).map_err(|error| error.to_string())?,
        validators: Validators { etag: copy.etag, last_modified: copy.last_modified },
        confirmed,
        keep: Duration::from_secs(copy.keep_seconds).min(MAX_KEPT),
        component: copy.component,
    })))
}
