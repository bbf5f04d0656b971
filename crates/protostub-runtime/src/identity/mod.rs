//! The Identity Module: credentials of domains, and explicit logins of stubs.
//!
//! ```text
//!               login ──► explicit: what a hyperty or the host program gave for one stub
//!                              │ none, or it has run out
//! a stub's `connect` ◄─────────┤
//! `identity.request` ◄─────────┤
//!                              ▼
//!               module ──► providers, in their order, the first that knows the domain:
//!                          table, files, environment, oauth2, the host program's own
//! ```
//!
//! An expired credential is never handed out. A stub asks for the next credential with
//! `identity.request` before `expires`. A provider that fetches credentials over the network
//! therefore renews them before they expire.

mod environment;
mod explicit;
mod files;
mod module;
mod oauth2;
mod provider;
mod secret;
mod table;

pub use environment::EnvironmentCredentials;
pub use files::FileCredentials;
pub use oauth2::{OAuth2Client, OAuth2Credentials};
pub use protostub_sandbox::{Credential, CredentialError, CredentialKind};
pub use provider::{CredentialProvider, CredentialRequest};
pub use secret::Secret;
pub use table::StaticCredentials;

pub(crate) use explicit::{ExplicitLogin, StubCredentials};
pub(crate) use files::CredentialJson;
pub(crate) use module::IdentityModule;
pub(crate) use provider::{Network, provider_panicked};
