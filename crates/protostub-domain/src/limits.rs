use std::time::Duration;

/// Limits of a [`crate::DomainServer`]. A client beyond a limit gets an answer that names it; other
/// clients do not notice.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Open WebSocket connections. Further ones are refused with HTTP 503.
    pub max_connections: usize,
    /// Sessions, with a connection or waiting to be re-opened.
    pub max_sessions: usize,
    /// Addresses of one session, allocated and learned. The least recently used address that was
    /// learned gives way to a new one, unless it has a registration.
    pub max_addresses_per_session: usize,
    /// Addresses that one session subscribes to.
    pub max_subscriptions_per_session: usize,
    /// Addresses that one request allocates.
    pub max_allocation: usize,
    /// Entries of the registry, in all.
    pub max_registrations: usize,
    /// Length of the JSON text of one registry entry, in bytes.
    pub max_registration_bytes: usize,
    /// Length of one message of a client, in bytes. A client that sends a longer one is
    /// disconnected (close code 1009).
    pub max_message_bytes: usize,
    /// Messages that wait to be written to one client.
    pub max_queued_messages: usize,
    /// Their length together, in bytes.
    pub max_queued_bytes: usize,
    /// Time for which a session without a connection is kept, and a connection without a session.
    pub session_linger: Duration,
    /// Interval of pings. A client that leaves two pings without an answer counts as disconnected.
    pub keep_alive: Duration,
    /// Time within which a client has to read a message.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 512,
            max_sessions: 512,
            max_addresses_per_session: 1024,
            max_subscriptions_per_session: 1024,
            max_allocation: 100,
            max_registrations: 4096,
            max_registration_bytes: 16 * 1024,
            // The bus carries bodies of 1 MiB. JSON and addresses come on top.
            max_message_bytes: 2 * 1024 * 1024,
            max_queued_messages: 256,
            max_queued_bytes: 4 * 1024 * 1024,
            session_linger: Duration::from_secs(5 * 60),
            keep_alive: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}
