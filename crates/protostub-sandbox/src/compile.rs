use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use protostub_types::Sha256Digest;
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::{
    Engine,
    code_cache::CodeCache,
    contract::{ProtostubPre, TRACK},
    imports::{Import, Imports},
    state::StubState,
    world::{self, WorldMismatch},
};

/// How the header of a core module goes on after `\0asm`.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];

/// Why a component is no stub that can run here. None of these goes away by trying again with the same bytes, but [`Self::Compiler`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are not WebAssembly.
    #[error("it is not WebAssembly: it does not begin with `\\0asm`")]
    NotWasm,
    /// It is a core module: what compilers make when they are not told to make a component.
    #[error("it is a core WebAssembly module, and a stub is a component: build it for `wasm32-wasip2`, or convert it")]
    CoreModule,
    /// It is native code that somebody compiled beforehand, which is never executed.
    #[error("it is precompiled native code, which is not accepted: publish the component itself")]
    Precompiled,
    /// It is larger than the engine accepts.
    #[error("it has {bytes} bytes, more than the {limit} that are accepted")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// It is a component, but not of the contract's world.
    #[error("it is a component, but not a protocol stub of track {TRACK}: {0}")]
    WrongWorld(WorldMismatch),
    /// It consists of more parts than the host has room for, or has larger ones.
    #[error("it needs more than the host has room for: {0}")]
    TooComplex(String),
    /// It is invalid, or uses a WebAssembly proposal that is off.
    #[error("it is not valid: {0}")]
    Invalid(String),
    /// The compiler itself failed, or was shut down meanwhile.
    #[error("the compiler failed: {0}")]
    Compiler(String),
}

/// A component that is known to be a stub, as native code. Cloning is cheap; when the last clone is dropped, the code is unloaded.
#[derive(Clone)]
pub struct CompiledStub {
    engine: Engine,
    code: Arc<Code>,
    linked: Arc<Linked>,
}

/// What is the same for everybody who runs a component, and the memory cache holds weakly. Does not hold the engine, which holds the cache.
pub(crate) struct Code {
    digest: Sha256Digest,
    component: Component,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// The component with what it is granted.
struct Linked {
    pre: ProtostubPre<StubState>,
    own: Vec<Import>,
}

impl CompiledStub {
    /// The digest of the component's bytes, as it was given to [`Engine::compile`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.code.digest
    }

    /// The contract's track that the stub was built for: `0.1`.
    #[must_use]
    pub fn track(&self) -> &str {
        TRACK
    }

    /// The interfaces that it imports, with their versions, in the order of their names.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.code.imports
    }

    /// The interfaces that it exports, with their versions, in the order of their names.
    #[must_use]
    pub fn exports(&self) -> &[String] {
        &self.code.exports
    }

    /// The engine that it was compiled for, and runs on.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn pre(&self) -> &ProtostubPre<StubState> {
        &self.linked.pre
    }

    /// The host program's own interfaces that it is linked with.
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
    /// Compiles a component, or takes what was compiled before: from memory while somebody has it, from `cache_dir` otherwise. One
    /// component is compiled at a time, off the async threads; those who ask for the same digest at the same time share one compilation.
    ///
    /// `digest` has to be that of `bytes`: the caller verified it.
    ///
    /// # Errors
    /// If it is no component, or none that the contract allows, with the names of what is missing or too much.
    pub async fn compile(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        digest: Sha256Digest,
    ) -> Result<CompiledStub, CompileError> {
        self.compile_with_imports(bytes, digest, &BTreeSet::new()).await
    }

    /// The same, for a stub that may also import these of [`EngineConfig::imports`](crate::EngineConfig::imports), by the names of their
    /// interfaces. The code is shared with those to whom others are granted.
    ///
    /// # Errors
    /// As for [`Self::compile`]; names of interfaces that the engine does not have are ignored.
    pub async fn compile_with_imports(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        digest: Sha256Digest,
        granted: &BTreeSet<String>,
    ) -> Result<CompiledStub, CompileError> {
        let compiler = self.compiler();
        let code = compiler.code(bytes, digest).await?;
        let linked = compiler.link(Arc::clone(&code), granted.clone()).await?;
        Ok(CompiledStub { engine: self.clone(), code, linked: Arc::new(linked) })
    }
}

/// The compiler with its memory cache.
pub(crate) struct Compiler {
    imports: Arc<Imports>,
    max_bytes: usize,
    disk: Option<Arc<CodeCache>>,
    /// One compilation at a time, in one thread.
    turn: Arc<Semaphore>,
    slots: Mutex<HashMap<Sha256Digest, Arc<Slot>>>,
}

/// Where the code of one digest is, if somebody has it. Locked while it is compiled, so that others wait for the outcome.
type Slot = tokio::sync::Mutex<Weak<Code>>;

impl Compiler {
    pub(crate) fn new(imports: Imports, max_bytes: usize, disk: Option<CodeCache>) -> Self {
        let (imports, disk) = (Arc::new(imports), disk.map(Arc::new));
        Self { imports, max_bytes, disk, turn: Arc::new(Semaphore::new(1)), slots: Mutex::default() }
    }

    /// How many components were in the cache on disk, and how many were not.
    pub(crate) fn disk_cache(&self) -> Option<(usize, usize)> {
        self.disk.as_ref().map(|disk| disk.counts())
    }

    async fn code(&self, bytes: impl AsRef<[u8]> + Send + 'static, digest: Sha256Digest) -> Result<Arc<Code>, CompileError> {
        let mut slot = self.slot(digest).lock_owned().await;
        if let Some(code) = slot.upgrade() {
            return Ok(code);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|error| stopped(&error))?;
        let (imports, max_bytes, disk) = (Arc::clone(&self.imports), self.max_bytes, self.disk.clone());
        // If the caller goes away, the compilation goes on, and the slot and its turn are held until it is done: it stays the only one.
        let compilation = tokio::task::spawn_blocking(move || {
            let code = Arc::new(compile(imports.engine(), bytes.as_ref(), digest, max_bytes, disk.as_deref())?);
            *slot = Arc::downgrade(&code);
            drop(turn);
            Ok(code)
        });
        compilation.await.map_err(|error| stopped(&error))?
    }

    /// Off the async threads: to say what does not fit takes a while.
    async fn link(&self, code: Arc<Code>, granted: BTreeSet<String>) -> Result<Linked, CompileError> {
        let imports = Arc::clone(&self.imports);
        let linking = tokio::task::spawn_blocking(move || {
            let granted = imports.granted(&granted).map_err(|error| CompileError::Compiler(format!("{error:#}")))?;
            let pre = world::link(&granted, &code.component).map_err(CompileError::WrongWorld)?;
            Ok(Linked { pre, own: granted.own })
        });
        linking.await.map_err(|error| stopped(&error))?
    }

    /// The slot of this digest. Those of code that nobody has any more go away.
    fn slot(&self, digest: Sha256Digest) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|code| code.strong_count() > 0));
        Arc::clone(slots.entry(digest).or_default())
    }
}

fn stopped(error: &dyn fmt::Display) -> CompileError {
    CompileError::Compiler(error.to_string())
}

fn compile(
    engine: &wasmtime::Engine,
    bytes: &[u8],
    digest: Sha256Digest,
    max_bytes: usize,
    disk: Option<&CodeCache>,
) -> Result<Code, CompileError> {
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
    let component = match disk.and_then(|disk| disk.load(engine, digest)) {
        Some(component) => component,
        None => {
            let component = Component::from_binary(engine, bytes).map_err(invalid)?;
            if let Some(disk) = disk {
                disk.save(engine, digest, &component);
            }
            component
        }
    };
    let (imports, exports) = world::names(&component);
    Ok(Code { digest, component, imports, exports })
}

/// wasmtime's error has no type that tells what the pool has no room for.
fn invalid(error: wasmtime::Error) -> CompileError {
    let text = format!("{error:#}");
    if text.contains("exceeds the configured maximum") {
        return CompileError::TooComplex(text);
    }
    CompileError::Invalid(text)
}
