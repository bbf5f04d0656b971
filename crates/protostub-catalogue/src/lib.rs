//! From a domain to bytes that may be trusted: steps 4 to 7 of "Deploy Protocol Stub".
//!
//! ```text
//!  StubKey ──discover──► Discovered ──fetch──► VerifiedComponent
//!             4–5            │          6–7           │
//!       well-known URLs   descriptor   digest      bytes, ready to be compiled
//! ```
//!
//! * [`Catalogue`] asks its [`Source`]s in order and the network last, keeps the limits of its [`CatalogueConfig`], and verifies.
//! * [`MemorySource`] and [`DirectorySource`] stand in front of the network; [`HttpsSource`] is the network. Embedders can add their own.
//! * A component that was verified once is kept in a store that is addressed by content and shared by processes.
//! * Whoever wants to show how downloads go on gives a [`DownloadProgress`].
//! * [`CatalogueError`] tells what was asked, what came, and what to do about it.
//!
//! This crate names no WebAssembly engine: whether the bytes are a component turns out when they are compiled. It reaches the network by
//! `protostub-egress` only.

mod catalogue;
mod component;
mod config;
mod directory;
mod error;
mod https;
mod memory;
mod progress;
mod source;
mod store;
mod well_known;

pub use catalogue::{Catalogue, Discovered};
pub use component::VerifiedComponent;
pub use config::CatalogueConfig;
pub use directory::DirectorySource;
pub use error::{Attempt, CatalogueError, Fault, StoreError, Subject};
pub use https::HttpsSource;
pub use memory::MemorySource;
pub use progress::{Download, DownloadProgress};
pub use source::{Document, Request, Source};
