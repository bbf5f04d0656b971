use protostub_types::{Address, StubKey};

/// The refusal of a message. The bus never accepted it: no receiver gets it, and no error response
/// follows.
///
/// | code | meaning |
/// | --- | --- |
/// | 400 | the message breaks a limit that holds for all messages |
/// | 403 | the [policy](crate::Policy) refuses it |
/// | 404 | the address has no listener and no stub |
/// | 409 | a request with this id, from the same sender to the same receiver, is still open |
/// | 413 | the message is larger than the receiver's inbox, or its body than the stub takes |
/// | 413 | the message is larger than the memory that all inboxes share |
/// | 429 | a queue or a table is full, or the sender has its share; trying again later may help |
/// | 503 | the receiver is closed, or its stub cannot be deployed or is not connected |
/// | 503 | messages of the sender ended two instances of the receiving stub |
/// | 508 | the message has come through its receiver already |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message to {to} was refused with code {code}: {reason}")]
#[non_exhaustive]
pub struct PostError {
    /// Code as in RFC 9110.
    pub code: u16,
    /// Address of the refused message's receiver.
    pub to: Address,
    /// Cause, and a remedy where there is one, as text for people.
    pub reason: String,
}

impl PostError {
    /// Creates the refusal of a message to `to`.
    #[must_use]
    pub fn new(code: u16, to: &Address, reason: impl Into<String>) -> Self {
        Self { code, to: to.clone(), reason: reason.into() }
    }
}

/// The host's failure to get a response to a request. A response of the receiver, even with an
/// error code, is a message and never this error.
///
/// The codes are those of [`PostError`], if the request was refused, and these:
///
/// | code | meaning |
/// | --- | --- |
/// | 403 | the [policy](crate::Policy) refused the response |
/// | 408 | no response came in time |
/// | 502 | the stub crashed while it had the request |
/// | 503 | the receiver, or the bus, is gone |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request to {to} failed with code {code}: {reason}")]
#[non_exhaustive]
pub struct RequestError {
    /// Code as in RFC 9110.
    pub code: u16,
    /// Address of the request's receiver.
    pub to: Address,
    /// Cause, and a remedy where there is one, as text for people.
    pub reason: String,
}

impl RequestError {
    /// Creates the failure of a request to `to`.
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

/// The failure to attach a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The address has its one listener already. That one has to be detached first.
    #[error("{address} has a listener already; detach that one first, or use another address")]
    AddressTaken {
        /// The address to listen at.
        address: Address,
    },
    /// The key has its one route already. That one has to be detached first.
    #[error("{key} has a route already; detach that one first")]
    KeyTaken {
        /// The key to serve.
        key: StubKey,
    },
}
