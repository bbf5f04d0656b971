use std::time::Duration;

use protostub_egress::QuotaLimits;
use protostub_transport::TransportLimits;

/// What one stub may use. The defaults suit an untrusted stub; the operator changes them for each domain.
///
/// What the contract itself promises to a stub (256 timers, 16 connections, 100 log lines a second, a body of 1 MiB …) is a default here too,
/// so that an operator who trusts a domain can give it more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How large the linear memories of the instance may grow together, in bytes. 64 MiB. Not above
    /// [`EngineConfig::max_memory_bytes`](crate::EngineConfig::max_memory_bytes).
    pub memory_bytes: usize,
    /// How many linear memories the instance may have. 4: one, and those of adapters that some languages' toolchains add.
    pub memories: usize,
    /// How many elements each table may have. 20 000: what fits into the pool's slots, and enough for CPython.
    pub table_elements: usize,
    /// How many tables the instance may have. 8.
    pub tables: usize,
    /// How many core instances the component may consist of. 64: what is written in Python has about forty.
    pub instances: usize,
    /// How long one call of `start` or `handle` may compute, counted in ticks of the engine while it holds a thread. 1 s.
    ///
    /// After its first ticks, a call is made to pause, for longer and longer, until it has a quarter of the time. All that compute for longer than a
    /// tick together have one processor less than there are: others come first.
    pub cpu_per_call: Duration,
    /// How long all calls of a second may compute together. 900 ms. Beyond that the instance is made to wait, and is not ended. As much as in one
    /// second may be computed at once.
    pub cpu_per_second: Duration,
    /// How long one call may take in all, with whatever it waits for through WASI. 10 s. That others have their turn, or that it is made to wait,
    /// does not count.
    pub time_per_call: Duration,
    /// How many bytes of strings and lists one call of an import may move into the host. 4 MiB: what is over the limit of a frame or a body
    /// is an error to the guest, and only what is far over all of them ends it. While the host copies, no other stub has the thread: the more,
    /// the longer. At least as much as a frame and a body may have.
    pub hostcall_bytes: usize,
    /// How many handles of resources (WASI streams, pollables …) the instance may hold. 1 000.
    pub resource_handles: usize,
    /// How many bytes of random numbers one call of `wasi:random` may ask for. 64 KiB.
    pub random_bytes: u64,

    /// How many events one call of `handle` may carry. 64.
    pub batch_events: usize,
    /// How many bytes of messages one call of `handle` may carry; one message may exceed it by itself. 1 MiB.
    pub batch_bytes: usize,
    /// How large the body of a posted message may be, in bytes. 1 MiB.
    pub body_bytes: usize,
    /// How many messages may be posted in a second. 10 000.
    pub posts_per_second: u32,
    /// How often the status may be published in a second. 100.
    pub publications_per_second: u32,

    /// How many lines may be logged in a second, standard output and error included. 100.
    pub log_lines_per_second: u32,
    /// How long a logged line may be, in bytes; longer ones are cut. 8 KiB.
    pub log_line_bytes: usize,

    /// How many timers may run at a time. 256.
    pub timers: usize,
    /// How many requests for a credential may be open at a time. 8.
    pub identity_requests: usize,
    /// How many connections and HTTP exchanges may be open at a time. 16.
    pub connections: usize,
    /// Maximum number of connection attempts per second: each name or address that is dialled, and
    /// each TLS handshake after that. Twice as many may come at once. 20.
    pub connect_attempts_per_second: u32,
    /// How large a WebSocket message may be, in either direction, in bytes. 1 MiB.
    pub frame_bytes: usize,
    /// How many bytes all connections may receive in a second. 64 MiB. Beyond that, nothing is read for a while. A ping counts as 1 KiB: the host
    /// answers it.
    pub bytes_in_per_second: u64,
    /// How many bytes all connections may send in a second. 64 MiB. Beyond that, nothing is written for a while.
    pub bytes_out_per_second: u64,
}

impl Limits {
    /// The limits of the account that a stub's connections are charged to. Apart from the open
    /// connections, as many sockets may be closing or idle.
    #[must_use]
    pub fn quota(&self) -> QuotaLimits {
        QuotaLimits {
            sockets: self.connections.saturating_mul(2),
            attempts_per_second: self.connect_attempts_per_second,
            ..QuotaLimits::default()
        }
    }

    /// Returns the limits of the stub's connections. The rest is what the contract promises.
    pub(crate) fn transport(&self) -> TransportLimits {
        let mut limits = TransportLimits::default();
        limits.connections = self.connections;
        limits.frame_bytes = self.frame_bytes;
        limits.bytes_in_per_second = self.bytes_in_per_second;
        limits.bytes_out_per_second = self.bytes_out_per_second;
        limits
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            memories: 4,
            table_elements: 20_000,
            tables: 8,
            instances: 64,
            cpu_per_call: Duration::from_secs(1),
            cpu_per_second: Duration::from_millis(900),
            time_per_call: Duration::from_secs(10),
            hostcall_bytes: 4 << 20,
            resource_handles: 1_000,
            random_bytes: 64 << 10,
            batch_events: 64,
            batch_bytes: 1 << 20,
            body_bytes: 1 << 20,
            posts_per_second: 10_000,
            publications_per_second: 100,
            log_lines_per_second: 100,
            log_line_bytes: 8 << 10,
            timers: 256,
            identity_requests: 8,
            connections: 16,
            connect_attempts_per_second: 20,
            frame_bytes: 1 << 20,
            bytes_in_per_second: 64 << 20,
            bytes_out_per_second: 64 << 20,
        }
    }
}
