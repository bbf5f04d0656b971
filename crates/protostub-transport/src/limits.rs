use std::time::Duration;

/// The limits of one stub's connections. The defaults are the contract's promises (`wit/0.1`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportLimits {
    /// Maximum number of concurrent connections and HTTP exchanges. 16. The same number of
    /// connections that the stub closed may linger. Beyond that, the oldest one is dropped.
    pub connections: usize,
    /// Timeout of opening a connection, from the stub's call: DNS, TCP, TLS and handshake. 15 s.
    pub open_timeout: Duration,
    /// Timeout from the stub's call until the head of an HTTP response. 30 s.
    pub head_timeout: Duration,
    /// Timeout of a closing connection while the other side makes no progress: first to accept more
    /// of the waiting data, then to answer. 2 s.
    pub close_timeout: Duration,
    /// Maximum duration of the closing while the other side accepts the waiting data. 10 s.
    pub flush_timeout: Duration,
    /// Silence of a WebSocket server before the host pings it, and then until the server counts as
    /// gone. 30 s.
    pub ping_interval: Duration,
    /// Maximum size of a WebSocket message, in either direction, in bytes. 1 MiB.
    pub frame_bytes: usize,
    /// Maximum size of the WebSocket frames that wait to be sent, in bytes. 1 MiB. Each frame
    /// counts 64 bytes more. Further frames are refused. The last accepted frame may exceed the
    /// limit.
    pub websocket_write_bytes: usize,
    /// Maximum number of bytes that wait to be sent on a TCP connection. 256 KiB.
    pub tcp_write_bytes: usize,
    /// Maximum size of the body of an HTTP request, in bytes. 1 MiB.
    pub request_body_bytes: usize,
    /// Maximum total size of the names and values of headers that a stub sends, in bytes. 64 KiB.
    pub request_header_bytes: usize,
    /// Maximum total size of the names and values of an HTTP response's headers, in bytes. 64 KiB.
    pub response_header_bytes: usize,
    /// Maximum number of fields of an HTTP response. 256.
    pub response_headers: usize,
    /// Maximum number of informational responses (1xx) before an HTTP response. 8.
    pub informational_responses: usize,
    /// Maximum total size of the names and values in the answer to a WebSocket handshake, in bytes.
    /// 16 KiB.
    pub handshake_header_bytes: usize,
    /// Maximum size that one call of a `receive` returns, in bytes, even if the stub asks for more.
    /// One WebSocket message may exceed it. 1 MiB.
    pub receive_bytes: usize,
    /// Maximum number of frames that one call of `websocket.receive` returns. 1 024.
    pub receive_frames: usize,
    /// Maximum size of a URL, in bytes. 8 KiB.
    pub url_bytes: usize,
    /// Maximum number of bytes that all connections of the stub receive per second. 64 MiB.
    pub bytes_in_per_second: u64,
    /// Maximum number of bytes that all connections of the stub send per second. 64 MiB.
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
