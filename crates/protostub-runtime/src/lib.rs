//! The core runtime of Protostub, for host programs to embed.
//!
//! A program posts a message to an address of a domain whose protocol it does not know. The runtime
//! finds the domain's descriptor at a well-known URL and downloads the protocol stub that the
//! descriptor names. It verifies the stub, instantiates it in a sandbox of its own, and connects it
//! to the message bus. From then on, messages flow.
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
//! // This returns the same stub, without a second deployment.
//! let stub = runtime.deploy_protostub("sp1.example").await?;
//! println!("{}", stub.status().status); // live; `stub.watch()` reports changes
//! # assert_eq!((reply.code(), runtime.protostubs().len()), (Some(200), 1));
//! # assert_eq!(stub.status().status, protostub_runtime::StubStatus::Live);
//! // The outcome lists the stubs that stopped, and those that did not.
//! let outcome = runtime.shutdown(Duration::from_secs(5)).await;
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
//! # Triggers of a deployment
//!
//! A deployment has one of four triggers:
//!
//! * a call of the host program ([`Runtime::deploy_protostub`])
//! * `loadStub` over the bus
//! * the registration of a hyperty with a descriptor ([`Runtime::register_hyperty_with`])
//! * a message to a domain without a stub
//!
//! A stub's own messages trigger a deployment only if the operator grants it
//! ([`DomainSettings::may_deploy`]). A response never triggers one. [`RuntimeBuilder::max_stubs`]
//! and [`RuntimeBuilder::deployments_per_minute`] limit deployments.
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
//! # Time in tests
//!
//! All timeouts count real time, on the library's own threads and by the operating system's clock.
//! A test that [pauses](https://docs.rs/tokio/latest/tokio/time/fn.pause.html) the clock of its own
//! tokio runtime changes none of them:
//!
//! * To see a timeout early, make it short: with [`Hyperty::request_within`], or in [`Settings`].
//! * Tokio moves a paused clock to the test's next timer while all tasks of the test wait, also
//!   while they wait for the library. A `tokio::time::timeout` around a call of the library
//!   therefore ends at once. Call `tokio::time::resume` first, or leave the timeout out.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use protostub_runtime::{Message, Runtime};
//!
//! // As in a test with `#[tokio::test(start_paused = true)]`.
//! # let mut test = tokio::runtime::Builder::new_current_thread();
//! # test.enable_all().start_paused(true).build()?.block_on(async {
//! let runtime = Runtime::builder().home_domain("home.example").build().await?;
//! let app = runtime.register_hyperty("hyperty://home.example/app").await?;
//! let _silent = runtime.register_hyperty("hyperty://home.example/silent").await?;
//!
//! tokio::time::advance(Duration::from_secs(60)).await;
//! let (timeout, begin) = (Duration::from_millis(50), Instant::now());
//! let request = Message::read("hyperty://home.example/silent".parse()?);
//! let error = app.request_within(request, timeout).await.expect_err("no answer");
//! assert_eq!(error.code, 408);
//! assert!((timeout..timeout * 100).contains(&begin.elapsed()));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors
//!
//! Callers branch on [`DeployError::kind`], [`UpdateError::kind`], [`CatalogueError::kind`] and
//! [`StubGone::kind`]. This crate exports every type that an error contains. `examples/errors.rs`
//! matches on all of them.
//!
//! # Registration
//!
//! The runtime registers at a domain's own Registry (`domain://registry.<domain>`) each hyperty
//! with a [`HypertyDescriptor`], and each stub whose domain has [`DomainSettings::register`]. It
//! sends a `create` message, and sends it again after half of the lifetime and after each new
//! connection. It sends `delete` when the hyperty or the stub goes. [`Registration`] is the state
//! of a registration.
//!
//! # Status
//!
//! The stub publishes its status ([`StubStatus`]) on the bus to `<stub>/status`, and the Registry
//! publishes it to `<runtime>/status`. A hyperty subscribes to either with a `subscribe` message
//! ([`Hyperty::subscribe`]). The current status comes at once.
//!
//! The host program reads all changes from [`Runtime::status_changes`], without the bus: no policy
//! applies to them, and no message can forge one.
//!
//! # Policy
//!
//! Some rules always hold: a stub speaks for its own domain, connects to its own domain, and cannot
//! deploy another stub, unless the operator grants more ([`DomainSettings`]). The operator adds
//! rules with a [`Policy`] ([`RuntimeBuilder::policy`], [`Runtime::set_policy`]). The bus asks it
//! before every hop of every message. The sender of a refused message gets 403 and the policy's
//! reason. With the feature `cedar`, `CedarPolicy` reads the rules from a file, in the language
//! [Cedar](https://docs.cedarpolicy.com).
//!
//! # Addresses of the runtime
//!
//! | address | accepted messages |
//! | --- | --- |
//! | `<runtime>/ua` | `execute` of `loadStub`: deploys a stub, and answers with its URL |
//! | `<runtime>/registry` | `read`: the stubs and sandboxes |
//! | `<runtime>/identity` | `execute` of `login` and `logout`: [domain login](#domain-login) |
//! | `<runtime>/status`, `<stub>/status` | `subscribe`, `unsubscribe` |
//!
//! Hyperties may send all of these messages. A stub may send `loadStub` if the operator grants it
//! ([`DomainSettings::may_deploy`]).
//!
//! # Domain login
//!
//! The runtime tells a stub to connect with the credential that the Identity Module has for the
//! stub's domain. It does so when the stub is deployed, and again when a message waits for a stub
//! whose connection broke. This is the *implicit* login. The Identity Module asks its
//! [`CredentialProvider`]s in the order of the calls of [`RuntimeBuilder::credentials`]. The first
//! provider that knows the domain answers.
//!
//! | provider | where the credentials are |
//! | --- | --- |
//! | [`StaticCredentials`] | in the program |
//! | [`FileCredentials`] | in a file for each domain, or a JSON file for many |
//! | [`EnvironmentCredentials`] | in environment variables |
//! | [`OAuth2Credentials`] | at an OAuth 2.0 endpoint, for client credentials or a refresh token |
//!
//! If no provider knows the domain, the stub connects without a credential. If a provider knows the
//! domain and fails, the stub does not connect, and the deployment fails with
//! [`DeployErrorKind::Credential`]. An expired credential is never handed out. A stub whose
//! credential has `expires` asks for the next one with `identity.request`. From a minute before
//! `expires` on, the answer is another credential.
//!
//! With [`DomainSettings::credential_origins`], a stub uses its domain's credential without seeing
//! it. The stub sends `authorization: {credential}` to one of these origins, and the host replaces
//! the placeholder by the credential. This protects the credential from the stub, but not from a
//! server that colludes with the stub.
//!
//! A login is *explicit* by [`Protostub::connect_with`], or by a hyperty's message to
//! `<runtime>/identity`:
//!
//! ```json
//! { "type": "execute", "to": "<runtime>/identity", "id": 1, "from": "hyperty://home.example/chat",
//!   "body": { "method": "login",
//!             "params": { "domain": "sp1.example",
//!                         "credential": { "kind": "bearer", "value": "2YotnFZFEjr1zCsicMWpAA",
//!                                         "expires": 1795424400 } } } }
//! ```
//!
//! * `domain`: a domain, an address, or the URL of a stub in a catalogue. The login deploys the
//!   stub if needed.
//! * `credential`: optional. Without it, the stub logs in with the credential of the providers.
//!   `kind` is `bearer`, `basic` (`user:password`), `assertion`, or a kind of the domain's own.
//!   `expires`, in seconds since the Unix epoch, is optional.
//!
//! The response comes when the stub is live, with the body
//! `{"code": 200, "value": {"url", "status", "descriptorURL"}}`, or when the login fails:
//!
//! * 400: The request is malformed.
//! * 401: The stub did not connect with this credential within the connect timeout.
//! * 403: The sender is not a hyperty.
//! * 503: The stub could not be deployed, or did not connect without a credential of the request.
//!
//! A stub that is live with another credential disconnects first. The stub keeps the credential
//! until it expires, the stub cannot connect with it, the next login, or the stub is undeployed.
//!
//! `{"method": "logout", "params": {"domain": "sp1.example"}}` disconnects the stub and forgets the
//! credential.
//!
//! Secrets never appear in a log line, an error, a status, a crash report, a response or `Debug`.
//! Only at `trace`, libraries below this one log the bytes on the wire. The host searches a stub's
//! texts for the secrets that it handed to the stub, and replaces them by `[secret]`.

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod artifact;
mod builder;
mod command;
mod config;
mod context;
mod crash_reports;
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
mod settings_check;
mod status;
pub mod steps;
mod stub;
mod supervise;
mod threads;
mod triggers;
mod turns;
mod update;

pub use builder::RuntimeBuilder;
pub use domain_pattern::{DomainPattern, DomainPatternError};
pub use domain_settings::DomainSettings;
pub use error::{
    BuildError, ConnectError, DeployError, DeployErrorKind, InvalidSetting, Phase, RegisterError, StubGone, StubGoneReason,
};
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
pub use settings::{CacheSettings, LifecycleSettings, NetworkSettings, Settings, TotalSettings};
pub use status::{StatusChange, StatusChanges, StatusForm, StatusUpdate, StatusWatch};
pub use stub::Protostub;
pub use threads::probe_threads;
pub use update::{AvailableUpdate, UpdateError, UpdateErrorKind, Updated};

pub use protostub_bus::{AttachError, BusCounts, Decision, Hop, InboxLimits, Origin, Policy, PostError, Receiver, RequestError};
pub use protostub_catalogue::{
    AcceptedRelease, Attempt, Bounds, CatalogueError, CatalogueErrorKind, DirectorySource, Document, Download, DownloadLimit,
    DownloadTotals, Extent, Fault, Held, MemorySource, Request as SourceRequest, Source, StoreError, Subject, TrustStateError,
    Validators, trust,
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
    Address, AddressError, Body, Descriptor, DescriptorError, DigestError, Domain, DomainError, Encoding, HookPanicked, Message,
    MessageError, MessageId, MessageType, RepeatedKey, SafeList, SafeText, Sha256Digest, SourceLocation, SourcePackage,
    StatusReport, StubKey, StubStatus, UniqueMap, Version, VersionError,
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
