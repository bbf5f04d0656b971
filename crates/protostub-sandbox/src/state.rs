use std::{fmt, sync::Arc, time::Duration};

use protostub_transport::Connections;
use protostub_types::{Address, Domain};
use wasmtime::ResourceLimiter;

use crate::{
    Exceeded, Limits, SandboxConfig, SandboxServices, Secrets,
    host::{Handles, IdentityRequests, Posting, Status, Timers, log::LogLines},
    imports::ImportData,
    limit_counters::LimitCounters,
    meter::CpuBudget,
    recorder::{Entry, Recorder},
    total_memory::TotalMemory,
    wasi::Wasi,
};

/// State of one instance of a stub, for the functions that the stub imports. Only
/// [`HostImport`](crate::HostImport)s need it.
// Only the sandbox's task, and the imports that the guest calls in that task, touch the state.
pub struct StubState {
    pub(crate) config: SandboxConfig,
    pub(crate) services: SandboxServices,
    pub(crate) handles: Handles,
    pub(crate) posting: Posting,
    pub(crate) status: Status,
    pub(crate) timers: Timers,
    pub(crate) identity: IdentityRequests,
    pub(crate) connections: Connections,
    pub(crate) log: Arc<LogLines>,
    /// Secrets that the instance was handed. They must not be readable in its texts.
    pub(crate) secrets: Arc<Secrets>,
    /// Made at the guest's first use: many stubs never use WASI (`idle_stub_kib`).
    pub(crate) wasi: Option<Box<Wasi>>,
    pub(crate) memory: MemoryLimiter,
    pub(crate) cpu: CpuBudget,
    pub(crate) limit_counters: LimitCounters,
    pub(crate) recorder: Recorder,
    pub(crate) import_data: ImportData,
}

impl StubState {
    /// Returns the stub's own address.
    #[must_use]
    pub fn url(&self) -> &Address {
        &self.config.url
    }

    /// Returns the stub's domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.config.domain
    }

    /// Records a call of the host.
    pub(crate) fn record(&mut self, call: &Entry) {
        self.recorder.call(self.cpu.now(), call);
    }

    pub(crate) fn new(
        services: SandboxServices,
        config: SandboxConfig,
        cpu: CpuBudget,
        import_data: ImportData,
        memory: &Arc<TotalMemory>,
    ) -> Self {
        let limits = &config.limits;
        let secrets = Arc::new(Secrets::new());
        let allowance = services.log_allowance.clone();
        let log = LogLines::new(config.url.clone(), config.domain.clone(), limits, Arc::clone(&secrets), allowance);
        Self {
            handles: Handles::default(),
            posting: Posting::new(&config, &services.bus),
            status: Status::new(limits.publications_per_second),
            timers: Timers::default(),
            identity: IdentityRequests::default(),
            connections: Connections::new(
                services.egress.clone(),
                services.quota.clone(),
                config.grants.clone(),
                limits.transport(),
            ),
            wasi: None,
            log: Arc::new(log),
            secrets,
            memory: MemoryLimiter::new(limits, memory),
            cpu,
            limit_counters: LimitCounters::default(),
            recorder: Recorder::new(),
            import_data,
            services,
            config,
        }
    }
}

impl fmt::Debug for StubState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StubState").field("url", &self.config.url).finish_non_exhaustive()
    }
}

/// Resources that an instance has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Maximum size that its linear memories had together, in bytes.
    pub memory_bytes: usize,
    /// Number of calls of `handle`.
    pub calls: u64,
    /// Computing time of the longest call, counted in [ticks](crate::EngineConfig::tick). The first
    /// tick may be shorter.
    pub longest_call: Duration,
}

/// Limits of memories and tables. Remembers the growth that was denied during a call, as the reason
/// if the guest crashes then.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    memory_bytes: usize,
    memories: usize,
    table_elements: usize,
    tables: usize,
    instances: usize,
    denied: Option<Exceeded>,
    /// Size of all memories together. No memory ever shrinks.
    grown_bytes: usize,
    /// The memories of all sandboxes. Gets the bytes back when the limiter is dropped.
    total: Arc<TotalMemory>,
    /// Number of growths that `total` refused since they were last taken.
    refused_by_total: u64,
}

impl MemoryLimiter {
    fn new(limits: &Limits, total: &Arc<TotalMemory>) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            memories: limits.memories,
            table_elements: limits.table_elements,
            tables: limits.tables,
            instances: limits.instances,
            denied: None,
            grown_bytes: 0,
            total: Arc::clone(total),
            refused_by_total: 0,
        }
    }

    /// Returns the size of all memories together, in bytes.
    pub(crate) fn grown_bytes(&self) -> usize {
        self.grown_bytes
    }

    pub(crate) fn begin_call(&mut self) {
        self.denied = None;
    }

    pub(crate) fn has_denied(&self) -> bool {
        self.denied.is_some()
    }

    /// Returns the number of growths that the total of all sandboxes refused since the last call of
    /// this function.
    pub(crate) fn take_refused_by_total(&mut self) -> u64 {
        std::mem::take(&mut self.refused_by_total)
    }

    pub(crate) fn take_denied(&mut self) -> Option<Exceeded> {
        if matches!(self.denied, Some(Exceeded::TotalMemory { .. })) {
            // The caller counts it.
            self.refused_by_total -= 1;
        }
        self.denied.take()
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.total.give_back(self.grown_bytes);
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.grown_bytes.saturating_add(desired.saturating_sub(current));
        // The module's own limit.
        if let Some(maximum) = maximum
            && desired > maximum
        {
            self.denied = Some(Exceeded::Memory { wanted: desired, limit: maximum });
            return Ok(false);
        }
        if wanted > self.memory_bytes {
            self.denied = Some(Exceeded::Memory { wanted, limit: self.memory_bytes });
            return Ok(false);
        }
        let more = wanted - self.grown_bytes;
        if !self.total.grow(self.grown_bytes, more) {
            self.denied = Some(Exceeded::TotalMemory { wanted: more, limit: self.total.limit() });
            self.refused_by_total += 1;
            return Ok(false);
        }
        self.grown_bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = maximum.map_or(self.table_elements, |maximum| maximum.min(self.table_elements));
        if desired > limit {
            self.denied = Some(Exceeded::Table { wanted: desired, limit });
        }
        Ok(desired <= limit)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}
