use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use protostub_types::DEFAULT_COMPONENT_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails, component::Linker};

use crate::{
    CompileWorker, Import, SandboxError, code_cache::CodeCache, compile::Compiler, imports::Imports, machine,
    meter::long_call_permits, state::StubState, wasi,
};

/// The largest table that a guest may have, in elements: what a slot of the pool holds.
const POOL_TABLE_ELEMENTS: usize = 20_000;
/// How many core instances one component may consist of, and how many tables it may have. Rust's have about four; Python's libraries are
/// linked together from about forty.
const POOL_INSTANCES: u32 = 64;
/// How many tables there are in the pool for each sandbox. Most components have two or three.
const POOL_TABLES: u32 = 8;
/// How deep a guest may call itself, in bytes of stack. The host's functions get the rest of the fiber's stack.
pub(crate) const WASM_STACK_BYTES: usize = 512 << 10;
/// How large a fiber's stack is. Only pages that were touched take memory.
const FIBER_STACK_BYTES: usize = 1 << 20;
/// How much address space a memory reserves when there is no pool.
const SMALL_RESERVATION_BYTES: u64 = 64 << 20;
/// For how many ticks without a guest call the ticker goes on before it parks: waking it costs more than these.
const TICKS_BEFORE_PARKING: u32 = 40;

/// What all stubs of a process share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Where compiled code is kept over restarts; none: nowhere. What is in it is executed: the directory is made readable and writable for
    /// its owner only, nobody else may be able to put another one in its place, and each file in it is authenticated before it is used.
    /// Processes may share it.
    pub cache_dir: Option<PathBuf>,
    /// The file with the key by which what is in [`Self::cache_dir`] is authenticated. It is made if it is not there, for its owner only, and may
    /// not be in that directory. None: beside it, as `<directory>.key`. With another key, everything is compiled anew.
    pub cache_key: Option<PathBuf>,
    /// How much compiled code is kept, in bytes. 1 GiB. What was not used for the longest time goes first.
    pub max_cache_bytes: u64,
    /// How many sandboxes there may be at a time. 1 000. Address space, not memory, is reserved for them. At most [`Engine::most_sandboxes`].
    pub max_sandboxes: usize,
    /// In what steps computing time is counted. 2 ms. A guest that computes gives way to others as often.
    pub tick: Duration,
    /// The most that [`Limits::memory_bytes`](crate::Limits::memory_bytes) may be set to. 1 GiB. What a memory takes is what the guest touched.
    pub max_memory_bytes: usize,
    /// How large a component may be, in bytes. 64 MiB.
    pub max_component_bytes: usize,
    /// Who compiles components, if that is to have limits: a process of its own for each, which is ended when nobody waits for it any more.
    /// None: this process, in one thread, one component after the other.
    pub compile_worker: Option<CompileWorker>,
    /// The host program's own interfaces, for those to whom they are granted. None.
    pub imports: Vec<Import>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_key: None,
            max_cache_bytes: 1 << 30,
            max_sandboxes: 1_000,
            tick: Duration::from_millis(2),
            max_memory_bytes: 1 << 30,
            max_component_bytes: DEFAULT_COMPONENT_BYTES,
            compile_worker: None,
            imports: Vec::new(),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The directory for compiled code, or the key of what is in it, cannot be used.
    #[error("{} cannot be used for compiled code", path.display())]
    Cache {
        /// The directory, or the file with the key.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such executable to compile with.
    #[error("the compile worker {} is no executable file", program.display())]
    Worker {
        /// Its path, as it was given.
        program: PathBuf,
    },
    /// A setting has a value that it cannot have.
    #[error("the engine's `{setting}` {problem}")]
    Setting {
        /// Its name in [`EngineConfig`].
        setting: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The system does not allow a process as much as so many sandboxes need.
    #[error(
        "{sandboxes} sandboxes need {needed} mappings of memory, and this machine allows a process {allowed}: have at most {most} (`max_sandboxes`), \
         or raise what is allowed (`sysctl -w vm.max_map_count={needed}`)"
    )]
    Mappings {
        /// How many were wanted.
        sandboxes: usize,
        /// How many there is room for.
        most: usize,
        /// How many mappings a process may have.
        allowed: usize,
        /// How many it would need.
        needed: usize,
    },
    /// One of the host program's own interfaces cannot be offered.
    #[error("the interface `{interface}` of the host program cannot be offered to stubs")]
    Import {
        /// Its name.
        interface: &'static str,
        /// Why: wasmtime's error, mostly.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// wasmtime cannot work here.
    #[error("wasmtime cannot work on this system")]
    Wasmtime(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that counts computing time could not be started.
    #[error("the thread that counts computing time could not be started")]
    Ticker(#[source] std::io::Error),
}

/// What all stubs of a process share: the compiler with its caches, the pool of memory for instances, and the clock by which computing
/// time is counted. Cloning is cheap; clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    wasm: wasmtime::Engine,
    compiler: Compiler,
    config: EngineConfig,
    allocation: Allocation,
    sandboxes: Arc<Semaphore>,
    ticker: Arc<Ticker>,
    ticking: thread::Thread,
    long_calls: Arc<Semaphore>,
}

/// The way in which instances get their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// From a pool that the engine reserved when it was made.
    Pooled,
    /// From the system, for each instance.
    OnDemand,
}

impl Engine {
    /// Makes an engine, with a thread of its own for counting computing time, which sleeps while no guest runs and ends with the engine.
    ///
    /// # Errors
    /// If the system cannot run it, or `cache_dir` cannot be used.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        if config.tick.is_zero() {
            return Err(EngineError::Setting { setting: "tick", problem: "is zero" });
        }
        if config.max_sandboxes == 0 {
            return Err(EngineError::Setting { setting: "max_sandboxes", problem: "is zero" });
        }
        machine::check(config.max_sandboxes)?;
        if let Some(worker) = config.compile_worker.as_ref().filter(|worker| !worker.program.is_file()) {
            return Err(EngineError::Worker { program: worker.program.clone() });
        }
        let open = |folder| CodeCache::open(folder, config.cache_key.as_deref(), config.max_cache_bytes);
        let cache = config.cache_dir.as_deref().map(open).transpose()?;
        let (wasm, allocation) = wasm_engine(config).map_err(|error| EngineError::Wasmtime(error.into()))?;
        let linker = linker(&wasm).map_err(|error| EngineError::Wasmtime(error.into()))?;
        let imports = Imports::new(linker, config.imports.clone())?;
        let ticker = Arc::new(Ticker::default());
        let ticking = ticker.start(&wasm, config.tick).map_err(EngineError::Ticker)?;
        Ok(Self {
            inner: Arc::new(Inner {
                compiler: Compiler::new(imports, config, allocation, cache),
                wasm,
                config: config.clone(),
                allocation,
                sandboxes: Arc::new(Semaphore::new(config.max_sandboxes.min(Semaphore::MAX_PERMITS))),
                ticker,
                ticking,
                long_calls: Arc::new(long_call_permits()),
            }),
        })
    }

    /// How many sandboxes this machine has room for in one process, that is, how large [`EngineConfig::max_sandboxes`] may be. None: nobody knows.
    #[must_use]
    pub fn most_sandboxes() -> Option<usize> {
        machine::most_sandboxes()
    }

    /// Whether instances get their memory from a pool that was reserved beforehand. Without one, making an instance takes about three times
    /// as long, and the system bounds their number.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.inner.allocation == Allocation::Pooled
    }

    /// How many sandboxes there are.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.inner.config.max_sandboxes.saturating_sub(self.inner.sandboxes.available_permits())
    }

    /// How many components were loaded from [`EngineConfig::cache_dir`], and how many were compiled since they were not there, or not to be
    /// trusted; none: there is no such directory.
    #[must_use]
    pub fn disk_cache(&self) -> Option<(usize, usize)> {
        self.inner.compiler.disk_cache()
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.inner.wasm
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    pub(crate) fn compiler(&self) -> &Compiler {
        &self.inner.compiler
    }

    /// Takes the permit for one more sandbox.
    ///
    /// # Errors
    /// [`SandboxError::TooMany`] if there are [`EngineConfig::max_sandboxes`] already.
    pub fn try_acquire_permit(&self) -> Result<SandboxPermit, SandboxError> {
        let permit = Arc::clone(&self.inner.sandboxes).try_acquire_owned();
        permit
            .map(|permit| SandboxPermit { _permit: permit })
            .map_err(|_| SandboxError::TooMany { limit: self.inner.config.max_sandboxes })
    }

    /// Takes the permit for one more sandbox, and waits for it. Callers get permits in the order of
    /// their calls. The future may be dropped at any time.
    ///
    /// # Errors
    /// Never while the engine exists.
    pub async fn acquire_permit(&self) -> Result<SandboxPermit, SandboxError> {
        let permit = Arc::clone(&self.inner.sandboxes).acquire_owned().await;
        permit
            .map(|permit| SandboxPermit { _permit: permit })
            .map_err(|_| SandboxError::TooMany { limit: self.inner.config.max_sandboxes })
    }

    /// How many ticks this much computing time is, at least one.
    pub(crate) fn ticks(&self, time: Duration) -> u64 {
        let ticks = time.as_nanos().div_ceil(self.inner.config.tick.as_nanos().max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn long_calls(&self) -> &Arc<Semaphore> {
        &self.inner.long_calls
    }

    /// Computing time is counted until the guard is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        // In this order, and with `SeqCst`: either the ticker sees the call, or the call sees the ticker park.
        self.inner.ticker.running.fetch_add(1, SeqCst);
        if self.inner.ticker.parked.load(SeqCst) {
            self.inner.ticking.unpark();
        }
        Running(&self.inner.ticker)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.inner.config)
            .field("allocation", &self.inner.allocation)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticker.ended.store(true, SeqCst);
        self.ticking.unpark();
    }
}

/// The right to make one of the engine's [`EngineConfig::max_sandboxes`] sandboxes. It is given back
/// when the permit, or the sandbox that was made with it, is dropped.
#[derive(Debug)]
pub struct SandboxPermit {
    _permit: OwnedSemaphorePermit,
}

/// A guest call in progress.
pub(crate) struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// The thread that advances the engine's epoch while guests run. It holds the engine weakly, and sleeps while there is nothing to count.
#[derive(Default)]
struct Ticker {
    running: AtomicUsize,
    parked: AtomicBool,
    ended: AtomicBool,
}

impl Ticker {
    fn start(self: &Arc<Self>, engine: &wasmtime::Engine, tick: Duration) -> std::io::Result<thread::Thread> {
        let ticker = Arc::clone(self);
        let engine = engine.weak();
        let thread = thread::Builder::new().name("protostub-ticker".to_owned()).spawn(move || {
            let mut idle = 0;
            while !ticker.ended.load(SeqCst) {
                if ticker.running.load(SeqCst) > 0 {
                    idle = 0;
                } else if idle < TICKS_BEFORE_PARKING {
                    idle += 1;
                } else {
                    ticker.parked.store(true, SeqCst);
                    while ticker.running.load(SeqCst) == 0 && !ticker.ended.load(SeqCst) {
                        thread::park();
                    }
                    ticker.parked.store(false, SeqCst);
                    idle = 0;
                }
                thread::sleep(tick);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })?;
        Ok(thread.thread().clone())
    }
}

/// Makes the engine with a pool, or without one if the system has no room for it.
fn wasm_engine(config: &EngineConfig) -> wasmtime::Result<(wasmtime::Engine, Allocation)> {
    let mut pooled = base_config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(config)));
    match wasmtime::Engine::new(&pooled) {
        Ok(engine) => Ok((engine, Allocation::Pooled)),
        Err(error) => {
            tracing::warn!(
                sandboxes = config.max_sandboxes,
                error = format!("{error:#}"),
                "no pool of memory for sandboxes can be reserved here (a limit of the address space, perhaps): going on without one"
            );
            Ok((for_compiling(Allocation::OnDemand)?, Allocation::OnDemand))
        }
    }
}

/// Makes an engine that only compiles, for an engine with this allocation. It has no pool itself:
/// compiled code depends on the reserved address space of a memory, not on who allocates it.
pub(crate) fn for_compiling(allocation: Allocation) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = base_config();
    if allocation == Allocation::OnDemand {
        config.memory_reservation(SMALL_RESERVATION_BYTES).memory_reservation_for_growth(SMALL_RESERVATION_BYTES);
    }
    wasmtime::Engine::new(&config)
}

/// The configuration that holds for every guest. Proposals that no stub needs are off: each is a
/// surface for untrusted code. Garbage collection, threads and asynchronous components are not
/// compiled in: see the features of the dependency.
fn base_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        // One thread, however large the component is: the cores are for those that run.
        .parallel_compilation(false)
        // Where a component's debugging information is read: it is a stranger's, and the environment is not for libraries to read.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .shared_memory(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

fn pool_config(config: &EngineConfig) -> PoolingAllocationConfig {
    let sandboxes = u32::try_from(config.max_sandboxes).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // A store keeps its last fiber's stack, so each sandbox takes one.
    pool.total_stacks(sandboxes)
        .total_component_instances(sandboxes)
        .total_core_instances(sandboxes.saturating_mul(POOL_INSTANCES))
        .total_memories(sandboxes.saturating_mul(2))
        .total_tables(sandboxes.saturating_mul(POOL_TABLES).max(POOL_INSTANCES))
        .max_core_instances_per_component(POOL_INSTANCES)
        .max_memories_per_component(4)
        .max_tables_per_component(POOL_INSTANCES)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        // Nothing of it is kept when the slot is given back: only what is lowest could be, where a stub has its unused stack. And `pagemap_scan` passes over
        // written pages that are swapped out or being moved, which the next stub would find.
        .max_memory_size(config.max_memory_bytes)
        .table_elements(POOL_TABLE_ELEMENTS)
        .table_keep_resident(16 << 10)
        // At once: what waited for a batch would be the memory of as many hostile stubs, as much as each may have.
        .decommit_batch_size(1);
    pool
}

/// Everything that a stub may import: the contract, and WASI.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<StubState>> {
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker)?;
    crate::host::add_to_linker(&mut linker)?;
    Ok(linker)
}
