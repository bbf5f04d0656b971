//! Finds, downloads and verifies the code of stubs: steps 4 to 7 of "Deploy Protocol Stub".
//!
//! ```text
//!  StubKey ──discover──► Discovered ──fetch──► VerifiedComponent
//!             4–5            │          6–7           │
//!       well-known URLs   descriptor   digest      bytes, ready to be compiled
//! ```
//!
//! * [`Catalogue`] asks its [`Source`]s in order and the network last. It enforces the limits of
//!   its [`CatalogueConfig`] and verifies each document.
//! * [`MemorySource`] and [`DirectorySource`] come before the network; [`HttpsSource`] is the
//!   network. Embedders can add their own sources.
//! * The store keeps every verified component. It is addressed by content and shared by processes.
//! * Signatures state who released a stub. The operator states whose signatures are trusted:
//!   [`trust`].
//! * A [`DownloadProgress`] receives the progress of downloads.
//! * [`CatalogueError`] states each URL that was asked, the fault there, and what to do.
//!
//! # Copies
//!
//! With a [cache folder](CatalogueConfig::cache_dir), the catalogue keeps the descriptors that
//! domains send over the network, by their URLs. All processes that share the folder use the
//! copies. A copy is used
//!
//! | when | [`Discovered::provenance`] |
//! | --- | --- |
//! | the domain answers 304 to `If-None-Match` and `If-Modified-Since` | [`Provenance::Asked`] |
//! | the domain need not be asked yet | [`Provenance::Fresh`] |
//! | the domain, or its catalogue, cannot be reached; logs a warning | [`Provenance::Offline`] |
//!
//! * *Need not be asked yet*: the answer had `Cache-Control: max-age`, and that time, less the
//!   answer's `Age`, is not over. The catalogue honours a day at most. Without `max-age`, and with
//!   `no-cache`, the domain is asked each time. `Expires` and guesses from `Last-Modified` do not
//!   count.
//! * *Cannot be reached*: no connection, a timeout, a connection that broke, a host that does not
//!   exist (some systems report that when they are offline), 408, 425, 429 and 5xx. No copy is used
//!   after 404 or 410, a faulty certificate, a redirect that is not followed, or an invalid
//!   descriptor. While a domain cannot be reached, the home domain's offer for that domain is not
//!   used either: the domain may have its own stub meanwhile. The copy must not be older than
//!   [`CatalogueConfig::max_offline_age`], counted from when the domain last sent or confirmed it.
//! * `Cache-Control: no-store` forbids any copy. `no-cache` and `must-revalidate` allow one while
//!   the domain cannot be reached, although RFC 9111 would forbid that. An operator who sets
//!   `max_offline_age` wants stubs that work offline, and a domain that objects sends `no-store`.
//! * When a domain answers that it no longer has such a stub, the copy is removed. The catalogue
//!   remembers that there was one, and does not ask the home domain for that domain's stub.
//! * [`Catalogue::revalidate`] always asks.
//! * A running process decides by the answers that it received itself, and does not read the
//!   folder. The answers that other processes received count when the process starts, and while the
//!   domain cannot be reached.
//! * Stubs in memory and in folders have no copies. A file that is damaged or cannot be read is
//!   ignored, and replaced by the next answer. A copy with a confirmation time in the future, from
//!   a clock ahead of this one, is confirmed again. It is not used while the domain cannot be
//!   reached.
//! * When the folder is full, files of registrable domains that hold more than an eighth of it are
//!   removed first. The files that were not used for the longest time are next. Components are kept
//!   by the same rules.
//!
//! Code is stored by its digest, so an unchanged descriptor needs no download. Where the operator
//! [waived](CatalogueConfig::unpinned) the digest, code is downloaded whenever the domain was
//! asked, and taken from the store otherwise.
//!
//! # Trust state
//!
//! The accepted version of each stub ([`Catalogue::commit`]) and the key sets that domains publish
//! decide whether a stub is deployed. Both fail closed ([`TrustStateError`]):
//!
//! * Trust state is in memory, and with a cache folder also in files. A version that another
//!   process accepted in the same folder counts at once.
//! * A version is durable when [`Catalogue::commit`] returns: file and folder are on the disk.
//! * A record that cannot be read is an error after a few retries, and its file is not removed.
//!   Only a missing file counts as no record. A damaged file is an error, too, until the operator
//!   restores or removes it.
//! * A [key](CatalogueConfig::cache_key) authenticates the records, and the copies of descriptors.
//!   A record with a wrong tag is damaged. A copy with a wrong tag is not used. The first start of
//!   this release accepts the versions of earlier releases, which have no tag. Such versions can
//!   only refuse stubs. The start removes key sets without a tag, so domains are asked for their
//!   keys again.
//! * The records are [limited](CatalogueConfig::accepted_versions). A record is replaced only by
//!   another one of the same registrable domain. When all places are taken, further domains are
//!   refused. Domains that share a registrable domain share its places. That holds for two tenants
//!   of one provider, unless the provider's domain is a public suffix.
//!
//! # Transient faults
//!
//! Transient faults are retried, with growing, random delays, within the timeout of the document. A
//! server whose `Retry-After` is more than two seconds is not asked again. A component whose
//! download broke off is resumed (`Range`). The server must be able to tell that it is still the
//! same one (`If-Range`, by a strong `ETag`, or a `Last-Modified` from before the answer). The
//! digest always covers the whole component.
//!
//! Faults are *not* remembered here, such as a domain without a stub. The runtime's Registry
//! remembers the failure of a deployment, for any reason, for a growing time.
//!
//! This crate names no WebAssembly engine: compilation shows if the bytes are a component. It
//! reaches the network only through `protostub-egress`.

mod catalogue;
mod committed;
mod component;
mod config;
mod copies;
mod directory;
mod downloads;
mod error;
mod folder;
mod https;
mod ledger;
mod memory;
mod pieces;
mod progress;
mod receive;
mod seal;
mod source;
mod store;
mod store_error;
pub mod trust;
mod well_known;

pub use catalogue::{Catalogue, Discovered, Provenance};
pub use committed::AcceptedRelease;
pub use component::VerifiedComponent;
pub use config::{Bounds, CatalogueConfig, DEFAULT_MAX_OFFLINE_AGE, DomainLimits, DownloadTotals};
pub use directory::DirectorySource;
pub use error::{Attempt, CatalogueError, CatalogueErrorKind, DownloadLimit, Fault, Subject};
pub use https::HttpsSource;
pub use ledger::TrustStateError;
pub use memory::MemorySource;
pub use progress::{Download, DownloadProgress};
pub use source::{Document, Extent, Held, Request, Source, Validators};
pub use store_error::StoreError;
