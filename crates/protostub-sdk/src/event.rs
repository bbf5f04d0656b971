use std::fmt;

use crate::Message;

/// What a stub is told. Timers and connections have no events here: they wake the futures that wait for them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Event {
    /// Connect to the domain's back-end, with the domain's credential if there is one. Publish `in-progress`, and `live` once messages can flow.
    Connect(Option<Credential>),
    /// Say good-bye to the back-end and publish `disconnected`, within 5 s by default.
    Disconnect(DisconnectReason),
    /// A message to the stub or to an address of its domain. Comes only while the stub is `live`.
    Message(Message),
}

/// Why a stub is to disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum DisconnectReason {
    /// The host program or a hyperty wishes it.
    Request,
    /// The stub's successor takes over.
    Update,
    /// Nothing happened for long.
    Idle,
    /// The runtime ends.
    Shutdown,
}

/// The stub's status, as everybody else sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Status {
    /// It has started. The host publishes this one itself.
    Created,
    /// It is connecting.
    InProgress,
    /// It is connected: messages can flow.
    Live,
    /// It is no longer connected; it may connect again.
    Disconnected,
    /// It cannot connect, and trying again as it is will not help. Nothing follows.
    Failed,
}

impl fmt::Display for Status {
    /// The name on the bus: `in-progress`, say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::InProgress => "in-progress",
            Self::Live => "live",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
        })
    }
}

/// What a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum CredentialKind {
    /// An access token (RFC 6750).
    Bearer,
    /// A `user:password` (RFC 7617, not encoded).
    Basic,
    /// An identity assertion: a JWT, say.
    Assertion,
    /// Something that the domain and the Identity Module agreed on.
    Other(String),
}

/// A secret that the host's Identity Module holds for the stub's domain. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record, which never changes within a track")]
pub struct Credential {
    /// What it is.
    pub kind: CredentialKind,
    /// The secret.
    pub value: String,
    /// Until when it is good, in seconds since the Unix epoch; none: not known.
    pub expires: Option<u64>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).field("expires", &self.expires).finish_non_exhaustive()
    }
}
