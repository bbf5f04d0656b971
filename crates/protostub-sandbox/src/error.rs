use std::{fmt, sync::Arc, time::Duration};

use protostub_bus::Inbox;
use protostub_types::{HookPanicked, SafeText};

use crate::CrashReport;

/// Reasons why a sandbox cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The engine has as many sandboxes as its limit.
    #[error("sandbox limit reached ({limit}); raise `max-sandboxes`")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A limit exceeds the engine's limit, or the configuration is too large.
    #[error("the stub's `{setting}` {problem}")]
    Setting {
        /// Name of the setting, as operators write it.
        setting: &'static str,
        /// The problem, with the remedy.
        problem: String,
    },
    /// An import of the host program's own panicked.
    #[error("failed to make the data of the import `{interface}`")]
    Import {
        /// The interface.
        interface: &'static str,
        /// The panic.
        #[source]
        source: HookPanicked,
    },
    /// wasmtime could not make the store.
    #[error("wasmtime could not make a store")]
    Wasmtime(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reason why a stub did not start. It gives the inbox back, with the messages that are queued in
/// it.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
#[expect(clippy::exhaustive_structs, reason = "callers take it apart to get the inbox")]
pub struct StartError {
    /// The kind of failure.
    pub kind: StartErrorKind,
    /// Report of the crash, if the stub's code crashed or exceeded a limit.
    pub crash: Option<Arc<CrashReport>>,
    /// The inbox that was given to the stub.
    pub inbox: Inbox,
}

impl StartError {
    /// Returns the kind of failure, for callers that branch on it.
    #[must_use]
    pub fn kind(&self) -> &StartErrorKind {
        &self.kind
    }
}

/// Kinds of failure while a stub starts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The stub refused, with this reason, for example a wrong configuration.
    #[error("the stub refused to start: {0}")]
    Refused(SafeText),
    /// The stub trapped while the host instantiated it, or in `start`.
    #[error("the stub crashed while it started: {0}")]
    Trapped(Trap),
    /// The stub exceeded a limit while the host instantiated it, or in `start`.
    #[error("the stub exceeded a limit while it started: {0}")]
    Exceeded(Exceeded),
    /// The host could not instantiate the stub, for example because the pool has no room.
    #[error("the stub could not be instantiated: {0}")]
    Instantiate(SafeText),
}

/// The way in which an instance ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The caller stopped it by [`StubHandle::stop`](crate::StubHandle::stop), or dropped every
    /// handle.
    Stopped,
    /// The guest crashed: the stub author's fault.
    Trapped(Trap),
    /// The instance exceeded a limit.
    Exceeded(Exceeded),
}

impl Outcome {
    /// Returns `true` if the caller stopped the instance.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(self, Self::Stopped)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the stub was stopped"),
            Self::Trapped(trap) => write!(f, "the stub crashed: {trap}"),
            Self::Exceeded(exceeded) => write!(f, "the stub exceeded a limit: {exceeded}"),
        }
    }
}

/// Short form of a guest's crash. A [`CrashReport`] has the details.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trap {
    /// wasmtime's name of the trap, for example `wasm unreachable instruction executed`, or `the
    /// stub exited with code 1`.
    pub reason: SafeText,
    /// The last lines that the guest wrote to standard error. In Rust, the panic's message and
    /// place.
    pub message: Option<SafeText>,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} ({})", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// A limit that an instance exceeded, and that ended the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// One call computed for too long.
    Cpu {
        /// Maximum computing time of a call.
        limit: Duration,
    },
    /// One call took too long, its waiting time included.
    Time {
        /// Maximum time of a call.
        limit: Duration,
    },
    /// The host denied the guest a larger memory, and the guest did not cope with that.
    Memory {
        /// Requested size, in bytes.
        wanted: usize,
        /// Maximum size, in bytes.
        limit: usize,
    },
    /// The host denied the guest a larger memory, because the memories of all stubs have their
    /// limit, or this stub has its share of it. The guest did not cope with that.
    TotalMemory {
        /// Requested growth, in bytes.
        wanted: usize,
        /// Maximum size of the memories of all stubs together, in bytes.
        limit: usize,
    },
    /// The host denied the guest a larger table, and the guest did not cope with that.
    Table {
        /// Requested number of elements.
        wanted: usize,
        /// Maximum number of elements.
        limit: usize,
    },
    /// The guest nested its calls too deeply.
    Stack {
        /// Size of the stack, in bytes.
        limit: usize,
    },
    /// One call of an import moved too many bytes of strings and lists into the host.
    Hostcall {
        /// Maximum number of bytes.
        limit: usize,
    },
    /// The instance held too many resource handles.
    Handles {
        /// Maximum number of handles.
        limit: usize,
    },
    /// One call asked for too many random bytes.
    Random {
        /// Maximum number of random bytes.
        limit: u64,
    },
}

impl Exceeded {
    /// Returns the name of the field of [`Limits`](crate::Limits) that holds the limit. The
    /// engine's limits are `stack` and `max_memory_bytes`: the runtime's name of
    /// [`EngineConfig::max_total_memory_bytes`](crate::EngineConfig::max_total_memory_bytes).
    #[must_use]
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu_per_call",
            Self::Time { .. } => "time_per_call",
            Self::Memory { .. } => "memory_bytes",
            Self::TotalMemory { .. } => "max_memory_bytes",
            Self::Table { .. } => "table_elements",
            Self::Stack { .. } => "stack",
            Self::Hostcall { .. } => "hostcall_bytes",
            Self::Handles { .. } => "resource_handles",
            Self::Random { .. } => "random_bytes",
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { limit } => write!(f, "a call computed for more than {limit:?} (`cpu-per-call-milliseconds`)"),
            Self::Time { limit } => write!(f, "a call took more than {limit:?} (`time-per-call-milliseconds`)"),
            Self::Memory { wanted, limit } => {
                write!(f, "a memory was to grow to {wanted} bytes; limit: {limit} (`memory-bytes`)")
            }
            Self::TotalMemory { wanted, limit } => write!(
                f,
                "a memory was to grow by {wanted} bytes; all stubs share {limit}, and this stub has its share of the rest (`max-memory-bytes`)"
            ),
            Self::Table { wanted, limit } => {
                write!(f, "a table was to grow to {wanted} elements; limit: {limit} (`table-elements`)")
            }
            Self::Stack { limit } => write!(f, "nested calls took more than the {limit} bytes of stack"),
            Self::Hostcall { limit } => write!(f, "a call of the host carried more than {limit} bytes (`hostcall-bytes`)"),
            Self::Handles { limit } => write!(f, "the stub held more than {limit} resource handles (`resource-handles`)"),
            Self::Random { limit } => write!(f, "a call asked for more than {limit} random bytes (`random-bytes`)"),
        }
    }
}
