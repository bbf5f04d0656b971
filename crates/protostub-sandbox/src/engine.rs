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

use protostub_files::OtherWriters;
use protostub_types::DEFAULT_COMPONENT_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails, component::Linker};

use crate::{
    CompileWorker, Import, SandboxError, code_cache::CodeCache, compile::Compiler, imports::Imports, machine,
    meter::long_call_permits, state::StubState, total_memory::TotalMemory, wasi,
};

/// Maximum number of elements of a guest's table: the size of a slot of the pool.
pub(crate) const POOL_TABLE_ELEMENTS: usize = 20_000;
/// Maximum number of core instances of one component, and of its tables. Rust's components have
/// about four instances. Python's have about forty, since their libraries are linked together.
pub(crate) const POOL_INSTANCES: u32 = 64;
/// Maximum number of memories of one component, in all its modules together. The code between two
/// components of a composition uses the memories of both.
pub(crate) const POOL_MEMORIES: u32 = 4;
/// Number of tables in the pool for each sandbox. Most components have two or three.
const POOL_TABLES: u32 = 8;
/// Maximum size of a guest's stack, in bytes. The host's functions get the rest of the fiber's
/// stack.
pub(crate) const WASM_STACK_BYTES: usize = 512 << 10;
/// Size of a fiber's stack, in bytes. Only pages that were touched take memory.
const FIBER_STACK_BYTES: usize = 1 << 20;
/// Address space that a memory reserves if there is no pool, in bytes.
const SMALL_RESERVATION_BYTES: u64 = 64 << 20;
/// Number of ticks without a guest call after which the ticker parks. Waking the ticker costs more
/// than these ticks.
const TICKS_BEFORE_PARKING: u32 = 40;

/// Configuration of an [`Engine`], which all stubs of a process share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Directory that keeps compiled code over restarts. `None` keeps no code on disk.
    ///
    /// The host executes the code in the directory. So it makes the directory readable and writable
    /// for its owner only, and no other user may be able to replace the directory. The host
    /// authenticates each file before it uses it. Processes may share the directory.
    pub cache_dir: Option<PathBuf>,
    /// File with the key that authenticates the code in [`Self::cache_dir`]. If the file is
    /// missing, the engine makes it, for its owner only. The file may not be in that directory.
    ///
    /// `None` puts the key next to the directory, as `<directory>.key`. With another key,
    /// everything is compiled again.
    pub cache_key: Option<PathBuf>,
    /// If other users may own, or write to, the directories on the path to [`Self::cache_dir`].
    /// They can then remove compiled code. Default: `false`.
    pub allow_other_writers: bool,
    /// Maximum size of all kept code, in bytes. The code that was not used for the longest time is
    /// removed first. Default: 1 GiB.
    pub max_cache_bytes: u64,
    /// Maximum number of sandboxes at a time. They reserve address space, not memory. At most
    /// [`Engine::most_sandboxes`]. Default: 1 000.
    pub max_sandboxes: usize,
    /// Unit in which computing time is counted. A guest that computes yields to others once per
    /// tick. Default: 2 ms.
    pub tick: Duration,
    /// Maximum value of [`Limits::memory_bytes`](crate::Limits::memory_bytes). A guest's memory
    /// takes only the pages that the guest touched. Default: 1 GiB.
    pub max_memory_bytes: usize,
    /// Maximum size of the linear memories of all sandboxes together, in bytes, touched or not. A
    /// sandbox gets no more than is left for all others. Default: the size of the machine's memory.
    pub max_total_memory_bytes: Option<usize>,
    /// Maximum size of a component, in bytes. Default: 64 MiB.
    pub max_component_bytes: usize,
    /// Worker that compiles components within limits: a process for each component. The worker ends
    /// when no caller waits for it any more.
    ///
    /// `None` compiles in this process, in one thread, one component after the other.
    pub compile_worker: Option<CompileWorker>,
    /// The host program's own interfaces, for the stubs to which they are granted. Default: none.
    pub imports: Vec<Import>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_key: None,
            allow_other_writers: false,
            max_cache_bytes: 1 << 30,
            max_sandboxes: 1_000,
            tick: Duration::from_millis(2),
            max_memory_bytes: 1 << 30,
            max_total_memory_bytes: None,
            max_component_bytes: DEFAULT_COMPONENT_BYTES,
            compile_worker: None,
            imports: Vec::new(),
        }
    }
}

/// Reasons why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The directory for compiled code, or its key, cannot be used.
    #[error("{} cannot be used for compiled code", path.display())]
    Cache {
        /// The directory, or the file with the key.
        path: PathBuf,
        /// The problem.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The compile worker's executable does not exist, or is not a file.
    #[error("the compile worker {} is no executable file", program.display())]
    Worker {
        /// Its path, as the caller gave it.
        program: PathBuf,
    },
    /// A setting has an impossible value.
    #[error("the engine's `{setting}` {problem}")]
    Setting {
        /// Name of the setting in [`EngineConfig`].
        setting: &'static str,
        /// The problem.
        problem: &'static str,
    },
    /// The system allows a process fewer mappings of memory than the sandboxes need.
    #[error(
        "{sandboxes} sandboxes need {needed} mappings of memory, and this machine allows a process {allowed}: have at most {most} (`max-sandboxes`), \
         or raise the limit of the system (`sysctl -w vm.max_map_count={needed}`)"
    )]
    Mappings {
        /// Requested number of sandboxes.
        sandboxes: usize,
        /// Number of sandboxes that the system has room for.
        most: usize,
        /// Maximum number of mappings of a process.
        allowed: usize,
        /// Number of mappings that the sandboxes would need.
        needed: usize,
    },
    /// The engine cannot offer one of the host program's own interfaces.
    #[error("the interface `{interface}` of the host program cannot be offered to stubs")]
    Import {
        /// Its name.
        interface: &'static str,
        /// The reason, mostly wasmtime's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// wasmtime cannot work on this system.
    #[error("wasmtime cannot work on this system")]
    Wasmtime(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that counts computing time could not be started.
    #[error("the thread that counts computing time could not be started")]
    Ticker(#[source] std::io::Error),
}

/// Resources that all stubs of a process share: the compiler with its caches, the memory pool for
/// instances, and the clock that counts computing time. Cloning is cheap; clones are the same
/// engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    wasm: wasmtime::Engine,
    compiler: Compiler,
    config: EngineConfig,
    allocation: Allocation,
    memory: Arc<TotalMemory>,
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
    /// Makes an engine, with a thread that counts computing time. The thread sleeps while no guest
    /// runs, and ends with the engine.
    ///
    /// # Errors
    /// If the system cannot run it, or `cache_dir` cannot be used.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        if config.tick.is_zero() {
            return Err(EngineError::Setting { setting: "tick", problem: "is zero; set a larger value" });
        }
        if config.max_sandboxes == 0 {
            return Err(EngineError::Setting { setting: "max_sandboxes", problem: "is zero; set a larger value" });
        }
        machine::check(config.max_sandboxes)?;
        if let Some(worker) = config.compile_worker.as_ref().filter(|worker| !worker.program.is_file()) {
            return Err(EngineError::Worker { program: worker.program.clone() });
        }
        let writers = OtherWriters::allowed(config.allow_other_writers);
        let open = |folder| CodeCache::open(folder, config.cache_key.as_deref(), config.max_cache_bytes, writers);
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
                memory: TotalMemory::new(config.max_total_memory_bytes.unwrap_or_else(machine::memory_bytes)),
                sandboxes: Arc::new(Semaphore::new(config.max_sandboxes.min(Semaphore::MAX_PERMITS))),
                ticker,
                ticking,
                long_calls: Arc::new(long_call_permits()),
            }),
        })
    }

    /// Returns the largest possible [`EngineConfig::max_sandboxes`]: the number of sandboxes that
    /// one process has room for on this machine. Returns `None` if that is unknown.
    #[must_use]
    pub fn most_sandboxes() -> Option<usize> {
        machine::most_sandboxes()
    }

    /// Returns `true` if instances get their memory from a pool that was reserved beforehand.
    /// Without a pool, making an instance takes about three times as long, and the system bounds
    /// the number of instances.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.inner.allocation == Allocation::Pooled
    }

    /// Returns the number of sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.inner.config.max_sandboxes.saturating_sub(self.inner.sandboxes.available_permits())
    }

    /// Returns two counts: components that were loaded from [`EngineConfig::cache_dir`], and
    /// components that were compiled because the directory had no trusted code of them. Returns
    /// `None` if there is no such directory.
    #[must_use]
    pub fn disk_cache(&self) -> Option<(usize, usize)> {
        self.inner.compiler.disk_cache()
    }

    pub(crate) fn memory(&self) -> &Arc<TotalMemory> {
        &self.inner.memory
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

    /// Converts computing time to ticks, at least one.
    pub(crate) fn ticks(&self, time: Duration) -> u64 {
        let ticks = time.as_nanos().div_ceil(self.inner.config.tick.as_nanos().max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn long_calls(&self) -> &Arc<Semaphore> {
        &self.inner.long_calls
    }

    /// Counts computing time until the guard is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        // This order, with `SeqCst`, lets either the ticker see the call, or the call see the
        // ticker park.
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

/// The right to make one of the engine's [`EngineConfig::max_sandboxes`] sandboxes. Dropping the
/// permit, or the sandbox that was made with it, gives the right back.
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

/// The thread that advances the engine's epoch while guests run. It holds the engine weakly, and
/// sleeps while no guest runs.
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
                target: "protostub",
                sandboxes = config.max_sandboxes,
                error = format!("{error:#}"),
                "the system refuses the address space of a pool for sandboxes, so each sandbox reserves its own, and starts more slowly; raise the limit \
                 (`ulimit -v`), or lower `max-sandboxes`"
            );
            Ok((for_compiling(Allocation::OnDemand)?, Allocation::OnDemand))
        }
    }
}

/// Makes an engine that only compiles, for an engine with this allocation. It has no pool itself:
/// compiled code depends on the reserved address space of a memory, not on the allocator.
pub(crate) fn for_compiling(allocation: Allocation) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = base_config();
    if allocation == Allocation::OnDemand {
        config.memory_reservation(SMALL_RESERVATION_BYTES).memory_reservation_for_growth(SMALL_RESERVATION_BYTES);
    }
    wasmtime::Engine::new(&config)
}

/// Returns the configuration that holds for every guest. Proposals that no stub needs are off: each
/// is a surface for untrusted code. Garbage collection, threads and asynchronous components are not
/// compiled in: see the features of the dependency.
fn base_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        // One thread compiles even a large component: the processors are for the stubs that run.
        .parallel_compilation(false)
        // Backtrace details would come from a component's debugging information, which is a
        // stranger's, and depend on the environment, which libraries must not read.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .shared_memory(false)
        .wasm_memory64(false)
        // Compositions need several memories: the compiler connects their components by code that
        // uses the memories of two components. `Limits::memories` and `Limits::memory_bytes` bound
        // them.
        .wasm_multi_memory(true)
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
        .max_memories_per_component(POOL_MEMORIES)
        .max_memories_per_module(POOL_MEMORIES)
        .max_tables_per_component(POOL_INSTANCES)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        // Keeps no page of a memory when its slot is given back. wasmtime could keep only the
        // lowest pages, where a stub has its unused stack. And `pagemap_scan` misses written pages
        // that are swapped out or being moved: the next stub would find them.
        .max_memory_size(config.max_memory_bytes)
        .table_elements(POOL_TABLE_ELEMENTS)
        .table_keep_resident(16 << 10)
        // Decommits at once. A batch that waits could hold the memory of as many hostile stubs,
        // each with its maximum.
        .decommit_batch_size(1);
    pool
}

/// Makes the linker with everything that a stub may import: the contract, and WASI.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<StubState>> {
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker)?;
    crate::host::add_to_linker(&mut linker)?;
    Ok(linker)
}
