//! One protocol stub, one wasmtime store, one task.
//!
//! ```text
//! Engine ── compile ──► CompiledStub ── Sandbox::new ──► Sandbox ── deploy_component ┬► StubHandle
//!                                                                                    └► StubTask
//! ```
//!
//! The runtime sends its requests to the `StubHandle`, and runs the `StubTask`.
//!
//! * [`Engine`]: shared by all stubs of a process: the compiler with its caches, the memory pool
//!   for instances, the clock that counts computing time
//! * [`CompiledStub`]: a component that is known to be a stub. It exports all that the contract
//!   asks for, and imports only functions that the contract offers
//! * [`Sandbox`]: the store of one stub, with its [`Limits`]. No code of the stub has run yet
//! * [`StubTask`]: the running instance. It waits for commands, timers, connections and messages,
//!   and hands them to the guest in batches. No other task enters the store
//!
//! A stub can do what the contract (`wit/0.1`) offers, and nothing else. WASI is linked with an
//! empty context: the stub has no files, no environment and no sockets. At worst, a stub ends its
//! own instance ([`Outcome`]) and leaves a [`CrashReport`].
//!
//! `protostub-transport` owns the stub's connections. This crate gives them to the guest.
//!
//! This crate holds mechanism. The runtime decides when a stub is deployed, connected, restarted or
//! ended. No other crate names wasmtime.

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "Protostub runs on 64-bit systems only: sandboxes reserve more address space than others have; build for a 64-bit target"
);

mod call;
mod code_cache;
mod compile;
mod contract;
mod crash;
mod engine;
mod error;
mod handle;
mod host;
mod imports;
mod limit_check;
mod limit_counters;
mod limits;
mod machine;
mod meter;
mod origin;
mod panics;
mod recorder;
mod sandbox;
mod secrets;
mod services;
mod session;
mod state;
mod task;
mod total_memory;
mod wasi;
mod worker;
mod world;

pub use compile::{CompileError, CompiledStub};
pub use crash::{Activity, ActivityKind, CallError, CrashKind, CrashReport, GuestCall, StackFrame};
pub use engine::{Engine, EngineConfig, EngineError, SandboxPermit};
pub use error::{Exceeded, Outcome, SandboxError, StartError, StartErrorKind, Trap};
pub use handle::{DisconnectReason, Idleness, InstanceEnded, StubHandle};
pub use imports::{HostImport, Import, StubInfo};
pub use limit_check::InvalidLimit;
pub use limits::{LimitOverrides, Limits};
pub use origin::{CredentialOrigin, CredentialOriginError};
pub use sandbox::Sandbox;
pub use secrets::Secrets;
pub use services::{Credential, CredentialError, CredentialKind, CredentialSource, Presence, SandboxConfig, SandboxServices};
pub use session::{MAX_SESSION_BYTES, Session, SessionTooLarge};
pub use state::{StubState, Usage};
pub use task::{Ended, StubTask};
pub use worker::{COMPILE_WORKER, CompileWorker, compile_worker};
pub use world::WorldMismatch;

/// For [`HostImport`]s: the code that `bindgen!` generates names wasmtime, in the engine's version.
pub use wasmtime;
