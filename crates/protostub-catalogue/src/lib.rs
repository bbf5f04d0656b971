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
//! * Signatures say who has released a stub, and an operator whose are trusted: [`trust`].
//! * Whoever wants to show how downloads go on gives a [`DownloadProgress`].
//! * [`CatalogueError`] tells what was asked, what came, and what to do about it.
//!
//! # Copies
//!
//! With a [cache folder](CatalogueConfig::cache_dir), what domains answer over the network is kept by its URL, for all processes that share the
//! folder. A copy is used
//!
//! | when | [`Discovered::provenance`] |
//! | --- | --- |
//! | the domain confirms it: it was asked with `If-None-Match` and `If-Modified-Since`, and answered 304 | [`Asked`](Provenance::Asked) |
//! | the domain need not be asked yet | [`Fresh`](Provenance::Fresh) |
//! | the domain, or its catalogue, cannot be reached | [`Offline`](Provenance::Offline), with a warning in the log |
//!
//! * *Need not be asked yet*: its answer said `Cache-Control: max-age`, and that time, less the answer's `Age`, is not over. A day is the most that
//!   is believed. Without `max-age`, and with `no-cache`, a domain is asked each time; `Expires` and guesses from `Last-Modified` do not count.
//! * *Cannot be reached*: no connection, time over, a connection that broke, a host that does not exist (what some systems say when they are
//!   offline), 408, 425, 429 and 5xx. Never after 404 or 410, a faulty certificate, a redirect that is not followed, or a descriptor that is none.
//!   Nor is the home domain's offer for another domain used while that domain cannot be reached: it may have its own by now.
//!   The copy must not be older than [`CatalogueConfig::max_offline_age`], counted from when the domain last sent or confirmed it.
//! * `Cache-Control: no-store` forbids any copy. `no-cache` and `must-revalidate` do not forbid one while the domain cannot be reached (RFC 9111
//!   would): whoever sets `max_offline_age` wants stubs that work offline, and a domain that does not want that says `no-store`.
//! * When a domain answers that it has no such stub any more, the copy goes. That it had one is remembered: the home domain does not speak for it.
//! * [`Catalogue::revalidate`] asks in any case.
//! * A process that goes on asks by what it was told itself, without reading the folder. What other processes that share the folder were told counts when it
//!   starts, and while the domain cannot be reached.
//! * Of stubs in memory and in folders there are no copies. A file that is damaged, or cannot be
//!   read, is ignored, and replaced by the next answer. A copy that a clock ahead of this one has
//!   confirmed is confirmed again, and not used while the domain cannot be reached.
//! * When the folder is full, the files of registrable domains go first that hold more than an
//!   eighth of it, and then those that were not used for the longest time. Components are kept
//!   likewise.
//!
//! Code is stored by its digest, so an unchanged descriptor means no download. Where the operator [waived](CatalogueConfig::unpinned) the digest,
//! code is downloaded whenever the domain was asked, and taken from the store otherwise.
//!
//! # Trust state
//!
//! The accepted version of each stub ([`Catalogue::commit`]) and the key sets that domains publish
//! decide whether something is deployed. So they fail closed ([`TrustStateError`]):
//!
//! * They are in memory, and with a cache folder also in files. A version
//!   that another process has accepted in the same folder counts at once.
//! * A version is durable when [`Catalogue::commit`] returns: file and folder are on the disk.
//! * A record that cannot be read, for whatever reason but that there is none, is an error after a
//!   few retries. Neither is it taken for missing, nor is the file removed. A file that is damaged
//!   is an error, too, until the operator restores or removes it.
//! * They are [bounded](CatalogueConfig::accepted_versions). A record gives way only to one of the
//!   same registrable domain. When all places are taken, further domains are refused. Domains that
//!   share a registrable domain share its places: two tenants of one provider, unless the
//!   provider's domain is a public suffix.
//!
//! # Faults that may pass
//!
//! What may pass is tried again, with growing, random delays, within the time limit for the document; a server that wants to be left alone for more
//! than two seconds (`Retry-After`) is not asked again. A component whose download broke off is asked
//! for from there on (`Range`), if the server can tell whether it is still the same one (`If-Range`, by a strong `ETag`, or a `Last-Modified` from
//! before the answer); the digest is that of the whole in any case.
//!
//! That a domain has no stub, or that it failed in any other way, is *not* remembered here: the runtime's Registry remembers the failure of a
//! deployment, whatever its reason, for a growing time.
//!
//! This crate names no WebAssembly engine: whether the bytes are a component turns out when they are compiled. It reaches the network by
//! `protostub-egress` only.

mod catalogue;
mod committed;
mod component;
mod config;
mod copies;
mod directory;
mod error;
mod folder;
mod https;
mod ledger;
mod memory;
mod pieces;
mod progress;
mod receive;
mod source;
mod store;
mod store_error;
pub mod trust;
mod well_known;

pub use catalogue::{Catalogue, Discovered, Provenance};
pub use committed::AcceptedRelease;
pub use component::VerifiedComponent;
pub use config::{Bounds, CatalogueConfig, DEFAULT_MAX_OFFLINE_AGE, Sizes};
pub use directory::DirectorySource;
pub use error::{Attempt, CatalogueError, CatalogueErrorKind, Fault, Subject};
pub use https::HttpsSource;
pub use ledger::TrustStateError;
pub use memory::MemorySource;
pub use progress::{Download, DownloadProgress};
pub use source::{Document, Extent, Held, Request, Source, Validators};
pub use store_error::StoreError;
