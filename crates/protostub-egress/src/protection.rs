/// The protection of a connection by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has TLS or has not")]
pub enum Protection {
    /// TLS from the first byte, or after `STARTTLS`.
    Tls,
    /// No TLS, or no TLS yet.
    Plain,
}
