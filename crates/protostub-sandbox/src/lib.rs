//! One protocol stub, one wasmtime store, one task.
//!
//! ```text
//! Engine ── compile ──► CompiledStub ── Sandbox::new ──► Sandbox ── deploy_component ──► StubHandle   (asked by the runtime)
//!                                                                                     └► StubTask     (run by the runtime)
//! ```
//!
//! * [`Engine`]: what all stubs of a process share: the compiler with its caches, the pool of memory for instances, the clock by which
//!   computing time is counted
//! * [`CompiledStub`]: a component that is known to be a stub: it exports what the contract asks for, and imports nothing that it does not offer
//! * [`Sandbox`]: the store of one stub, with its [`Limits`]; nothing has run yet
//! * [`StubTask`]: the running instance. It waits for commands, timers, connections and messages, and hands them to the guest in batches.
//!   Nobody else enters the store
//!
//! A stub can do what the contract (`wit/0.1`) offers it and nothing else: WASI is linked with an empty context, so there are no files, no
//! environment and no sockets. Whatever a stub does, it ends its own instance at worst ([`Outcome`]), and a
//! [`CrashReport`] is left of it.
//!
//! The stub's connections are `protostub-transport`'s; this crate gives them to the guest.
//!
//! This crate holds mechanism. The runtime decides when a stub is deployed, connected, restarted or
//! ended. It is the only crate that names wasmtime.

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
mod limit_counters;
mod limits;
mod machine;
mod meter;
mod origin;
mod recorder;
mod sandbox;
mod secrets;
mod services;
mod session;
mod state;
mod task;
mod wasi;
mod worker;
mod world;

pub use compile::{CompileError, CompiledStub};
pub use crash::{Activity, ActivityKind, CallError, CrashKind, CrashReport, GuestCall, StackFrame};
pub use engine::{Engine, EngineConfig, EngineError, SandboxPermit};
pub use error::{Exceeded, Outcome, SandboxError, StartError, StartErrorKind, Trap};
pub use handle::{DisconnectReason, Idleness, InstanceEnded, StubHandle};
pub use imports::{HostImport, Import, StubInfo};
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

/// For [`HostImport`]s: what `bindgen!` generates names wasmtime, in the version that the engine is of.
pub use wasmtime;
