/// Whether a connection is to be protected by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has TLS or has not")]
pub enum Protection {
    /// TLS from the first byte, or begun by `STARTTLS`.
    Tls,
    /// No TLS, or not yet.
    Plain,
}
