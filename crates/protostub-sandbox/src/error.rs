use std::{fmt, sync::Arc, time::Duration};

use protostub_bus::Inbox;
use protostub_types::SafeText;

use crate::CrashReport;

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There are as many as there may be.
    #[error("there are {limit} sandboxes already, as many as there may be (`max_sandboxes`)")]
    TooMany {
        /// How many there may be.
        limit: usize,
    },
    /// A limit is set to more than the engine can give, or the configuration is too large.
    #[error("the stub's `{setting}` {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// wasmtime could not make it.
    #[error("wasmtime could not make a store")]
    Wasmtime(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a stub did not start. The inbox comes back with what is queued in it.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
#[expect(clippy::exhaustive_structs, reason = "callers take it apart to get the inbox")]
pub struct StartError {
    /// What happened.
    pub kind: StartErrorKind,
    /// What is known of it, if the stub's code crashed or ran into a limit.
    pub crash: Option<Arc<CrashReport>>,
    /// The inbox that was given to the stub.
    pub inbox: Inbox,
}

impl StartError {
    /// Returns what happened, for callers that branch on it.
    #[must_use]
    pub fn kind(&self) -> &StartErrorKind {
        &self.kind
    }
}

/// What happened when a stub was to start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The stub refused, with this reason: its configuration is wrong, say.
    #[error("the stub refused to start: {0}")]
    Refused(SafeText),
    /// It trapped while it was instantiated or in `start`.
    #[error("the stub crashed while it started: {0}")]
    Trapped(Trap),
    /// It used more than it may while it was instantiated or in `start`.
    #[error("the stub used more than it may while it started: {0}")]
    Exceeded(Exceeded),
    /// It could not be instantiated: no room in the pool, say.
    #[error("the stub could not be instantiated: {0}")]
    Instantiate(SafeText),
}

/// How an instance ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It was asked to: [`StubHandle::stop`](crate::StubHandle::stop), or every handle was dropped.
    Stopped,
    /// The guest crashed: the stub author's fault.
    Trapped(Trap),
    /// It used more than it may.
    Exceeded(Exceeded),
}

impl Outcome {
    /// Whether it ended as it was asked to.
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
            Self::Exceeded(exceeded) => write!(f, "the stub used more than it may: {exceeded}"),
        }
    }
}

/// A guest's crash, in short; a [`CrashReport`] has the rest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trap {
    /// What wasmtime calls it: `wasm unreachable instruction executed`, say; `it ended itself with code 1`.
    pub reason: SafeText,
    /// What the guest wrote to standard error last; in Rust, the panic's message and place.
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

/// A limit that an instance ran into, and that ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// One call computed for too long.
    Cpu {
        /// For how long it may.
        limit: Duration,
    },
    /// One call took too long, with what it waited for.
    Time {
        /// How long it may take.
        limit: Duration,
    },
    /// The memory was to grow too large, and the guest did not cope with being denied it.
    Memory {
        /// How large it was to be, in bytes.
        wanted: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A table was to grow too large, and the guest did not cope with being denied it.
    Table {
        /// How many elements it was to have.
        wanted: usize,
        /// How many it may have.
        limit: usize,
    },
    /// It called itself too deeply.
    Stack {
        /// How many bytes of stack there are.
        limit: usize,
    },
    /// One call of an import moved too many bytes of strings and lists into the host.
    Hostcall {
        /// How many bytes it may.
        limit: usize,
    },
    /// It held too many handles of resources.
    Handles {
        /// How many it may hold.
        limit: usize,
    },
    /// One call asked for too many random bytes.
    Random {
        /// How many it may ask for.
        limit: u64,
    },
}

impl Exceeded {
    /// The setting of [`Limits`](crate::Limits) that is the limit; `stack` for the engine's.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu_per_call",
            Self::Time { .. } => "time_per_call",
            Self::Memory { .. } => "memory_bytes",
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
            Self::Cpu { limit } => write!(f, "a call computed for more than {limit:?}"),
            Self::Time { limit } => write!(f, "a call took more than {limit:?}"),
            Self::Memory { wanted, limit } => write!(f, "a memory was to grow to {wanted} bytes, and {limit} are allowed"),
            Self::Table { wanted, limit } => write!(f, "a table was to grow to {wanted} elements, and {limit} are allowed"),
            Self::Stack { limit } => write!(f, "calls within calls took more than the {limit} bytes of stack"),
            Self::Hostcall { limit } => write!(f, "a call of the host carried more than {limit} bytes"),
            Self::Handles { limit } => write!(f, "it held more than {limit} handles of resources"),
            Self::Random { limit } => write!(f, "a call asked for more than {limit} random bytes"),
        }
    }
}
