/// Whether a connection is to be protected by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// TLS from the first byte, or begun by `STARTTLS`.
    Tls,
    /// No TLS, or not yet.
    Plain,
}
