use std::{error::Error, fmt, sync::Arc, time::Duration};

use protostub_bus::AttachError;
use protostub_catalogue::{CatalogueError, Fault, StoreError, TrustStateError};
use protostub_egress::EgressError;
use protostub_sandbox::{CompileError, CredentialError, EngineError, SandboxError, StartErrorKind};
use protostub_types::{Address, AddressError, Domain, DomainError, RepeatedKey, SafeText, StubKey, Version};

/// The error of a build of a runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The text for the home domain is not a domain.
    #[error("failed to read the home domain")]
    HomeDomain(#[source] DomainError),
    /// No home domain was given.
    #[error("the runtime has no home domain; set `home`, or call `home_domain` on the builder")]
    NoHomeDomain,
    /// A setting has a value that cannot work.
    #[error("failed to use the settings")]
    Settings(#[from] InvalidSetting),
    /// The library's own threads could not be started.
    #[error("failed to start the runtime's threads")]
    Threads(#[source] std::io::Error),
    /// A domain was given to [`RuntimeBuilder::domain`](crate::RuntimeBuilder::domain) twice.
    #[error("failed to read the settings of domains")]
    Domains(#[source] RepeatedKey),
    /// A credential provider cannot be used as it was given.
    #[error("failed to prepare the credentials of domains")]
    Credentials(#[source] CredentialError),
    /// Network access could not be prepared: a root certificate or the proxy's URL is faulty.
    #[error("failed to prepare network access")]
    Egress(#[source] EgressError),
    /// The cache folder cannot be used.
    #[error("failed to prepare the cache of the catalogue")]
    Catalogue(#[source] StoreError),
    /// The WebAssembly engine could not be created.
    #[error("failed to prepare the WebAssembly engine")]
    Engine(#[source] EngineError),
    /// A domain is granted an interface that the host program does not offer.
    #[error(
        "`{domain}` is granted the import `{interface}`, which the host program does not offer; remove it from `imports` of the domain, or offer it with `host_import`"
    )]
    UnknownImport {
        /// The domain.
        domain: Domain,
        /// The interface.
        interface: String,
    },
    /// The runtime could not listen on one of its own addresses.
    #[error("failed to attach the runtime's own address to the bus")]
    Bus(#[source] AttachError),
    /// The home domain does not give a usable runtime URL.
    #[error("failed to make a URL for the runtime")]
    Address(#[from] AddressError),
}

/// A setting with a value that cannot work: see [`Settings::check`](crate::Settings::check).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidSetting {
    /// The key in a settings file, and the keys of the tables around it, from the outermost:
    /// `["lifecycle", "max-stubs"]`. A domain is in its normal form.
    pub path: Vec<String>,
    /// The problem, with the remedy. The text continues the name of the key.
    pub problem: String,
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path.join("."), self.problem)
    }
}

impl Error for InvalidSetting {}

/// The error of a deployment: the stub, the phase and the cause.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeployError {
    /// The stub.
    pub key: StubKey,
    /// The phase in which the deployment failed.
    pub phase: Phase,
    /// The cause.
    pub kind: DeployErrorKind,
}

/// A phase of a deployment.
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
    /// After the stub was connected.
    Running,
}

/// The cause of a failed deployment.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeployErrorKind {
    /// The descriptor or the component could not be fetched, or is not trusted.
    #[error(transparent)]
    Catalogue(Arc<CatalogueError>),
    /// The last accepted version cannot be read, or this version cannot be recorded.
    #[error(transparent)]
    TrustState(Arc<TrustStateError>),
    /// The component is not that of a protocol stub.
    #[error(transparent)]
    Compile(Arc<CompileError>),
    /// The component was not compiled in time: it is made to compile slowly, or had to wait for
    /// others.
    #[error("the component was not compiled within {} s, including the wait for other components; raise `compile-timeout-seconds` if the component is meant to be so large", after.as_secs())]
    CompileTimeout {
        /// The timeout. It includes the wait for other components.
        after: Duration,
    },
    /// The sandbox could not be created.
    #[error(transparent)]
    Sandbox(Arc<SandboxError>),
    /// The stub did not start: it refused its configuration, or crashed.
    #[error(transparent)]
    Start(Arc<StartErrorKind>),
    /// The stub's address could not be attached to the bus.
    #[error(transparent)]
    Bus(Arc<AttachError>),
    /// The configuration is too large for a stub.
    #[error(
        "the stub's configuration has {bytes} bytes, more than the limit of {limit}; shorten `configuration` in the descriptor or in the domain's settings"
    )]
    Configuration {
        /// Size of the configuration, in bytes of JSON text.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The stub's address is invalid: the domain's name is too long for it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The runtime has reached its limit of stubs.
    #[error("the limit of {limit} deployed stubs is reached; undeploy one, or raise `max-stubs`")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A stub without the grant posted to a domain that has no stub, or asked for the stub of a
    /// domain.
    #[error("the stub {stub} may not deploy the stub of {domain}; add {domain} to `may-deploy` of the stub's domain")]
    NotGranted {
        /// The stub that posted.
        stub: Address,
        /// The domain that the stub posted to.
        domain: Domain,
    },
    /// A hyperty or a stub triggers too many deployments.
    #[error(
        "{who} has reached its limit of {per_minute} deployments per minute; try again later, or raise `deployments-per-minute`"
    )]
    TooOften {
        /// The hyperty, or the stub.
        who: Address,
        /// The limit per minute.
        per_minute: u32,
    },
    /// The stub failed a moment ago, and its pause is not over.
    #[error("the stub failed a moment ago, and a message can deploy it again in {}.{:01} s: {reason}", again_in.as_secs(), again_in.subsec_millis() / 100)]
    Remembered {
        /// The cause of that failure.
        reason: SafeText,
        /// The time from now after which a message for the domain deploys the stub again.
        again_in: Duration,
    },
    /// The domain publishes an older version than the last one that was live here.
    #[error(
        "the domain publishes version {published}, and the newer {committed} was live here before; reset the accepted version, or set `allow-older` for the domain, to go back"
    )]
    Older {
        /// The published version.
        published: Version,
        /// The last accepted version.
        committed: Version,
    },
    /// The domain publishes an unsigned version, and an earlier version that was live here was
    /// signed.
    #[error(
        "the domain publishes a version without a valid signature ({problem}), and version {committed}, which was live here before, had one; \
         ask the domain to sign the new version, or set `allow-older` for the domain"
    )]
    NoLongerSigned {
        /// The last accepted version.
        committed: Version,
        /// The fault of the published version's signatures.
        problem: SafeText,
    },
    /// The component is for another track of the contract than its signature states.
    #[error(
        "the component is for track {is} of the contract, and was signed for track {signed}; ask the domain to sign it again"
    )]
    OtherContract {
        /// The track that the signature states.
        signed: SafeText,
        /// The component's track.
        is: String,
    },
    /// The stub failed too often.
    #[error("the stub failed again after {restarts} restarts, the limit within {} s: {last}", within.as_secs())]
    RestartsSpent {
        /// The maximum number of restarts.
        restarts: u32,
        /// The time within which restarts count.
        within: Duration,
        /// The failure of the last instance.
        last: SafeText,
    },
    /// The stub reported that it cannot connect, or crashed.
    #[error("{reason}")]
    Failed {
        /// The stub's own words, or the crash.
        reason: SafeText,
    },
    /// The Identity Module could not get a credential for a domain that should have one.
    #[error("the stub has no credential to connect with: {0}")]
    Credential(CredentialError),
    /// The stub was not `live` in time.
    #[error("the stub was not live within {} s; check that its back-end is reachable, or raise `connect-timeout-seconds`", after.as_secs())]
    ConnectTimeout {
        /// The timeout.
        after: Duration,
    },
    /// The stub was told to disconnect, so no caller can wait until it is live.
    #[error("the stub was told to disconnect; connect it again")]
    Disconnected,
    /// The stub was undeployed before its deployment was complete.
    #[error("the stub was undeployed before its deployment was complete; deploy it again")]
    Undeployed,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShutDown,
}

/// The end of the stub behind a [`Protostub`](crate::Protostub) handle. The handle stays useless:
/// [`Runtime::deploy_protostub`](crate::Runtime::deploy_protostub) returns another one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StubGone {
    /// The stub.
    pub key: StubKey,
    /// The cause of the end.
    pub reason: StubGoneReason,
}

/// The cause of a stub's end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StubGoneReason {
    /// The host program or a hyperty undeployed the stub. The next deployment starts it again.
    Undeployed,
    /// The runtime was shut down or dropped. Only another runtime can deploy the stub.
    ShutDown,
    /// The stub's deployment failed, or the stub failed too often. The next deployment starts it
    /// again.
    Failed(Arc<DeployError>),
}

/// The error of an explicit login: [`Protostub::connect_with`](crate::Protostub::connect_with).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The stub has ended.
    #[error(transparent)]
    Gone(#[from] StubGone),
    /// The credential cannot be used.
    #[error("the stub has no credential to connect with: {0}")]
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

    /// Returns the error of a deployment that a shutdown ends or prevents.
    pub(crate) fn shut_down(key: &StubKey) -> Self {
        Self { key: key.clone(), phase: Phase::Reserving, kind: DeployErrorKind::ShutDown }
    }
}

impl From<StubGone> for DeployError {
    /// Converts the end of a stub while a deployment waited for it.
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
    /// Returns the cause of the end, to branch on.
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
    /// Converts the failure of a stub's deployment, or of the stub later.
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
    /// Returns `true` if this machine's trust state is at fault. The domain is not at fault then,
    /// so the failure is not held against it.
    pub(crate) fn is_trust_state(&self) -> bool {
        match self {
            Self::TrustState(_) => true,
            Self::Catalogue(error) => matches!(error.fault(), Fault::TrustState(_)),
            _ => false,
        }
    }

    /// Returns the code of the response to a message that cannot be delivered for this reason, as
    /// in RFC 9110.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::NotGranted { .. } => 403,
            Self::TooOften { .. } => 429,
            _ => 503,
        }
    }
}

/// Maximum size of a failure's text with all its causes, in bytes. Every message that waits for the
/// stub is answered with it.
const MAX_FAILURE_BYTES: usize = 4 << 10;

/// Returns the text of a stub's failure, for its status, the log and waiting callers.
pub(crate) fn failure_text(failure: impl fmt::Display) -> SafeText {
    SafeText::display_cut(failure, MAX_FAILURE_BYTES)
}

/// Returns an error and all its causes in one line, for a response's description or a log.
pub(crate) fn in_full(error: &(dyn Error + 'static)) -> SafeText {
    SafeText::chain_cut(error, MAX_FAILURE_BYTES)
}

/// The reason of everything that a shutdown ends.
pub(crate) const SHUTTING_DOWN: &str = "the runtime is shutting down";

/// The error of a hyperty's registration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The text is not an address.
    #[error("failed to register a hyperty")]
    Address(#[from] AddressError),
    /// The stub of its domain cannot be deployed now.
    #[error("failed to register the hyperty {address}")]
    Deploy {
        /// The hyperty's address.
        address: Address,
        /// The cause.
        #[source]
        source: Box<DeployError>,
    },
    /// The runtime is shutting down.
    #[error("failed to register the hyperty {address}: the runtime is shutting down")]
    ShutDown {
        /// The hyperty's address.
        address: Address,
    },
    /// The address is taken.
    #[error("failed to register the hyperty {address}")]
    Bus {
        /// The hyperty's address.
        address: Address,
        /// The cause.
        #[source]
        source: AttachError,
    },
}
