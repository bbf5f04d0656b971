use std::fmt;

use crate::Message;

/// An event for a stub. Timers and connections have no events here: they wake the futures that wait
/// for them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Event {
    /// Connect to the domain's back-end, with the domain's credential if there is one. Publish
    /// `in-progress`, and `live` once messages can flow.
    Connect(Option<Credential>),
    /// Close the connection to the back-end gracefully and publish `disconnected`, within 5 s by
    /// default.
    Disconnect(DisconnectReason),
    /// A message to the stub or to an address of its domain. The host delivers messages only while
    /// the stub is `live`.
    Message(Message),
}

/// The reason for a disconnect event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum DisconnectReason {
    /// The host program or a hyperty asked for it.
    Request,
    /// The stub's successor takes over.
    Update,
    /// The stub was idle for long.
    Idle,
    /// The runtime shuts down.
    Shutdown,
}

/// The public status of the stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Status {
    /// The stub has started. The host itself publishes this status.
    Created,
    /// The stub is connecting.
    InProgress,
    /// The stub is connected: messages can flow.
    Live,
    /// The stub is no longer connected; it may reconnect.
    Disconnected,
    /// The stub cannot connect, and a retry with the same settings will not help. No other status
    /// follows.
    Failed,
}

impl fmt::Display for Status {
    /// Writes the name on the bus, such as `in-progress`.
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

/// The kind of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum CredentialKind {
    /// An access token (RFC 6750).
    Bearer,
    /// A `user:password` (RFC 7617, not encoded).
    Basic,
    /// An identity assertion, such as a JWT.
    Assertion,
    /// A kind that the domain and the Identity Module agreed on.
    Other(String),
}

/// A secret that the host's Identity Module holds for the stub's domain. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the contract's record, which never changes within a track")]
pub struct Credential {
    /// The kind of the credential.
    pub kind: CredentialKind,
    /// The secret.
    pub value: String,
    /// Expiry in seconds since the Unix epoch, or `None` if it is unknown.
    pub expires: Option<u64>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).field("expires", &self.expires).finish_non_exhaustive()
    }
}
