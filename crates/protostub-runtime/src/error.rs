use std::{error::Error, fmt, sync::Arc, time::Duration};

use protostub_bus::AttachError;
use protostub_catalogue::{CatalogueError, Fault, StoreError, TrustStateError};
use protostub_egress::EgressError;
use protostub_sandbox::{CompileError, CredentialError, EngineError, SandboxError, StartErrorKind};
use protostub_types::{Address, AddressError, Domain, DomainError, RepeatedKey, SafeText, StubKey, Version};

/// Why a runtime could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The home domain is none.
    #[error("failed to read the home domain")]
    HomeDomain(#[source] DomainError),
    /// No home domain was given.
    #[error("a runtime needs a home domain: call `home_domain` on the builder")]
    NoHomeDomain,
    /// The library's own threads could not be started.
    #[error("failed to start the runtime's threads")]
    Threads(#[source] std::io::Error),
    /// A domain was given to [`RuntimeBuilder::domain`](crate::RuntimeBuilder::domain) twice.
    #[error("failed to read the settings of domains")]
    Domains(#[source] RepeatedKey),
    /// A credential provider cannot be used as it is.
    #[error("failed to prepare the credentials of domains")]
    Credentials(#[source] CredentialError),
    /// The connection to the outside could not be prepared: a root certificate or the proxy's URL.
    #[error("failed to prepare the way to the network")]
    Egress(#[source] EgressError),
    /// The place of the cache cannot be used.
    #[error("failed to prepare the catalogue's store")]
    Catalogue(#[source] StoreError),
    /// The WebAssembly engine could not be made.
    #[error("failed to prepare the WebAssembly engine")]
    Engine(#[source] EngineError),
    /// A domain is granted an interface that the host program does not offer.
    #[error("`{domain}` is granted the import `{interface}`, which no `host_import` of the builder offers")]
    UnknownImport {
        /// The domain.
        domain: Domain,
        /// The interface.
        interface: String,
    },
    /// One of the runtime's own addresses could not be listened on.
    #[error("failed to attach the runtime's own address to the bus")]
    Bus(#[source] AttachError),
    /// The home domain gives no usable runtime URL.
    #[error("failed to make the runtime's URL")]
    Address(#[from] AddressError),
}

/// Why a stub is not there to be used: which stub, what was being done, and what went wrong.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeployError {
    /// Which stub.
    pub key: StubKey,
    /// What was being done.
    pub phase: Phase,
    /// What went wrong.
    pub kind: DeployErrorKind,
}

/// What a deployment is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Steps 1 to 3.
    Reserving,
    /// Steps 4 and 5.
    Discovering,
    /// Steps 6 and 7.
    Fetching,
    /// Between steps 7 and 8.
    Compiling,
    /// Steps 8 to 15, and 19.
    Registering,
    /// Steps 16 to 18.
    Starting,
    /// After step 20.
    Connecting,
    /// After its connection was there.
    Running,
}

/// What went wrong in a deployment.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeployErrorKind {
    /// The descriptor or the component could not be had, or not be trusted.
    #[error(transparent)]
    Catalogue(Arc<CatalogueError>),
    /// The version that was accepted last cannot be read, or this one not be remembered.
    #[error(transparent)]
    TrustState(Arc<TrustStateError>),
    /// The component is none of a protocol stub.
    #[error(transparent)]
    Compile(Arc<CompileError>),
    /// The component was not compiled in time: it is made to take long, or others were before it.
    #[error("the component was not compiled within {} s, the turns of others before it included: raise `compile_timeout` if it is meant to be so large", after.as_secs())]
    CompileTimeout {
        /// How long there was, the turns of others included.
        after: Duration,
    },
    /// The sandbox could not be made.
    #[error(transparent)]
    Sandbox(Arc<SandboxError>),
    /// The stub did not start: it refused its configuration, or crashed.
    #[error(transparent)]
    Start(Arc<StartErrorKind>),
    /// The stub's address could not be attached to the bus.
    #[error(transparent)]
    Bus(Arc<AttachError>),
    /// The configuration is more than a stub may be given.
    #[error("the configuration has {bytes} bytes, more than the {limit} that a stub is given")]
    Configuration {
        /// Its size, in bytes of JSON text.
        bytes: usize,
        /// What is possible, in bytes.
        limit: usize,
    },
    /// The stub's address is none: the domain's name is too long for it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The runtime has as many stubs as it may have.
    #[error("{limit} stubs are deployed, and no more are allowed: undeploy one, or raise `max_stubs`")]
    TooMany {
        /// How many are allowed.
        limit: usize,
    },
    /// A stub posted to a domain that nobody serves, or asked for its stub, and may not have it deployed.
    #[error("the stub {stub} may not have stubs of {domain} deployed: add {domain} to what the stub's domain `may_deploy`")]
    NotGranted {
        /// Who posted.
        stub: Address,
        /// To which domain.
        domain: Domain,
    },
    /// Somebody triggers more deployments than are allowed.
    #[error("{who} has triggered {per_minute} deployments within a minute, and no more are allowed: try again later")]
    TooOften {
        /// The hyperty, or the stub.
        who: Address,
        /// How many are allowed in a minute.
        per_minute: u32,
    },
    /// It went wrong a moment ago, and is not tried again yet.
    #[error("it failed a moment ago and is tried again in {}.{:01} s: {reason}", again_in.as_secs(), again_in.subsec_millis() / 100)]
    Remembered {
        /// What went wrong then.
        reason: SafeText,
        /// When the next message for the domain deploys it anew.
        again_in: Duration,
    },
    /// The domain publishes an older version than the one that was live here last.
    #[error(
        "the domain publishes version {published}, and the newer {committed} was live here before: set `allow_older` for the domain to go back"
    )]
    Older {
        /// The version that is published.
        published: Version,
        /// The version that was accepted last.
        committed: Version,
    },
    /// The domain publishes a version that is not signed, and one that was live here before was.
    #[error(
        "the domain publishes a version without a signature that is good ({problem}), and version {committed}, which was live here before, had one: \
         the domain has to sign it, or the operator to set `allow_older` for the domain"
    )]
    NoLongerSigned {
        /// The version that was accepted last.
        committed: Version,
        /// What is wrong with the signatures of the one that is published.
        problem: SafeText,
    },
    /// The component is for another contract than was signed.
    #[error(
        "the component is for track {is} of the contract, and was signed as one for {signed}: the domain has to sign it anew"
    )]
    OtherContract {
        /// What was signed.
        signed: SafeText,
        /// What the component is for.
        is: String,
    },
    /// It broke too often.
    #[error("it broke again after {restarts} new instances, as many as there may be within {} s; the last time: {last}", within.as_secs())]
    RestartsSpent {
        /// How many there may be.
        restarts: u32,
        /// Within which time.
        within: Duration,
        /// What happened to the last one.
        last: SafeText,
    },
    /// The stub said that it cannot connect, or crashed.
    #[error("{reason}")]
    Failed {
        /// In its own words, or the crash.
        reason: SafeText,
    },
    /// The Identity Module has no credential for a domain that should have one.
    #[error("there is no credential to connect with: {0}")]
    Credential(CredentialError),
    /// The stub was not `live` in time.
    #[error("the stub was told to connect and is not live after {} s: is its back-end reachable?", after.as_secs())]
    ConnectTimeout {
        /// How long it had.
        after: Duration,
    },
    /// The stub was undeployed before its deployment was complete.
    #[error("the stub was undeployed meanwhile; deploy it again")]
    Undeployed,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShutDown,
}

/// The stub behind a [`Protostub`](crate::Protostub) handle has ended. The handle stays useless:
/// [`Runtime::deploy_protostub`](crate::Runtime::deploy_protostub) returns another one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StubGone {
    /// Which stub.
    pub key: StubKey,
    /// How the stub ended.
    pub reason: StubGoneReason,
}

/// How a stub ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StubGoneReason {
    /// The host program or a hyperty undeployed the stub. The next deployment starts it again.
    Undeployed,
    /// The runtime was shut down or dropped. Only another runtime can deploy the stub.
    ShutDown,
    /// The stub's deployment failed, or the stub broke too often. The next deployment starts it
    /// again.
    Failed(Arc<DeployError>),
}

/// Why a stub was not told to connect with a credential:
/// [`Protostub::connect_with`](crate::Protostub::connect_with).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The stub has ended.
    #[error(transparent)]
    Gone(#[from] StubGone),
    /// The credential cannot be used.
    #[error("there is no credential to connect with: {0}")]
    Credential(CredentialError),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserving => "looking for it in the registry",
            Self::Discovering => "getting its descriptor",
            Self::Fetching => "getting its component",
            Self::Compiling => "compiling it",
            Self::Registering => "registering it",
            Self::Starting => "starting it",
            Self::Connecting => "waiting for its connection",
            Self::Running => "it was running",
        })
    }
}

impl fmt::Display for DeployError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.phase, &self.kind) {
            (Phase::Running, _) => write!(f, "the protocol stub of {} has ended", self.key),
            (_, DeployErrorKind::Undeployed | DeployErrorKind::ShutDown) => {
                write!(f, "failed to deploy the protocol stub of {}", self.key)
            }
            (phase, _) => write!(f, "failed to deploy the protocol stub of {} while {phase}", self.key),
        }
    }
}

impl Error for DeployError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.kind)
    }
}

impl DeployError {
    /// Returns the kind of the error, to branch on.
    #[must_use]
    pub fn kind(&self) -> &DeployErrorKind {
        &self.kind
    }

    /// The error of a deployment that a shutdown ends or prevents.
    pub(crate) fn shut_down(key: &StubKey) -> Self {
        Self { key: key.clone(), phase: Phase::Reserving, kind: DeployErrorKind::ShutDown }
    }
}

impl From<StubGone> for DeployError {
    /// A stub that ended while a deployment waited for it.
    fn from(StubGone { key, reason }: StubGone) -> Self {
        let kind = match reason {
            StubGoneReason::Failed(error) => return Arc::unwrap_or_clone(error),
            StubGoneReason::Undeployed => DeployErrorKind::Undeployed,
            StubGoneReason::ShutDown => DeployErrorKind::ShutDown,
        };
        Self { key, phase: Phase::Reserving, kind }
    }
}

impl StubGone {
    /// How the stub ended, to branch on.
    #[must_use]
    pub fn kind(&self) -> &StubGoneReason {
        &self.reason
    }

    pub(crate) fn undeployed(key: &StubKey) -> Self {
        Self { key: key.clone(), reason: StubGoneReason::Undeployed }
    }

    pub(crate) fn shut_down(key: &StubKey) -> Self {
        Self { key: key.clone(), reason: StubGoneReason::ShutDown }
    }
}

impl From<DeployError> for StubGone {
    /// A stub that ended with its deployment, or broke.
    fn from(error: DeployError) -> Self {
        let key = error.key.clone();
        let reason = match error.kind {
            DeployErrorKind::Undeployed => StubGoneReason::Undeployed,
            DeployErrorKind::ShutDown => StubGoneReason::ShutDown,
            _ => StubGoneReason::Failed(Arc::new(error)),
        };
        Self { key, reason }
    }
}

impl fmt::Display for StubGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            StubGoneReason::Undeployed => {
                write!(f, "the protocol stub of {} was undeployed; deploy it again to use it", self.key)
            }
            StubGoneReason::ShutDown => {
                write!(f, "the protocol stub of {} has ended: the runtime is shutting down; start another runtime", self.key)
            }
            StubGoneReason::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for StubGone {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            StubGoneReason::Undeployed | StubGoneReason::ShutDown => None,
            StubGoneReason::Failed(error) => error.source(),
        }
    }
}

impl DeployErrorKind {
    /// Returns `true` if this machine's trust state is at fault. The domain is not, so the failure
    /// is not held against it.
    pub(crate) fn is_trust_state(&self) -> bool {
        match self {
            Self::TrustState(_) => true,
            Self::Catalogue(error) => matches!(error.fault(), Fault::TrustState(_)),
            _ => false,
        }
    }

    /// The code of the response to a message that cannot be delivered for this reason, as in RFC 9110.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::NotGranted { .. } => 403,
            Self::TooOften { .. } => 429,
            _ => 503,
        }
    }
}

/// Maximum of the text of a failure with all its causes, in bytes. Every message that waits for the
/// stub is answered with it.
const MAX_FAILURE_BYTES: usize = 4 << 10;

/// Returns what became of a stub, for its status, the log and those who wait for it.
pub(crate) fn failure_text(failure: impl fmt::Display) -> SafeText {
    SafeText::display_cut(failure, MAX_FAILURE_BYTES)
}

/// Returns an error and all its causes in one line, for a response's description or a log.
pub(crate) fn in_full(error: &(dyn Error + 'static)) -> SafeText {
    SafeText::chain_cut(error, MAX_FAILURE_BYTES)
}

/// The reason why things end at shutdown.
pub(crate) const SHUTTING_DOWN: &str = "the runtime is shutting down";

/// Why a hyperty could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The address is none.
    #[error("failed to register a hyperty")]
    Address(#[from] AddressError),
    /// The stub of its domain cannot be deployed now.
    #[error("failed to register the hyperty {address}")]
    Deploy {
        /// Its address.
        address: Address,
        /// What is in the way.
        #[source]
        source: Box<DeployError>,
    },
    /// The runtime is shutting down.
    #[error("failed to register the hyperty {address}: the runtime is shutting down")]
    ShutDown {
        /// Its address.
        address: Address,
    },
    /// Somebody else has the address.
    #[error("failed to register the hyperty {address}")]
    Bus {
        /// Its address.
        address: Address,
        /// What is in the way.
        #[source]
        source: AttachError,
    },
}
