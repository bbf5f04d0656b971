use crate::{DisconnectReason, websocket::CloseReason};

/// The result of the SDK's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why an operation failed.
///
/// When `run` returns one, [`Error::Failed`] ends the stub as `failed`. Any other error ends the
/// connection as `disconnected`, with the error as its reason, and the SDK reconnects after a
/// delay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A policy forbids the operation, or a grant is missing; the text says which.
    #[error("denied: {0}")]
    Denied(String),
    /// An argument, or data from the other side, cannot be understood; the text says which and why.
    #[error("invalid: {0}")]
    Invalid(String),
    /// No room now.
    #[error("the host has no room now; try again later")]
    Busy,
    /// The connection or the handle is closed.
    #[error("the handle is closed")]
    Closed,
    /// The operation would exceed a limit; the text says which, and by how much.
    #[error("over a limit: {0}")]
    Limit(String),
    /// The network or the other side failed; the text says how.
    #[error("{0}")]
    Io(String),
    /// The server answered a WebSocket's opening handshake with a status other than 101.
    #[error("the server refused the WebSocket with the HTTP status {0}")]
    Refused(u16),
    /// The server closed the WebSocket.
    #[error("{0}")]
    WebSocketClosed(CloseReason),
    /// The operation timed out.
    #[error("the operation timed out")]
    Timeout,
    /// The host asked the stub to disconnect, and there are no more messages.
    #[error("the host asked the stub to disconnect")]
    Disconnect(DisconnectReason),
    /// The stub cannot connect, and a retry with the same settings will not help. The stub becomes
    /// `failed` with this reason.
    #[error("{0}")]
    Failed(String),
    /// An error of the stub's own.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Makes an [`Error::Failed`]: the stub cannot connect, and a retry with the same settings will
    /// not help, for example after a wrong password. Returned from `run`, it ends the stub as
    /// `failed`.
    pub fn failed(reason: impl ToString) -> Self {
        Self::Failed(reason.to_string())
    }

    /// Makes an [`Error::Other`] of an error of the stub's own, or of a library that it uses.
    pub fn other(error: impl ToString) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(format!("JSON: {error}"))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
