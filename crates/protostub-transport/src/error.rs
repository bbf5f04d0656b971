/// The error of a stub's request to a connection: the variant `error` of `wit/0.1/types.wit`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum TransportError {
    /// A grant is missing. The text names it.
    #[error("denied: {0}")]
    Denied(String),
    /// The argument is invalid. The text names it, with the reason.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Not open yet, or no room now. A `ready` event follows.
    #[error("busy")]
    Busy,
    /// No connection of this kind has this handle, or the connection ended in an orderly way.
    #[error("closed")]
    Closed,
    /// A limit is reached. The text names it, with the excess.
    #[error("limit: {0}")]
    Limit(String),
    /// The network or the other side failed. The text has the reason.
    #[error("{0}")]
    Io(String),
}

impl TransportError {
    /// The error for `what` with `size` bytes, of which `limit` are allowed.
    pub(crate) fn too_long(what: &str, size: usize, limit: usize) -> Self {
        Self::Limit(too_long(what, size, limit))
    }
}

/// The text of an exceeded byte limit.
pub(crate) fn too_long(what: &str, size: usize, limit: usize) -> String {
    format!("{what} of {size} bytes is {} bytes over the limit of {limit}", size.saturating_sub(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_error_names_the_excess() {
        assert_eq!(
            TransportError::too_long("a frame", 12, 10).to_string(),
            "limit: a frame of 12 bytes is 2 bytes over the limit of 10"
        );
    }
}
