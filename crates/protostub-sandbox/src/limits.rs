use std::time::Duration;

use protostub_bus::InboxLimits;
use protostub_egress::QuotaLimits;
use protostub_transport::TransportLimits;
use protostub_types::{DEFAULT_COMPONENT_BYTES, DEFAULT_DESCRIPTOR_BYTES, overridable};

overridable! {
    /// Limits of one stub. The defaults suit an untrusted stub; the operator can override them for
    /// each domain.
    ///
    /// The limits that the contract promises to a stub (256 timers, 16 connections, 100 log lines a
    /// second, a body of 1 MiB …) are defaults here too. So an operator who trusts a domain can
    /// raise them.
    ///
    /// A settings file has them in its table `[limits]`, as keys in kebab-case: `memory-bytes`,
    /// `cpu-per-call-milliseconds`. [`Self::check`] refuses zeros with which no stub could work.
    pub struct Limits, overridden by
    /// Limits of one domain's stub. `None` inherits the runtime's limit.
    ///
    /// A whole [`Limits`] converts into overrides of every limit.
    pub struct LimitOverrides {
        /// Maximum size of all linear memories of the instance together, in bytes. At most
        /// [`EngineConfig::max_memory_bytes`](crate::EngineConfig::max_memory_bytes). Default:
        /// 64 MiB.
        memory_bytes: usize = 64 << 20,
        /// Maximum number of linear memories, at most 4. Default: 4, for the component's own and
        /// those of adapters that some languages' toolchains add.
        memories: usize = 4,
        /// Maximum number of elements of each table. Default: 20 000, which is the size of the
        /// pool's slots and enough for CPython. No larger value is possible.
        table_elements: usize = 20_000,
        /// Maximum number of tables of the instance, at most 64. Default: 8.
        tables: usize = 8,
        /// Maximum number of core instances of the component, at most 64. Default: 64, since
        /// components in Python have about forty.
        instances: usize = 64,
        /// Maximum computing time of one call of `start` or `handle`, counted in ticks of the
        /// engine while the call holds a thread. Default: 1 s.
        ///
        /// After the first ticks, the host makes a call pause, longer after each tick, until the
        /// call gets a quarter of the time. All calls that compute for longer than a tick share all
        /// processors except one: other calls go first.
        #[serde(rename = "cpu-per-call-milliseconds", deserialize_with = "protostub_types::settings::milliseconds")]
        cpu_per_call: Duration = Duration::from_secs(1),
        /// Maximum computing time of all calls in a second together. Beyond it the instance waits;
        /// it is not ended. The time of one second may be used at once. Default: 900 ms.
        #[serde(rename = "cpu-per-second-milliseconds", deserialize_with = "protostub_types::settings::milliseconds")]
        cpu_per_second: Duration = Duration::from_millis(900),
        /// Maximum time of one call, with the time that it waits through WASI. Time in which other
        /// calls have their turn, or in which the host makes it wait, does not count. Default:
        /// 10 s.
        #[serde(rename = "time-per-call-milliseconds", deserialize_with = "protostub_types::settings::milliseconds")]
        time_per_call: Duration = Duration::from_secs(10),
        /// Maximum size of the strings and lists that one call of an import moves into the host, in
        /// bytes. Default: 4 MiB.
        ///
        /// At least as large as the limits of a frame and of a body. A value over the limit of a
        /// frame or a body is an error to the guest; a value over this limit ends the instance.
        /// While the host copies, no other stub has the thread.
        hostcall_bytes: usize = 4 << 20,
        /// Maximum number of handles of resources (WASI streams, pollables …). Default: 1 000.
        resource_handles: usize = 1_000,
        /// Maximum number of random bytes that one call of `wasi:random` asks for. Default:
        /// 64 KiB.
        random_bytes: u64 = 64 << 10,

        /// Maximum number of messages that wait for the stub. A hyperty's inbox has the runtime's
        /// limit too. Default: that of [`InboxLimits`].
        inbox_messages: usize = InboxLimits::default().messages,
        /// Maximum memory of the messages that wait, in bytes. Default: that of [`InboxLimits`].
        inbox_bytes: usize = InboxLimits::default().bytes,
        /// Maximum number of events of one call of `handle`. Default: 64.
        batch_events: usize = 64,
        /// Maximum size of the messages of one call of `handle`, in bytes. A single message may
        /// exceed it. Default: 1 MiB.
        batch_bytes: usize = 1 << 20,
        /// Maximum size of the body of a message that the stub posts or gets, in bytes. The bus
        /// refuses a larger message to the stub with 413. Default: 1 MiB.
        body_bytes: usize = 1 << 20,
        /// Maximum number of posted messages per second. Default: 10 000.
        posts_per_second: u32 = 10_000,
        /// Maximum number of published statuses per second. Default: 100.
        publications_per_second: u32 = 100,

        /// Maximum number of log lines per second, standard output and error included. Default:
        /// 100.
        log_lines_per_second: u32 = 100,
        /// Maximum length of a log line, in bytes. Longer lines are cut. Default: 8 KiB.
        log_line_bytes: usize = 8 << 10,
        /// Maximum size of all log lines of a day, in bytes. A line counts with its text, the
        /// stub's address and domain, and 64 bytes. The day begins with its first line. Default:
        /// 64 MiB.
        log_bytes_per_day: u64 = 64 << 20,
        /// Maximum number of crash reports per hour that the runtime passes on. It only counts
        /// further crashes. Default: 60.
        crash_reports_per_hour: u64 = 60,

        /// Maximum number of timers at a time. Default: 256.
        timers: usize = 256,
        /// Maximum number of open requests for a credential. Default: 8.
        identity_requests: usize = 8,
        /// Maximum number of connections and HTTP exchanges at a time. Default: 16.
        connections: usize = 16,
        /// Maximum number of connection attempts per second: each name or address that is dialled,
        /// and each TLS handshake after that. Twice as many may come at once. Default: 20.
        connect_attempts_per_second: u32 = 20,
        /// Maximum size of a WebSocket message, in either direction, in bytes. Default: 1 MiB.
        frame_bytes: usize = 1 << 20,
        /// Maximum number of bytes that all connections receive per second. Beyond it, the host
        /// reads nothing for a while. A ping counts as 1 KiB, since the host answers it. Default:
        /// 64 MiB.
        bytes_in_per_second: u64 = 64 << 20,
        /// Maximum number of bytes that all connections send per second. Beyond it, the host writes
        /// nothing for a while. Default: 64 MiB.
        bytes_out_per_second: u64 = 64 << 20,

        /// Maximum size of the domain's descriptors, with the code inside them, in bytes. The
        /// catalogue enforces it. Default: 256 KiB.
        descriptor_bytes: usize = DEFAULT_DESCRIPTOR_BYTES,
        /// Maximum size of the stub's component, in bytes. The catalogue enforces it. Default:
        /// 64 MiB.
        component_bytes: usize = DEFAULT_COMPONENT_BYTES,
        /// Maximum number of requests for descriptors, keys and components per hour to all hosts of
        /// the registrable domain, with redirects as one and retries as several. The catalogue
        /// enforces it. Default: 3600.
        downloads_per_hour: u64 = 3_600,
        /// Maximum size of all descriptors, keys and components per hour that come from the
        /// registrable domain, in bytes. The catalogue enforces it. Default: 1 GiB.
        download_bytes_per_hour: u64 = 1 << 30,
    }
}

impl Limits {
    /// Returns the limits of the account that a stub's connections are charged to. As many sockets
    /// as open connections may be closing or idle, in addition.
    #[must_use]
    pub fn quota(&self) -> QuotaLimits {
        QuotaLimits {
            sockets: self.connections.saturating_mul(2),
            attempts_per_second: self.connect_attempts_per_second,
            ..QuotaLimits::default()
        }
    }

    /// Returns the limits of the stub's connections. The rest is as the contract promises.
    pub(crate) fn transport(&self) -> TransportLimits {
        let mut limits = TransportLimits::default();
        limits.connections = self.connections;
        limits.frame_bytes = self.frame_bytes;
        limits.bytes_in_per_second = self.bytes_in_per_second;
        limits.bytes_out_per_second = self.bytes_out_per_second;
        limits
    }

    /// Returns the limits of the stub's inbox.
    #[must_use]
    pub fn inbox(&self) -> InboxLimits {
        let mut limits = InboxLimits::new(self.inbox_messages, self.inbox_bytes);
        limits.body_bytes = self.body_bytes;
        limits
    }
}
