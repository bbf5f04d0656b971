/// The host did not do what a stub asked of a connection: the variant `error` of `wit/0.1/types.wit`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum TransportError {
    /// No grant; the text says which.
    #[error("denied: {0}")]
    Denied(String),
    /// The argument cannot be understood; the text says which and why.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Not open yet, or no room now: `ready` follows.
    #[error("busy")]
    Busy,
    /// No connection of this kind has this handle, or it ended in an orderly way.
    #[error("closed")]
    Closed,
    /// A limit is hit; the text says which, and by how much.
    #[error("limit: {0}")]
    Limit(String),
    /// The network or the other side failed; the text says how.
    #[error("{0}")]
    Io(String),
}

impl TransportError {
    /// `what` is `size` bytes long and may be `limit` long.
    pub(crate) fn too_long(what: &str, size: usize, limit: usize) -> Self {
        Self::Limit(too_long(what, size, limit))
    }
}

/// The text of what is over a limit of bytes.
pub(crate) fn too_long(what: &str, size: usize, limit: usize) -> String {
    format!("{what} of {size} bytes is {} bytes over the limit of {limit}", size.saturating_sub(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_by_how_much() {
        assert_eq!(
            TransportError::too_long("a frame", 12, 10).to_string(),
            "limit: a frame of 12 bytes is 2 bytes over the limit of 10"
        );
    }
}
