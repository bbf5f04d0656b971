use std::time::Duration;

/// The limits of one stub's connections. The defaults are what the contract (`wit/0.1`) promises.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportLimits {
    /// How many connections and HTTP exchanges a stub may have at a time. 16. As
    /// many that it closed may linger. The oldest of them is dropped when there would be more.
    pub connections: usize,
    /// How long a connection may take from the stub's call until it is open: DNS, TCP, TLS and handshake. 15 s.
    pub open_timeout: Duration,
    /// How long the head of an HTTP response may take from the stub's call. 30 s.
    pub head_timeout: Duration,
    /// How long the other side is waited for once a connection is being closed: to take more of what waits, and then to answer. 2 s.
    pub close_timeout: Duration,
    /// How long the closing of a connection takes at most, as long as the other side takes what waits. 10 s.
    pub flush_timeout: Duration,
    /// How long a WebSocket server may be silent before it is pinged, and then before it counts as gone. 30 s.
    pub ping_interval: Duration,
    /// How large a WebSocket message may be, in either direction, in bytes. 1 MiB.
    pub frame_bytes: usize,
    /// How many bytes of WebSocket frames may wait to be sent before a further one is refused, in bytes; each frame counts 64 more. 1 MiB.
    /// The last frame taken may exceed it.
    pub websocket_write_bytes: usize,
    /// How many bytes may wait to be sent on a TCP connection. 256 KiB.
    pub tcp_write_bytes: usize,
    /// How large the body of an HTTP request may be, in bytes. 1 MiB.
    pub request_body_bytes: usize,
    /// How large the names and values of the headers that a stub sends may be, in all, in bytes. 64 KiB.
    pub request_header_bytes: usize,
    /// How large those of an HTTP response may be. 64 KiB.
    pub response_header_bytes: usize,
    /// Number of fields of an HTTP response. 256.
    pub response_headers: usize,
    /// Number of informational responses (1xx) before an HTTP response. 8.
    pub informational_responses: usize,
    /// How large those of the answer to a WebSocket handshake may be. 16 KiB.
    pub handshake_header_bytes: usize,
    /// How much one call of a `receive` returns at most, whatever the stub asked for, in bytes. 1 MiB. One WebSocket message may exceed it.
    pub receive_bytes: usize,
    /// How many frames one call of `websocket.receive` returns at most. 1 024.
    pub receive_frames: usize,
    /// How long a URL may be, in bytes. 8 KiB.
    pub url_bytes: usize,
    /// How many bytes all connections of the stub may receive in a second. 64 MiB.
    pub bytes_in_per_second: u64,
    /// How many bytes they may send in a second. 64 MiB.
    pub bytes_out_per_second: u64,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            connections: 16,
            open_timeout: Duration::from_secs(15),
            head_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(2),
            flush_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(30),
            frame_bytes: 1 << 20,
            websocket_write_bytes: 1 << 20,
            tcp_write_bytes: 256 << 10,
            request_body_bytes: 1 << 20,
            request_header_bytes: 64 << 10,
            response_header_bytes: 64 << 10,
            response_headers: 256,
            informational_responses: 8,
            handshake_header_bytes: 16 << 10,
            receive_bytes: 1 << 20,
            receive_frames: 1_024,
            url_bytes: 8 << 10,
            bytes_in_per_second: 64 << 20,
            bytes_out_per_second: 64 << 20,
        }
    }
}
