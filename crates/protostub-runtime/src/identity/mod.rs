//! The Identity Module: who has the credentials of domains, and who is logged in with what.
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
//! A credential that has run out is never handed out. A stub that holds one asks for the next with `identity.request` before `expires`: whoever
//! gets credentials from afar renews them before it.

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
pub(crate) use provider::Network;
