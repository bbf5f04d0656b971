//! The core runtime of Protostub, for host programs to embed.
//!
//! A program wants to talk to a domain whose protocol it has never heard of. It posts a message to an address of that domain; the runtime finds
//! the domain's descriptor at a well-known URL, downloads the protocol stub named there, verifies it, instantiates it in a sandbox of its own,
//! and connects it to the message bus. From then on messages flow.
//!
//! ```
//! # use protostub_runtime::{Descriptor, Domain, MemorySource, Version};
//! # fn stubs() -> Result<MemorySource, Box<dyn std::error::Error>> {
//! #     let component = protostub_artifacts::component("echo");
//! #     let mut descriptor = Descriptor::new("default", Version::parse("1.0")?);
//! #     descriptor.refer("component.wasm", &component);
//! #     let source = MemorySource::new();
//! #     source.insert(&Domain::parse("sp1.example")?, "default", descriptor.to_json(), component);
//! #     Ok(source)
//! # }
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (folder, stubs) = (tempfile::tempdir()?, stubs()?);
//! # let dir = folder.path();
//! use std::time::Duration;
//!
//! use protostub_runtime::{Message, Runtime};
//!
//! let runtime = Runtime::builder().home_domain("home.example").cache_dir(dir)
//! #   .source(stubs)
//!     .build().await?;
//! let app = runtime.register_hyperty("hyperty://home.example/chat").await?;
//! // This deploys sp1.example's stub on the way.
//! let reply = app.request(Message::read("hyperty://sp1.example/alice".parse()?)).await?;
//! println!("{}", reply.to_json_line());
//! let stub = runtime.deploy_protostub("sp1.example").await?; // the same stub, no second deployment
//! println!("{}", stub.status().status); // live; `stub.watch()` tells of changes
//! # assert_eq!((reply.code(), stub.status().status, runtime.protostubs().len()), (Some(200), protostub_runtime::StubStatus::Live, 1));
//! let outcome = runtime.shutdown(Duration::from_secs(5)).await; // what stopped, what did not
//! println!("{outcome:?}");
//! # assert!(outcome.abandoned.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # A deployment
//!
//! `deploy/mod.rs` is the specification's "Deploy Protocol Stub" from top to bottom. [`steps`]
//! names its 22 steps, and each of them is a `tracing` span.
//!
//! # What triggers a deployment
//!
//! The host program's call ([`Runtime::deploy_protostub`]), `loadStub` over the bus, a hyperty that is registered with a descriptor
//! ([`Runtime::register_hyperty_with`]), and a message to a domain that nobody serves. What a stub posts triggers none unless the operator grants it
//! ([`DomainSettings::may_deploy`]), a response never does. [`RuntimeBuilder::max_stubs`] and [`RuntimeBuilder::deployments_per_minute`] bound
//! them.
//!
//! # Settings
//!
//! [`Settings`] are plain values in groups. A program sets them by the methods of
//! [`RuntimeBuilder`], or reads them from a file, since they implement `Deserialize`, and passes
//! them to [`RuntimeBuilder::settings`]. [`DomainSettings`] override them for one domain. Secrets,
//! keys and code come from the program alone.
//!
//! # Handles
//!
//! [`Runtime`] and [`Protostub`] are cloneable handles. A [`Hyperty`] receives in one task, as a
//! `Stream` too, while clones of its [`HypertySender`] send in others. All clones of a runtime
//! share one [shutdown](Runtime::shutdown).
//!
//! # Errors
//!
//! Callers branch on [`DeployError::kind`], [`UpdateError::kind`], [`CatalogueError::kind`] and
//! [`StubGone::kind`]. Everything that an error holds has its name in this crate:
//! `examples/errors.rs` takes all of them apart.
//!
//! # Registration
//!
//! A domain's own Registry (`domain://registry.<domain>`) is told of a hyperty that has a [`HypertyDescriptor`], and of a stub whose
//! domain has [`DomainSettings::register`], with a `create` message; again when half of its time is over and after each new connection; and with
//! `delete` that it has gone. [`Registration`] is what has become of it.
//!
//! # Status
//!
//! A stub's status ([`StubStatus`]) is published on the bus to `<stub>/status` by the stub, and to `<runtime>/status` by the Registry. A hyperty
//! subscribes with a `subscribe` message to either ([`Hyperty::subscribe`]); what holds at that moment comes at once.
//!
//! # Policy
//!
//! Some rules always hold: a stub speaks for its own domain, connects to its own domain, and cannot have another stub deployed, unless the operator
//! says so ([`DomainSettings`]). Rules of the operator's own are a [`Policy`] ([`RuntimeBuilder::policy`], [`Runtime::set_policy`]): it is asked before
//! every hop of every message, and what it refuses is answered with 403 and its reason. With the feature `cedar`, `CedarPolicy` is one that reads
//! the rules from a file, in the language [Cedar](https://docs.cedarpolicy.com).
//!
//! # Addresses of the runtime
//!
//! | address | what it takes |
//! | --- | --- |
//! | `<runtime>/ua` | `execute` of `loadStub` by a hyperty, or by a stub that is granted it ([`DomainSettings::may_deploy`]): deploys a stub, and answers with its URL |
//! | `<runtime>/registry` | `read` by a hyperty: the stubs and sandboxes |
//! | `<runtime>/identity` | `execute` of `login` and `logout` by a hyperty: see [below](#domain-login) |
//! | `<runtime>/status`, `<stub>/status` | `subscribe`, `unsubscribe` by a hyperty |
//!
//! # Domain login
//!
//! A stub is told to connect with the credential that the Identity Module has for its domain, when it is deployed, and again when a message waits
//! for a stub whose connection broke: the *implicit* login. The Identity Module asks its [`CredentialProvider`]s, in the order in which
//! [`RuntimeBuilder::credentials`] was called; the first that knows the domain answers.
//!
//! | provider | where the credentials are |
//! | --- | --- |
//! | [`StaticCredentials`] | in the program |
//! | [`FileCredentials`] | in a file for each domain, or a JSON file for many |
//! | [`EnvironmentCredentials`] | in environment variables |
//! | [`OAuth2Credentials`] | at an OAuth 2.0 token endpoint, for client credentials or a refresh token |
//!
//! No provider knows the domain: the stub connects without a credential. One does and fails: the stub does not connect, and the deployment fails
//! with [`DeployErrorKind::Credential`]. What has run out is not handed out. A stub that holds a credential with `expires` asks for the next one with
//! `identity.request`, which answers with another one from a minute before `expires` on.
//!
//! Where [`DomainSettings::credential_origins`] names some, a stub uses its domain's credential without seeing it: it sends `authorization: {credential}` to
//! one of these origins, and the host puts the credential in place of that. It protects from the stub, not from a server that colludes with it.
//!
//! A login is *explicit* by [`Protostub::connect_with`], or by a hyperty's message to `<runtime>/identity`:
//!
//! ```json
//! { "type": "execute", "to": "<runtime>/identity", "id": 1, "from": "hyperty://home.example/chat",
//!   "body": { "method": "login",
//!             "params": { "domain": "sp1.example",
//!                         "credential": { "kind": "bearer", "value": "2YotnFZFEjr1zCsicMWpAA", "expires": 1795424400 } } } }
//! ```
//!
//! * `domain`: a domain, an address, or the URL of a stub in a catalogue. The stub is deployed if it is not.
//! * `credential`: may be missing, and the stub then logs in with what the providers have. `kind` is `bearer`, `basic` (`user:password`),
//!   `assertion`, or one of the domain's own; `expires`, in seconds since the Unix epoch, may be missing.
//!
//! The response comes when the stub is live, `{"code": 200, "value": {"url", "status", "descriptorURL"}}`, or cannot be: 400 (the message is
//! none of these), 401 (it did not connect with this credential), 403 (not by a hyperty), 503 (it could not be deployed). A stub that is live as
//! somebody else is told to disconnect first. The credential is this stub's until it runs out, the stub cannot connect with it, somebody logs in
//! again, or it is undeployed.
//! `{"method": "logout", "params": {"domain": "sp1.example"}}` disconnects the stub and forgets the credential.
//!
//! No secret stands in a log line, an error, a status, a crash report, a response or `Debug`; only at `trace` do libraries below this one log
//! what goes over the wire. What a stub says to people is searched for the secrets that it was handed, and `[secret]` stands in their place.

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod artifact;
mod builder;
mod command;
mod config;
mod context;
mod deploy;
mod domain_pattern;
mod domain_settings;
mod endpoints;
mod error;
mod explain;
mod hyperty;
mod identity;
pub mod imports;
mod launch;
mod observer;
mod record;
mod registration;
mod registry;
mod restart;
mod retirement;
mod runtime;
mod settings;
mod status;
pub mod steps;
mod stub;
mod supervise;
mod triggers;
mod update;

pub use builder::RuntimeBuilder;
pub use domain_pattern::{DomainPattern, DomainPatternError};
pub use domain_settings::DomainSettings;
pub use error::{BuildError, ConnectError, DeployError, DeployErrorKind, Phase, RegisterError, StubGone, StubGoneReason};
pub use explain::{EgressExplanation, ExplainError};
pub use hyperty::{Hyperty, HypertySender};
pub use identity::{
    Credential, CredentialError, CredentialKind, CredentialProvider, CredentialRequest, EnvironmentCredentials, FileCredentials,
    OAuth2Client, OAuth2Credentials, Secret, StaticCredentials,
};
pub use observer::Progress;
pub use registration::{HypertyDescriptor, Registration};
pub use restart::{RestartOverrides, RestartPolicy};
pub use retirement::Retire;
pub use runtime::{Runtime, Shutdown};
pub use settings::{CacheSettings, LifecycleSettings, NetworkSettings, Settings};
pub use status::{StatusForm, StatusWatch};
pub use stub::Protostub;
pub use update::{AvailableUpdate, UpdateError, UpdateErrorKind, Updated};

pub use protostub_bus::{AttachError, BusCounts, Decision, Hop, InboxLimits, Origin, Policy, PostError, Receiver, RequestError};
pub use protostub_catalogue::{
    Attempt, Bounds, CatalogueError, CatalogueErrorKind, DirectorySource, Document, Download, Extent, Fault, Held, MemorySource,
    Request as SourceRequest, Source, StoreError, Subject, TrustStateError, Validators, trust,
};
pub use protostub_egress::{EgressError, Explanation, QuotaLimits, Resolver, Rule, RuleError};
#[cfg(feature = "cedar")]
pub use protostub_policy::{CedarPolicy, PolicyError, PolicyFault};
pub use protostub_sandbox::{
    Activity, ActivityKind, COMPILE_WORKER, CallError, CompileError, CrashKind, CrashReport, CredentialOrigin,
    CredentialOriginError, DisconnectReason, EngineError, Exceeded, GuestCall, LimitOverrides, Limits, SandboxError, StackFrame,
    StartErrorKind, Trap, WorldMismatch, compile_worker,
};
pub use protostub_types::{
    Address, AddressError, Body, Descriptor, DescriptorError, DigestError, Domain, DomainError, Encoding, Message, MessageError,
    MessageId, MessageType, RepeatedKey, SafeList, SafeText, Sha256Digest, SourceLocation, SourcePackage, StatusReport, StubKey,
    StubStatus, UniqueMap, Version, VersionError,
};

/// Parts of [`EgressError`], [`Explanation`] and [`Rule`].
pub mod egress {
    pub use protostub_egress::{Fit, GrantedBy, Judged, LimitReached, Missing, Phase, Ports, Protection, Reason, Refused, Scope};
}

// Types of other crates in this crate's signatures.
pub use bytes::Bytes;
pub use futures_util::stream::{BoxStream, Stream};
pub use serde_json;
pub use url::Url;
