//! Compilation in a process of its own. The compiler cannot be interrupted, and its memory is not
//! bounded; a process can be ended, and has limits.
//!
//! ```text
//! host ── key, limits, component ──► stdin of the worker      limits itself, compiles, seals
//!      ◄── compiled code, sealed ─── its stdout               and ends
//! ```
//!
//! The worker is the same program as the host, or one that was built with the same version of this
//! crate. It calls [`compile_worker`]. Its reply is authenticated like an entry of the code cache,
//! by a key that is made for this one component. A program that is not a worker of this version
//! cannot make the host load any code. A worker whose host has gone ends at once.
//!
//! A worker is not a second sandbox. A component that takes over the compiler can make it emit any
//! code, which the host then loads. The same holds for a compiler in the host's process. The worker
//! bounds the resources of compiling.

mod child;
mod parent;

use std::path::PathBuf;

use protostub_types::Sha256Digest;

use crate::engine::Allocation;

pub use child::compile_worker;
pub(crate) use parent::compile;

/// The only argument of a worker.
pub const COMPILE_WORKER: &str = "compile-worker";
/// The first bytes of a request, and those of a reply. Another version of the format gets other
/// texts.
const REQUEST_MAGIC: &[u8; 16] = b"protostub order1";
const REPLY_MAGIC: &[u8; 16] = b"protostub answer";
/// Length of the key, in bytes.
const KEY_BYTES: usize = 32;

/// The worker that compiles components outside of the host's process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompileWorker {
    /// The executable. The host calls it as `<program> compile-worker`, and it has to call
    /// [`compile_worker`] then. Mostly the program itself ([`std::env::current_exe`]). Any user who
    /// can replace it can replace the host.
    pub program: PathBuf,
    /// Maximum address space of a worker, in bytes. Apple's systems refuse such a limit, so a
    /// worker's memory is unbounded there. Default: 4 GiB.
    pub memory_bytes: u64,
    /// Maximum computing time of a worker, in whole seconds. Default: 60.
    pub cpu_seconds: u64,
}

impl CompileWorker {
    /// Default of [`Self::memory_bytes`]: 4 GiB.
    pub const MEMORY_BYTES: u64 = 4 << 30;

    /// Makes a worker of this program, with the default limits.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), memory_bytes: Self::MEMORY_BYTES, cpu_seconds: 60 }
    }
}

/// The first part of a worker's input, of fixed length. The component follows.
struct CompileRequest {
    key: [u8; KEY_BYTES],
    /// Digest of the engine that the code is for.
    engine: Sha256Digest,
    memory_bytes: u64,
    cpu_seconds: u64,
    allocation: Allocation,
}

/// Size of an encoded [`CompileRequest`], in bytes.
const REQUEST_BYTES: usize = REQUEST_MAGIC.len() + KEY_BYTES + 32 + 8 + 8 + 1;

/// The kind of a worker's reply: the byte after [`REPLY_MAGIC`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyKind {
    /// A sealed entry follows.
    Compiled = 0,
    /// The component is not valid. The reason follows.
    Invalid = 1,
    /// The worker was built for another engine.
    Mismatch = 2,
    /// The compiler panicked. The text of the panic follows.
    Panicked = 3,
}

impl CompileRequest {
    fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.memory_bytes.to_le_bytes(), self.cpu_seconds.to_le_bytes()].concat();
        [
            REQUEST_MAGIC.as_slice(),
            &self.key,
            self.engine.as_bytes(),
            &numbers,
            &[u8::from(self.allocation == Allocation::Pooled)],
        ]
        .concat()
    }

    /// Reads a request. Returns `None` if the bytes are not a request, or one of another version.
    fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let rest = bytes.strip_prefix(REQUEST_MAGIC.as_slice())?;
        let (key, rest) = rest.split_first_chunk()?;
        let (engine, rest) = rest.split_first_chunk()?;
        let (memory, rest) = rest.split_first_chunk()?;
        let (cpu, rest) = rest.split_first_chunk()?;
        Some(Self {
            key: *key,
            engine: Sha256Digest::from_bytes(*engine),
            memory_bytes: u64::from_le_bytes(*memory),
            cpu_seconds: u64::from_le_bytes(*cpu),
            allocation: if rest == [1] { Allocation::Pooled } else { Allocation::OnDemand },
        })
    }
}
