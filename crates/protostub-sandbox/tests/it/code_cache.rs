//! Compiled code on disk. Later engines load an entry only if it is exactly what was written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use protostub_artifacts::component;
use protostub_sandbox::{CompileError, Engine, EngineConfig};
use protostub_types::Sha256Digest;

/// A folder for a cache, and engines that use it.
struct Cache {
    folder: tempfile::TempDir,
    max_bytes: Option<u64>,
}

impl Cache {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), max_bytes: None }
    }

    fn code(&self) -> PathBuf {
        self.folder.path().join("code")
    }

    fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::default();
        config.cache_dir = Some(self.code());
        config.max_sandboxes = 1;
        config.max_cache_bytes = self.max_bytes.unwrap_or(config.max_cache_bytes);
        config
    }

    /// Has another engine compile this. Returns the numbers of cache hits and misses.
    async fn compile(&self, wat: &str) -> (usize, usize) {
        compile(&self.config(), wat).await
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<_> = fs::read_dir(self.code()).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    }

    /// Returns the only entry.
    fn entry(&self) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.into_iter().next().unwrap()
    }

    fn refusal(&self) -> String {
        refusal(&self.config())
    }
}

/// A component that is not a stub. It is compiled before the engine rejects it.
const SMALL: &str = "(component)";
const OTHER: &str = "(component (core module))";

async fn compile(config: &EngineConfig, wat: &str) -> (usize, usize) {
    let engine = Engine::new(config).unwrap();
    let bytes = wat::parse_str(wat).unwrap();
    let digest = Sha256Digest::of(&bytes);
    assert!(matches!(engine.compile(bytes, digest).await, Err(CompileError::WrongWorld(_))));
    engine.disk_cache().unwrap()
}

/// Returns why an engine cannot be made, with all causes.
fn refusal(config: &EngineConfig) -> String {
    let error = Engine::new(config).unwrap_err();
    format!("{error}: {}", std::error::Error::source(&error).unwrap())
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn compiled_code_outlives_its_engine() {
    let cache = Cache::new();
    let bytes = component("actor");
    let digest = Sha256Digest::of(&bytes);
    let first = Engine::new(&cache.config()).unwrap();
    let compiled = first.compile(bytes.clone(), digest).await.unwrap();
    assert_eq!(first.disk_cache(), Some((0, 1)));
    let second = Engine::new(&cache.config()).unwrap();
    let loaded = second.compile(bytes, digest).await.unwrap();
    assert_eq!(second.disk_cache(), Some((1, 0)));
    assert_eq!((compiled.imports(), compiled.exports()), (loaded.imports(), loaded.exports()));
    assert_eq!((mode(&cache.code()), mode(&cache.folder.path().join("code.key"))), (0o700, 0o600));
}

#[tokio::test]
async fn changed_cache_entry_is_compiled_again() {
    let cache = Cache::new();
    assert_eq!(cache.compile(SMALL).await, (0, 1));
    let whole = fs::read(cache.entry()).unwrap();
    let changed_at = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let longer = [whole.as_slice(), b"\0"].concat();
    // The bytes that wasmtime itself would load.
    let bare = whole[32..].to_vec();
    for bytes in [
        changed_at(0),
        changed_at(31),
        changed_at(32),
        changed_at(whole.len() / 2),
        changed_at(whole.len() - 1),
        whole[..whole.len() - 1].to_vec(),
        whole[..32].to_vec(),
        whole[..9].to_vec(),
        Vec::new(),
        longer,
        bare,
    ] {
        fs::write(cache.entry(), &bytes).unwrap();
        assert_eq!(cache.compile(SMALL).await, (0, 1), "{} of {} bytes", bytes.len(), whole.len());
        // The entry was repaired.
        assert_eq!(cache.compile(SMALL).await, (1, 0));
    }
}

#[tokio::test]
async fn folder_removed_meanwhile_is_made_again() {
    let cache = Cache::new();
    let engine = Engine::new(&cache.config()).unwrap();
    fs::remove_dir_all(cache.code()).unwrap();
    let bytes = wat::parse_str(SMALL).unwrap();
    let digest = Sha256Digest::of(&bytes);
    assert!(matches!(engine.compile(bytes, digest).await, Err(CompileError::WrongWorld(_))));
    cache.entry();
    assert_eq!(mode(&cache.code()), 0o700);
    assert_eq!(cache.compile(SMALL).await, (1, 0));
}

#[tokio::test]
async fn code_of_another_component_or_with_another_key_is_not_loaded() {
    let (cache, others) = (Cache::new(), Cache::new());
    cache.compile(SMALL).await;
    let small = cache.entry();
    cache.compile(OTHER).await;
    let other = cache.entries().into_iter().find(|entry| *entry != small).unwrap();
    fs::copy(&other, &small).unwrap();
    assert_eq!(cache.compile(SMALL).await, (0, 1));

    others.compile(SMALL).await;
    fs::copy(others.entry(), &small).unwrap();
    assert_eq!(cache.compile(SMALL).await, (0, 1));

    fs::remove_file(cache.folder.path().join("code.key")).unwrap();
    assert_eq!(cache.compile(SMALL).await, (0, 1));
}

/// A process was killed while it wrote an entry. Another process is writing one now.
#[tokio::test]
async fn partial_code_without_a_writer_is_removed_at_start() {
    let cache = Cache::new();
    assert_eq!(cache.compile(SMALL).await, (0, 1));
    let entry = cache.entry();
    let (left, in_progress) = (cache.code().join(".partial-1"), cache.code().join(".partial-2"));
    fs::write(&left, b"x").unwrap();
    let writer = fs::File::create(&in_progress).unwrap();
    writer.lock().unwrap();
    assert_eq!(cache.compile(SMALL).await, (1, 0));
    assert_eq!(cache.entries(), [in_progress, entry.clone()]);
    drop(writer);
    assert_eq!(cache.compile(SMALL).await, (1, 0));
    assert_eq!(cache.entry(), entry);
}

#[tokio::test]
async fn oldest_code_is_evicted_first() {
    // Entries of about the same length.
    let [first, second, third] = [1, 2, 3].map(|pages| format!("(component (core module (memory {pages})))"));
    let mut cache = Cache::new();
    cache.compile(&first).await;
    let length = fs::metadata(cache.entry()).unwrap().len();
    cache.max_bytes = Some(2 * length + length / 2);
    cache.compile(&second).await;
    let used_long_ago = |entry: &Path| {
        let hour = std::time::Duration::from_secs(3600);
        fs::File::options().write(true).open(entry).unwrap().set_modified(std::time::SystemTime::now() - hour).unwrap();
    };
    cache.entries().iter().for_each(|entry| used_long_ago(entry));
    // Other writers could put a link to any folder of this user in the place of the cache.
    let of_another_program = cache.code().join("letter.txt");
    fs::write(&of_another_program, "x").unwrap();
    used_long_ago(&of_another_program);
    // Marks the first entry as used, so the other one is evicted.
    assert_eq!(cache.compile(&first).await, (1, 0));
    cache.compile(&third).await;
    assert_eq!(cache.compile(&first).await, (1, 0));
    assert_eq!(cache.compile(&second).await, (0, 1));
    assert!(of_another_program.exists());

    cache.max_bytes = Some(length - 1);
    assert_eq!(cache.compile(&first).await, (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn engines_share_a_cache_folder() {
    let cache = Cache::new();
    let config = cache.config();
    let compiling: Vec<_> = (0..8)
        .map(|n| {
            let config = config.clone();
            tokio::spawn(async move { compile(&config, if n % 2 == 0 { SMALL } else { OTHER }).await })
        })
        .collect();
    for engine in compiling {
        let (limit_counts, misses) = engine.await.unwrap();
        assert_eq!(limit_counts + misses, 1);
    }
    assert_eq!(cache.entries().len(), 2);
    assert_eq!((cache.compile(SMALL).await, cache.compile(OTHER).await), ((1, 0), (1, 0)));
}

#[test]
fn unusable_cache_is_named_in_the_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut config = EngineConfig::default();
    config.cache_dir = Some(file.path().join("below"));
    let error = refusal(&config);
    assert!(error.contains("below cannot be used for compiled code"), "{error}");
}

#[test]
fn cache_folder_that_others_can_replace_is_refused() {
    let cache = Cache::new();
    set_mode(cache.folder.path(), 0o770);
    let error = cache.refusal();
    assert!(error.contains("can be written to by other users (mode 770); run `chmod go-w` on it"), "{error}");
    // The mode of `/tmp`: only its owner can replace a file there.
    set_mode(cache.folder.path(), 0o1777);
    Engine::new(&cache.config()).unwrap();
}

/// The volumes of Kubernetes are open to all, or to a group, and the process cannot close them.
#[test]
fn volume_of_others_needs_the_operators_setting() {
    let cache = Cache::new();
    for open_to in [0o2775, 0o777] {
        set_mode(cache.folder.path(), open_to);
        assert!(cache.refusal().contains("see `allow-other-writers` in `[cache]`"), "{}", cache.refusal());
    }
    let mut config = cache.config();
    config.allow_other_writers = true;
    Engine::new(&config).unwrap();
    let key = cache.folder.path().join("code.key");
    set_mode(&key, 0o660);
    Engine::new(&config).unwrap();
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn cache_key_that_others_can_read_is_refused() {
    let cache = Cache::new();
    Engine::new(&cache.config()).unwrap();
    let key = cache.folder.path().join("code.key");
    set_mode(&key, 0o640);
    let error = cache.refusal();
    assert!(error.contains("other users may open the file (mode 640, user "), "{error}");
    fs::remove_file(&key).unwrap();
    fs::write(&key, b"short").unwrap();
    set_mode(&key, 0o600);
    assert!(cache.refusal().contains("a key has 32 bytes"), "{}", cache.refusal());

    let mut config = cache.config();
    config.cache_key = Some(cache.code().join("key"));
    let error = refusal(&config);
    assert!(error.contains("the cache's key may not be in the cache folder"), "{error}");
}
