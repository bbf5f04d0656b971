use protostub_types::{Address, StubKey};

/// Why a message was refused. It was never accepted: nobody gets it, and no error response follows.
///
/// | code | what it means |
/// | --- | --- |
/// | 400 | the message breaks a limit that holds for all messages |
/// | 403 | the [policy](crate::Policy) refuses it |
/// | 404 | nobody is there |
/// | 409 | a request with this id, from the same sender to the same receiver, is still open |
/// | 413 | the message alone is larger than the receiver's inbox |
/// | 429 | a queue or a table is full; trying again later may help |
/// | 503 | the receiver is closed, or its stub cannot be deployed or is not connected |
/// | 508 | the message has come through its receiver already |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message to {to} was refused with code {code}: {reason}")]
#[non_exhaustive]
pub struct PostError {
    /// As in RFC 9110.
    pub code: u16,
    /// Who should have got the message.
    pub to: Address,
    /// What is in the way, and what can be done about it, for people.
    pub reason: String,
}

impl PostError {
    /// The refusal of a message to `to`.
    #[must_use]
    pub fn new(code: u16, to: &Address, reason: impl Into<String>) -> Self {
        Self { code, to: to.clone(), reason: reason.into() }
    }
}

/// Why a request has no answer: the host's own failure to get one. What the receiver answers, an error code included, is a message and
/// never this.
///
/// The codes are those of [`PostError`], where the request was refused, and
///
/// | code | what it means |
/// | --- | --- |
/// | 403 | the [policy](crate::Policy) refused the answer |
/// | 408 | no answer came in time |
/// | 502 | the stub crashed while it had the request |
/// | 503 | the receiver, or the bus, is gone |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request to {to} failed with code {code}: {reason}")]
#[non_exhaustive]
pub struct RequestError {
    /// As in RFC 9110.
    pub code: u16,
    /// Who was asked.
    pub to: Address,
    /// What went wrong, and what can be done about it, for people.
    pub reason: String,
}

impl RequestError {
    /// The failure of a request to `to`.
    #[must_use]
    pub fn new(code: u16, to: &Address, reason: impl Into<String>) -> Self {
        Self { code, to: to.clone(), reason: reason.into() }
    }
}

impl From<PostError> for RequestError {
    fn from(refused: PostError) -> Self {
        Self { code: refused.code, to: refused.to, reason: refused.reason }
    }
}

/// Why a mailbox could not be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// An address has one listener. The other one has to be detached first.
    #[error("{address} has a listener already: detach that one first, or use another address")]
    AddressTaken {
        /// What was to be listened on.
        address: Address,
    },
    /// A key has one route. The other one has to be detached first.
    #[error("{key} has a route already: detach that one first")]
    KeyTaken {
        /// What was to be served.
        key: StubKey,
    },
}
