use crate::{DisconnectReason, websocket::CloseReason};

/// What the SDK's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
///
/// When `run` returns one, [`Error::Failed`] ends the stub as `failed`; any other ends the connection as `disconnected`, with the error as its
/// reason, and the SDK connects again after a while.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Policy or a missing grant; the text says which.
    #[error("denied: {0}")]
    Denied(String),
    /// An argument, or what the other side sent, cannot be understood; the text says which and why.
    #[error("invalid: {0}")]
    Invalid(String),
    /// No room now.
    #[error("no room now")]
    Busy,
    /// It is closed.
    #[error("closed")]
    Closed,
    /// A limit is hit; the text says which, and by how much.
    #[error("over a limit: {0}")]
    Limit(String),
    /// The network or the other side failed; the text says how.
    #[error("{0}")]
    Io(String),
    /// The server answered a WebSocket's opening handshake with something else than 101.
    #[error("the server refused the WebSocket with the HTTP status {0}")]
    Refused(u16),
    /// The server closed the WebSocket.
    #[error("{0}")]
    WebSocketClosed(CloseReason),
    /// It took too long.
    #[error("it took too long")]
    Timeout,
    /// The stub was told to disconnect, and there are no more messages.
    #[error("told to disconnect")]
    Disconnect(DisconnectReason),
    /// Connecting is not possible, and trying again as it is will not help: the stub is to be `failed` with this reason.
    #[error("{0}")]
    Failed(String),
    /// Something of the stub's own.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// The stub cannot connect, and trying again as it is will not help: a wrong password, say. Returned from `run`, it ends the stub as
    /// `failed`.
    pub fn failed(reason: impl ToString) -> Self {
        Self::Failed(reason.to_string())
    }

    /// An error of the stub's own, or of a library that it uses.
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
