use std::time::Duration;

/// What a [`crate::DomainServer`] bears. Whoever goes beyond gets an answer that says so; nobody else notices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Open WebSocket connections; one more is refused with HTTP 503.
    pub max_connections: usize,
    /// Sessions, connected or waiting to be opened again.
    pub max_sessions: usize,
    /// Addresses that one session may have, allocated and learned.
    pub max_addresses_per_session: usize,
    /// Addresses that one session may subscribe to.
    pub max_subscriptions_per_session: usize,
    /// Addresses that one request may have allocated.
    pub max_allocation: usize,
    /// Entries of the registry, in all.
    pub max_registrations: usize,
    /// The JSON text of one registry entry, in bytes.
    pub max_registration_bytes: usize,
    /// One message of a client, in bytes; who sends a longer one is disconnected (close code 1009).
    pub max_message_bytes: usize,
    /// Messages that wait to be written to one client.
    pub max_queued_messages: usize,
    /// Their length together, in bytes.
    pub max_queued_bytes: usize,
    /// How long a session is kept for a client that has lost its connection, and how long a connection may stay without a session.
    pub session_linger: Duration,
    /// How often a client is pinged; one that leaves two pings without an answer has lost its connection.
    pub keep_alive: Duration,
    /// How long a client may take to read what is written to it.
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
            // The bus bears bodies of 1 MiB, and JSON and addresses stand around them.
            max_message_bytes: 2 * 1024 * 1024,
            max_queued_messages: 256,
            max_queued_bytes: 4 * 1024 * 1024,
            session_linger: Duration::from_secs(5 * 60),
            keep_alive: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}
