use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use protostub_bus::Bus;
use protostub_egress::{Egress, Grants, Quota};
use protostub_types::{Address, Domain, SafeText, StubStatus};

use crate::{CredentialOrigin, Limits, Session};

/// What a sandbox needs of the runtime around it.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "whoever makes a sandbox has to give all of it")]
pub struct SandboxServices {
    /// Where the stub's messages go.
    pub bus: Bus,
    /// How its connections leave.
    pub egress: Egress,
    /// The account that its connections are charged to, with the limits of [`Limits::quota`]. All
    /// instances of a stub share one, so that a restart resets nothing.
    pub quota: Quota,
    /// Who is told the stub's status.
    pub presence: Arc<dyn Presence>,
    /// Who is asked for its domain's credentials.
    pub credentials: Arc<dyn CredentialSource>,
    /// What it saved, and its successor will find.
    pub session: Session,
}

impl fmt::Debug for SandboxServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxServices").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Who the stub is, and what it may do.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "the creator of a sandbox has to decide on all of it")]
pub struct SandboxConfig {
    /// The stub's own address, of which nobody else is.
    pub url: Address,
    /// Whose stub it is: it speaks for the addresses of exactly this domain, and is given this domain's credentials.
    pub domain: Domain,
    /// What `configuration.get` returns: a JSON object, `runtimeURL` included. At most 64 KiB.
    pub configuration: Arc<str>,
    /// What it may use.
    pub limits: Limits,
    /// Where it may connect to.
    pub grants: Grants,
    /// Further domains that it may speak for.
    pub relays: Vec<Domain>,
    /// Where the domain's credential may go that the stub refers to in a header. If there are any, the stub is never given its value.
    pub credential_origins: Vec<CredentialOrigin>,
}

/// Who is told that a stub's status changed. The runtime implements it: it knows which status may follow which, and tells everybody else.
pub trait Presence: Send + Sync + 'static {
    /// Takes a status that the stub published, or that follows from what became of it. Called in the order of the changes, from the
    /// sandbox' task; must not block.
    ///
    /// # Errors
    /// If the status cannot follow the one that holds; the text, which the stub is given, says why.
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String>;

    /// Returns `true` if `live` is held back for now, though it was taken. Until
    /// [`StubHandle::admit`](crate::StubHandle::admit) the guest gets no messages.
    fn holds_back(&self) -> bool {
        false
    }

    /// Is told that the stub ran into a limit: the setting of [`Limits`], or `stack` for the engine's. Called from the sandbox' task for each time;
    /// must not block. Does nothing unless it is implemented.
    fn limited(&self, setting: &'static str) {
        let _ = setting;
    }
}

/// Who has the credentials of domains: the runtime's Identity Module.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// The credential for a domain, with a scope as that domain understands it (RFC 6749 section 3.3; none: the default); none: there is
    /// no credential, or it may not be used.
    ///
    /// # Errors
    /// If it could not be found out.
    async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError>;
}

/// What a [`Credential`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialKind {
    /// An access token (RFC 6750).
    Bearer,
    /// `user:password` (RFC 7617), not encoded.
    Basic,
    /// An identity assertion: a JWT, say.
    Assertion,
    /// Something else that domain and stub understand.
    Other(String),
}

/// A secret of a domain.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record of the same name, which never changes within a track")]
pub struct Credential {
    /// What it is.
    pub kind: CredentialKind,
    /// The secret itself.
    pub value: String,
    /// When it runs out, if that is known.
    pub expires: Option<SystemTime>,
}

impl CredentialKind {
    /// The kind with this name; what is none of the contract's own is something else.
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
    /// Whether it has run out.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }

    /// When it runs out, in seconds since the Unix epoch.
    pub(crate) fn expires_unix(&self) -> Option<u64> {
        self.expires.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
    }
}

impl fmt::Debug for Credential {
    /// The secret is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why a credential could not be had. The texts are for people, and never hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// It is not for whoever asked, and asking again will not help.
    #[error("{0}")]
    Refused(SafeText),
    /// Asking again after a while may help: a server did not answer.
    #[error("{0}")]
    Temporary(SafeText),
    /// It cannot be had until somebody changes something: a file cannot be read, a server does not know the client.
    #[error("{0}")]
    Failed(SafeText),
}
