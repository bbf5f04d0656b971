use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use protostub_types::{SafeList, SafeText, Sha256Digest};
use tokio::sync::Semaphore;
use wasmparser::Payload;
use wasmtime::component::Component;

use crate::{
    CompileWorker, Engine, EngineConfig,
    code_cache::CodeCache,
    contract::{ProtostubPre, TRACK},
    engine::Allocation,
    imports::{Import, Imports},
    panics,
    state::StubState,
    worker,
    world::{self, WorldMismatch},
};

/// Maximum size of unused code that stays in memory, in bytes. A stub that comes back a moment
/// later finds its code there.
const MAX_RECENT_BYTES: usize = 64 << 20;
/// Maximum number of components whose unused code stays in memory.
const MAX_RECENT: usize = 64;
/// Maximum size of all import and export sections of a component, in bytes. A component of many
/// parts has some 100 KB.
const MAX_NAMES_BYTES: usize = 1 << 20;

/// The bytes after `\0asm` in the header of a core module.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];

/// Reasons why a component is not a stub that can run here. Another attempt with the same bytes
/// fails again, except for [`Self::Compiler`] and [`Self::Worker`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are not WebAssembly.
    #[error("the component is not WebAssembly: the bytes do not begin with `\\0asm`")]
    NotWasm,
    /// The bytes are a core module. Compilers make one unless they are set to make a component.
    #[error(
        "the bytes are a core WebAssembly module, not a component; build the stub for `wasm32-wasip2`, or convert the module"
    )]
    CoreModule,
    /// The bytes are native code that was compiled beforehand. The host never executes it.
    #[error("the bytes are precompiled native code, which is not accepted; publish the component itself")]
    Precompiled,
    /// The component is larger than the engine accepts.
    #[error("the component has {bytes} bytes, and the limit is {limit} (`component-bytes`)")]
    TooLarge {
        /// Size of the component, in bytes.
        bytes: usize,
        /// Maximum size, in bytes.
        limit: usize,
    },
    /// The component is not of the contract's world.
    #[error("the component is not a protocol stub of track {TRACK}: {0}")]
    WrongWorld(Box<WorldMismatch>),
    /// The component consists of more parts than the host has room for, or of larger ones.
    #[error("the component needs more than the host has room for: {0}")]
    TooComplex(SafeText),
    /// The component is invalid, or uses a WebAssembly proposal that is off.
    #[error("the component is not valid: {0}")]
    Invalid(SafeText),
    /// The compile worker did not compile the component: the worker is not of this version, or the
    /// component exceeded the worker's limits.
    #[error("the compile worker {} {problem}", program.display())]
    Worker {
        /// The executable.
        program: PathBuf,
        /// The failure.
        problem: SafeText,
    },
    /// The compiler itself failed, or was shut down meanwhile.
    #[error("the compiler failed: {0}")]
    Compiler(SafeText),
}

/// A component that is known to be a stub, as native code. Cloning is cheap. When the last clone is
/// dropped, the code is unloaded, unless it is among the code that was used last.
#[derive(Clone)]
pub struct CompiledStub {
    engine: Engine,
    code: Arc<Code>,
    linked: Arc<Linked>,
}

/// The part of a compiled component that all its users share. The memory cache holds it weakly,
/// except for the code that was used last. It does not hold the engine, which holds the cache.
pub(crate) struct Code {
    digest: Sha256Digest,
    /// Size of the component, not of the code.
    bytes: usize,
    component: Component,
    imports: SafeList,
    exports: SafeList,
    /// The linked forms, by the granted interfaces. All domains that publish the component are
    /// mostly granted the same.
    linked: Mutex<Vec<(BTreeSet<String>, Arc<Linked>)>>,
}

impl Code {
    /// Returns how much memory the code takes, in bytes, with what wasmtime keeps of the component:
    /// names, which may be nearly all of it.
    fn size(&self) -> usize {
        let code = self.component.image_range();
        (code.end as usize).saturating_sub(code.start as usize).saturating_add(self.bytes)
    }

    fn linked(&self) -> MutexGuard<'_, Vec<(BTreeSet<String>, Arc<Linked>)>> {
        // The list is whole after every statement.
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the form that was linked with these interfaces before, if there is one.
    fn linked_with(&self, granted: &BTreeSet<String>) -> Option<Arc<Linked>> {
        self.linked().iter().find(|(other, _)| other == granted).map(|(_, linked)| Arc::clone(linked))
    }
}

/// The component, linked with the interfaces that are granted to it.
struct Linked {
    pre: ProtostubPre<StubState>,
    own: Vec<Import>,
}

impl CompiledStub {
    /// Returns the digest of the component's bytes, as it was given to [`Engine::compile`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.code.digest
    }

    /// Returns the size of the component before it is compiled, in bytes.
    #[must_use]
    pub fn component_bytes(&self) -> usize {
        self.code.bytes
    }

    /// Returns the contract's track that the stub was built for: `0.1`.
    #[must_use]
    pub fn track(&self) -> &str {
        TRACK
    }

    /// Returns the interfaces that the component imports, with their versions, in the order of
    /// their names. At most 256 are named.
    #[must_use]
    pub fn imports(&self) -> &SafeList {
        &self.code.imports
    }

    /// Returns the interfaces that the component exports, with their versions, in the order of
    /// their names. At most 256 are named.
    #[must_use]
    pub fn exports(&self) -> &SafeList {
        &self.code.exports
    }

    /// Returns the engine that the stub was compiled for, and runs on.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn pre(&self) -> &ProtostubPre<StubState> {
        &self.linked.pre
    }

    /// Returns the host program's own interfaces that the stub is linked with.
    pub(crate) fn own_imports(&self) -> &[Import] {
        &self.linked.own
    }
}

impl fmt::Debug for CompiledStub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledStub")
            .field("digest", &self.code.digest)
            .field("imports", &self.code.imports)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Compiles a component, or takes code that was compiled before. The code comes from memory
    /// while a caller has it, or had it a moment ago, and from `cache_dir` otherwise.
    ///
    /// One component is compiled at a time, off the async threads, and cannot be stopped. With
    /// [`EngineConfig::compile_worker`](crate::EngineConfig::compile_worker), as many are compiled
    /// at a time as there are processors, and at least two, each until the future is dropped.
    /// Callers that ask for the same digest at the same time share one compilation.
    ///
    /// `digest` has to be that of `bytes`: the caller verified it.
    ///
    /// # Errors
    /// If the bytes are not a component, or the component does not fit the contract. The error
    /// names the missing exports and the surplus imports.
    pub async fn compile(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        digest: Sha256Digest,
    ) -> Result<CompiledStub, CompileError> {
        self.compile_with_imports(bytes, digest, &BTreeSet::new()).await
    }

    /// Compiles like [`Self::compile`] a stub that may also import these of
    /// [`EngineConfig::imports`](crate::EngineConfig::imports), by the names of their interfaces.
    /// Stubs with other grants share the code.
    ///
    /// # Errors
    /// As for [`Self::compile`]. Names of interfaces that the engine does not have are ignored.
    pub async fn compile_with_imports(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        digest: Sha256Digest,
        granted: &BTreeSet<String>,
    ) -> Result<CompiledStub, CompileError> {
        let code = self.compiler().code(bytes, digest).await?;
        self.linked(code, granted).await
    }

    /// Returns the result of [`Self::compile_with_imports`] without the component's bytes, for a
    /// component with this digest that a caller has, or had a moment ago. Returns `None` if there
    /// is no such component. Does not wait for a compilation in progress.
    ///
    /// # Errors
    /// [`CompileError::WrongWorld`], if the component imports an interface that is not in
    /// `granted`, the names of the interfaces. [`CompileError::Compiler`], if the engine is shut
    /// down meanwhile.
    pub async fn compiled(&self, digest: Sha256Digest, granted: &BTreeSet<String>) -> Result<Option<CompiledStub>, CompileError> {
        match self.compiler().cached(digest) {
            Some(code) => self.linked(code, granted).await.map(Some),
            None => Ok(None),
        }
    }

    async fn linked(&self, code: Arc<Code>, granted: &BTreeSet<String>) -> Result<CompiledStub, CompileError> {
        let linked = match code.linked_with(granted) {
            Some(linked) => linked,
            None => self.compiler().link(Arc::clone(&code), granted.clone()).await?,
        };
        // Refused code is not kept in memory, so the code counts as used from here on.
        self.compiler().touch(&code);
        Ok(CompiledStub { engine: self.clone(), code, linked })
    }
}

/// The compiler with its memory cache.
pub(crate) struct Compiler {
    imports: Arc<Imports>,
    max_bytes: usize,
    disk: Option<Arc<CodeCache>>,
    worker: Option<CompileWorker>,
    allocation: Allocation,
    /// Permits of compilations. One, for a compilation in this process, in one thread; or as many
    /// as there are processors, for one worker process each.
    turn: Arc<Semaphore>,
    slots: Mutex<Slots>,
    /// The code that was asked for last, with or without another user. The latest is at the end.
    recent: Mutex<VecDeque<Arc<Code>>>,
}

/// Slots of the code that has users, or had users at the last clean-up.
#[derive(Default)]
struct Slots {
    by_digest: HashMap<Sha256Digest, Arc<Slot>>,
    /// Number of slots at which the next clean-up runs.
    look_at: usize,
}

/// The code of one digest, if it has a user. Locked while the code is compiled, so that other
/// callers wait for the outcome.
type Slot = tokio::sync::Mutex<Weak<Code>>;

impl Compiler {
    pub(crate) fn new(imports: Imports, config: &EngineConfig, allocation: Allocation, disk: Option<CodeCache>) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // Two at least, so that a component that compiles for long does not hold up others.
        let turns = config.compile_worker.as_ref().map_or(1, |_| processors().max(2));
        Self {
            imports: Arc::new(imports),
            max_bytes: config.max_component_bytes,
            disk: disk.map(Arc::new),
            worker: config.compile_worker.clone(),
            allocation,
            turn: Arc::new(Semaphore::new(turns)),
            slots: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    /// Returns the number of components that were in the cache on disk, and of those that were not.
    pub(crate) fn disk_cache(&self) -> Option<(usize, usize)> {
        self.disk.as_ref().map(|disk| disk.counts())
    }

    /// Returns the code of this digest, if it has a user.
    fn cached(&self, digest: Sha256Digest) -> Option<Arc<Code>> {
        self.slots().by_digest.get(&digest)?.try_lock().ok()?.upgrade()
    }

    async fn code(&self, bytes: impl AsRef<[u8]> + Send + 'static, digest: Sha256Digest) -> Result<Arc<Code>, CompileError> {
        let mut slot = self.slot(digest).lock_owned().await;
        if let Some(code) = slot.upgrade() {
            return Ok(code);
        }
        if let Some(worker) = &self.worker {
            let code = self.code_of_worker(worker, bytes, digest).await?;
            *slot = Arc::downgrade(&code);
            return Ok(code);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|error| stopped(&error))?;
        let (imports, max_bytes, disk) = (Arc::clone(&self.imports), self.max_bytes, self.disk.clone());
        // If the caller goes away, the compilation goes on. The slot and the permit are held until
        // it is done, so it stays the only one.
        let compilation = tokio::task::spawn_blocking(move || {
            let (engine, bytes) = (imports.engine(), bytes.as_ref());
            let component = match load_cached(engine, bytes, digest, max_bytes, disk.as_deref())? {
                Some(component) => component,
                None => {
                    let compiled = panics::catch(|| Component::from_binary(engine, bytes)).map_err(|text| panicked(&text))?;
                    let component = compiled.map_err(|error| invalid(&format!("{error:#}")))?;
                    save_cached(engine, digest, &component, disk.as_deref());
                    component
                }
            };
            let code = Arc::new(Code::new(digest, bytes.len(), component));
            *slot = Arc::downgrade(&code);
            drop(turn);
            Ok::<_, CompileError>(code)
        });
        compilation.await.map_err(|error| stopped(&error))?
    }

    /// Keeps this code in memory for a while, and drops the code that was not asked for for the
    /// longest time.
    fn touch(&self, code: &Arc<Code>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|other| !Arc::ptr_eq(other, code));
        recent.push_back(Arc::clone(code));
        let mut bytes: usize = recent.iter().map(|code| code.size()).sum();
        let mut unused = Vec::new();
        while recent.len() > MAX_RECENT || bytes > MAX_RECENT_BYTES {
            let Some(oldest) = recent.pop_front() else { break };
            bytes -= oldest.size();
            unused.push(oldest);
        }
        // Unloads unused code now, without the lock.
        drop(recent);
        drop(unused);
    }

    /// Compiles in a worker. If the caller goes away, the worker is ended.
    async fn code_of_worker(
        &self,
        worker: &CompileWorker,
        bytes: impl AsRef<[u8]> + Send + 'static,
        digest: Sha256Digest,
    ) -> Result<Arc<Code>, CompileError> {
        let (imports, max_bytes, disk) = (Arc::clone(&self.imports), self.max_bytes, self.disk.clone());
        let looked_up = tokio::task::spawn_blocking(move || {
            let found = load_cached(imports.engine(), bytes.as_ref(), digest, max_bytes, disk.as_deref());
            found.map(|found| (bytes, found))
        });
        let (bytes, found) = looked_up.await.map_err(|error| stopped(&error))??;
        let length = bytes.as_ref().len();
        if let Some(component) = found {
            return Ok(Arc::new(Code::new(digest, length, component)));
        }
        let turn = self.turn.acquire().await.map_err(|error| stopped(&error))?;
        let component = worker::compile(worker, self.imports.engine(), self.allocation, bytes, digest).await?;
        drop(turn);
        let (imports, disk) = (Arc::clone(&self.imports), self.disk.clone());
        let kept = tokio::task::spawn_blocking(move || {
            save_cached(imports.engine(), digest, &component, disk.as_deref());
            Arc::new(Code::new(digest, length, component))
        });
        kept.await.map_err(|error| stopped(&error))
    }

    /// Links off the async threads: describing a mismatch takes a while.
    async fn link(&self, code: Arc<Code>, interfaces: BTreeSet<String>) -> Result<Arc<Linked>, CompileError> {
        let imports = Arc::clone(&self.imports);
        let linking = tokio::task::spawn_blocking(move || {
            let granted = imports
                .granted(&interfaces)
                .map_err(|error| CompileError::Compiler(SafeText::display(format_args!("{error:#}"))))?;
            let pre = world::link(&granted, &code.component).map_err(CompileError::WrongWorld)?;
            let linked = Arc::new(Linked { pre, own: granted.own });
            code.linked().push((interfaces, Arc::clone(&linked)));
            Ok(linked)
        });
        linking.await.map_err(|error| stopped(&error))?
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // The table is whole after every statement.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the slot of this digest. Removes the slots of unused code whenever there are twice
    /// as many slots as after the last clean-up.
    fn slot(&self, digest: Sha256Digest) -> Arc<Slot> {
        let mut slots = self.slots();
        let Slots { by_digest, look_at } = &mut *slots;
        if by_digest.len() >= *look_at {
            by_digest.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|code| code.strong_count() > 0));
            *look_at = by_digest.len() * 2 + 1;
        }
        Arc::clone(by_digest.entry(digest).or_default())
    }
}

fn stopped(error: &dyn fmt::Display) -> CompileError {
    CompileError::Compiler(SafeText::display(error))
}

/// Checks the bytes, and loads the code that was compiled before, if it is on disk.
///
/// # Errors
/// If the bytes are not a component at all.
fn load_cached(
    engine: &wasmtime::Engine,
    bytes: &[u8],
    digest: Sha256Digest,
    max_bytes: usize,
    disk: Option<&CodeCache>,
) -> Result<Option<Component>, CompileError> {
    if bytes.len() > max_bytes {
        return Err(CompileError::TooLarge { bytes: bytes.len(), limit: max_bytes });
    }
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(CompileError::Precompiled);
    }
    match bytes.strip_prefix(b"\0asm") {
        None => return Err(CompileError::NotWasm),
        Some(rest) if rest.starts_with(&CORE_MODULE) => return Err(CompileError::CoreModule),
        Some(_) => {}
    }
    check_names(bytes)?;
    Ok(disk.and_then(|disk| disk.load(engine, digest)))
}

/// Rejects a component whose import and export sections, those of its parts included, are larger
/// than [`MAX_NAMES_BYTES`].
///
/// The compiler copies the names several times. Without a compile worker it does that in the host's
/// memory, much of which the allocator keeps.
fn check_names(bytes: &[u8]) -> Result<(), CompileError> {
    let mut names = 0;
    // Stops at malformed bytes: the compiler names the fault.
    for payload in wasmparser::Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        names += match payload {
            Payload::ComponentImportSection(section) => section.range().len(),
            Payload::ComponentExportSection(section) => section.range().len(),
            Payload::ImportSection(section) => section.range().len(),
            Payload::ExportSection(section) => section.range().len(),
            _ => 0,
        };
    }
    if names > MAX_NAMES_BYTES {
        let problem = format!("its imports and exports take {names} bytes, and the limit is {MAX_NAMES_BYTES}");
        return Err(CompileError::TooComplex(problem.into()));
    }
    Ok(())
}

fn save_cached(engine: &wasmtime::Engine, digest: Sha256Digest, component: &Component, disk: Option<&CodeCache>) {
    if let Some(disk) = disk {
        disk.save(engine, digest, component);
    }
}

impl Code {
    fn new(digest: Sha256Digest, bytes: usize, component: Component) -> Self {
        let (imports, exports) = world::names(&component);
        Self { digest, bytes, component, imports, exports, linked: Mutex::default() }
    }
}

/// Makes the error of a component that does not compile.
pub(crate) fn invalid(text: &str) -> CompileError {
    if exceeds_pool(text) {
        return CompileError::TooComplex(SafeText::new(text));
    }
    CompileError::Invalid(SafeText::new(text))
}

/// Returns `true` if this is the text of an error about a component that the pool has no room for:
/// too many parts, a too large memory or table, too many exports. wasmtime's error has no type.
pub(crate) fn exceeds_pool(text: &str) -> bool {
    text.contains("in the pooling allocator") || text.contains("pooling allocator requirements")
}

/// Makes the error of a component at which the compiler panics. `text` is one line.
pub(crate) fn panicked(text: &str) -> CompileError {
    CompileError::Compiler(SafeText::display(format_args!("a panic: {text}; report the component to the maintainers")))
}
