use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use protostub_bus::Bus;
use protostub_egress::{Egress, Grants, Quota};
use protostub_types::{Address, Allowance, Domain, SafeText, StubStatus};

use crate::{CredentialOrigin, Limits, Session};

/// Services of the runtime that a sandbox needs.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "the creator of a sandbox has to give all of it")]
pub struct SandboxServices {
    /// Bus that takes the stub's messages.
    pub bus: Bus,
    /// Egress that opens the stub's connections.
    pub egress: Egress,
    /// The account that the stub's connections are charged to, with the limits of
    /// [`Limits::quota`]. All instances of a stub share one, so that a restart resets nothing.
    pub quota: Quota,
    /// The bytes of the stub's log lines of a day, with the limit
    /// [`Limits::log_bytes_per_day`]. All instances of a stub share one, so that a restart resets
    /// nothing.
    pub log_allowance: Allowance,
    /// Receiver of the stub's status.
    pub presence: Arc<dyn Presence>,
    /// Source of the credentials of the stub's domain.
    pub credentials: Arc<dyn CredentialSource>,
    /// The session that the stub saved, for its successor.
    pub session: Session,
}

impl fmt::Debug for SandboxServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxServices").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Identity and permissions of a stub.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "the creator of a sandbox has to decide on all of it")]
pub struct SandboxConfig {
    /// The stub's own address, which no other stub has.
    pub url: Address,
    /// The stub's domain. The stub speaks for the addresses of exactly this domain, and gets this
    /// domain's credentials.
    pub domain: Domain,
    /// The result of `configuration.get`: a JSON object, `runtimeURL` included. At most 64 KiB.
    pub configuration: Arc<str>,
    /// Limits of the stub.
    pub limits: Limits,
    /// Grants of the stub's connections.
    pub grants: Grants,
    /// Further domains that the stub may speak for.
    pub relays: Vec<Domain>,
    /// Origins that may get the domain's credential when the stub refers to it in a header. If
    /// there are any, the stub never gets the value.
    pub credential_origins: Vec<CredentialOrigin>,
}

/// Receiver of a stub's status changes. The runtime implements it: it checks the order of statuses,
/// and informs the subscribers.
pub trait Presence: Send + Sync + 'static {
    /// Takes a status that the stub published, or that follows from the instance's course. Called
    /// in the order of the changes, from the sandbox's task; must not block.
    ///
    /// # Errors
    /// If the status cannot follow the current one. The stub gets the text as the reason.
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String>;

    /// Returns `true` if `live` is held back for now, though it was taken. Until
    /// [`StubHandle::admit`](crate::StubHandle::admit) the guest gets no messages.
    fn holds_back(&self) -> bool {
        false
    }

    /// Reports that the stub reached a limit: the setting of [`Limits`], or `stack` for the
    /// engine's. Called from the sandbox's task each time; must not block. The default does
    /// nothing.
    fn limited(&self, setting: &'static str) {
        let _ = setting;
    }
}

/// Source of the credentials of domains: the runtime's Identity Module.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// Returns the credential for a domain. Returns `None` if there is no credential, or the caller
    /// may not use it.
    ///
    /// `scope` has the domain's own meaning (RFC 6749 section 3.3). `None` is the default scope.
    ///
    /// # Errors
    /// If the source could not look the credential up.
    async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError>;
}

/// The kind of a [`Credential`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialKind {
    /// An access token (RFC 6750).
    Bearer,
    /// `user:password` (RFC 7617), not encoded.
    Basic,
    /// An identity assertion, for example a JWT.
    Assertion,
    /// Another kind that domain and stub understand.
    Other(String),
}

/// A secret of a domain.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record of the same name, which never changes within a track")]
pub struct Credential {
    /// The kind.
    pub kind: CredentialKind,
    /// The secret itself.
    pub value: String,
    /// Time at which the credential expires, if that is known.
    pub expires: Option<SystemTime>,
}

impl CredentialKind {
    /// Returns the kind with this name. Names outside the contract become [`Self::Other`].
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "bearer" => Self::Bearer,
            "basic" => Self::Basic,
            "assertion" => Self::Assertion,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl Credential {
    /// Returns `true` if the credential has expired.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }

    /// Returns the time at which the credential expires, in seconds since the Unix epoch.
    pub(crate) fn expires_unix(&self) -> Option<u64> {
        self.expires.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
    }
}

impl fmt::Debug for Credential {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Reasons why a credential is not available. The texts are for people, and never hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The caller may not have the credential, and asking again will not help.
    #[error("{0}")]
    Refused(SafeText),
    /// Asking again after a while may help, for example because a server did not answer.
    #[error("{0}")]
    Temporary(SafeText),
    /// The credential is not available until the operator changes something. For example, a file
    /// cannot be read, or a server does not know the client.
    #[error("{0}")]
    Failed(SafeText),
}
