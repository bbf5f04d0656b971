//! The vocabulary of Protostub. Values are parsed once, where they enter the program; afterwards
//! their type proves that they are valid.
//!
//! * [`Domain`]: a domain that runs a protocol, and [`StubKey`]: the stub that serves an address of
//!   it
//! * [`Address`], [`Message`], [`Body`]: messages on the bus
//! * [`json_line`], [`json_indented`]: JSON text of strangers, rewritten for output
//! * [`Descriptor`]: a domain's description of its protocol stub, and [`Sha256Digest`]: the digest
//!   that binds the code to it
//! * [`file_name()`]: the check of a stranger's name before it becomes a part of a path
//! * [`OAuthScope`]: the scope of a credential that a stub requests
//! * [`UniqueMap`]: a map that takes each key once, in any spelling
//! * [`StubStatus`]: the status of a stub, and [`StatusReport`]: a published status
//! * [`Step`]: a step of a deployment, as the specification numbers it
//! * [`SafeText`], [`SafeList`]: text of strangers, safe to show; an error with all its causes, in
//!   one line
//! * [`settings`], [`overridable`]: settings in files, and one party's overrides of them
//! * [`TokenBucket`]: a rate limit
//! * [`Allowances`]: limits of a day or an hour, with a share for each party
//! * [`Backoff`]: growing pauses between attempts
//! * [`call_hook`], [`await_hook`]: calls of the host program's code, which may panic
//!
//! This crate does no I/O, spawns no task and depends on no async runtime.

mod address;
mod allowance;
mod backoff;
mod descriptor;
mod digest;
mod domain;
mod file_name;
mod hook;
mod json;
mod key;
mod message;
mod scope;
pub mod settings;
mod status;
mod step;
mod text;
mod time;
mod token_bucket;
mod unique;
mod version;

pub use address::{Address, AddressError, MAX_ADDRESS_BYTES};
pub use allowance::{Allowance, Allowances, Overdrawn, within_share};
pub use backoff::Backoff;
pub use descriptor::{
    DEFAULT_COMPONENT_BYTES, DEFAULT_DESCRIPTOR_BYTES, Descriptor, DescriptorError, Encoding, SourceLocation, SourcePackage,
    WASM_COMPONENT,
};
pub use digest::{DigestError, Sha256Digest};
pub use domain::{Domain, DomainError};
pub use file_name::file_name;
pub use hook::{HookPanicked, await_hook, call_hook, panic_message};
pub use json::{json_indented, json_line};
pub use key::StubKey;
pub use message::{Body, MAX_HEADERS, MAX_HEADERS_BYTES, MAX_VIA, Message, MessageError, MessageId, MessageType};
pub use scope::{OAuthScope, OAuthScopeError};
pub use status::{StatusReport, StubStatus};
pub use step::Step;
pub use text::{SafeList, SafeText};
pub use time::deadline;
pub use token_bucket::TokenBucket;
pub use unique::{RepeatedKey, UniqueMap};
pub use version::{Version, VersionError};
