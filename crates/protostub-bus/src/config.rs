use std::{
    fmt,
    time::{Duration, Instant},
};

use protostub_types::{Address, Domain};

/// Default of [`BusConfig::request_timeout`]: 15 s.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Default of [`BusConfig::max_queued_bytes`]: 256 MiB.
pub const DEFAULT_QUEUED_BYTES: usize = 256 << 20;

/// Maximum time that a request may be open, even if it asks for more.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum time that a message may wait in an inbox.
pub const MAX_QUEUE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum length of a text id in bytes: twice the length of a UUID in a URN, with room for senders
/// that join several.
pub const MAX_ID_BYTES: usize = 256;

/// The configuration of a bus. [`Self::new`] gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BusConfig {
    /// The domain that `global://` addresses belong to.
    pub home: Domain,
    /// The runtime's own address. Messages to addresses below it without a listener are answered
    /// with 404, and deploy no stub.
    pub runtime: Address,
    /// Timeout of requests without a header `timeout-ms`. At most [`MAX_REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// Timeout of any other message that waits in an inbox. At most [`MAX_QUEUE_TIMEOUT`].
    pub queue_timeout: Duration,
    /// Maximum number of open requests. Stubs share three quarters of them, and the rest is a
    /// reserve for hyperties and the host.
    pub max_open_requests: usize,
    /// Clock of all timeouts. Default: the operating system's.
    pub clock: Clock,
    /// Maximum memory of all messages that wait in inboxes, in bytes, roughly
    /// ([`Message::size`](protostub_types::Message::size)).
    ///
    /// An eighth of it is a reserve for the first messages of each inbox: a 1024th of the reserve
    /// for each (32 KiB by default). More than 1024 inboxes may exceed the maximum by their
    /// reserves. Another eighth is for what the allocator adds. All inboxes share the rest, and a
    /// sender gets no more of it than is left.
    pub max_queued_bytes: usize,
}

impl BusConfig {
    /// Creates the default configuration: 15 seconds for requests, 60 seconds in queues, 65 536
    /// open requests, and 256 MiB of waiting messages.
    #[must_use]
    pub fn new(home: Domain, runtime: Address) -> Self {
        Self {
            home,
            runtime,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            queue_timeout: Duration::from_secs(60),
            max_open_requests: 65_536,
            clock: Clock::default(),
            max_queued_bytes: DEFAULT_QUEUED_BYTES,
        }
    }
}

/// The clock of a bus: a function that returns the current time.
///
/// The default is the operating system's monotonic clock. Callers post from runtimes of their own,
/// and tokio's clock is that of the caller's runtime: a test may have paused it.
#[derive(Clone, Copy)]
pub struct Clock(fn() -> Instant);

impl Clock {
    /// Creates a clock, such as the paused one of a test that also runs the
    /// [deadlines](crate::Bus::run_deadlines).
    #[must_use]
    pub const fn new(now: fn() -> Instant) -> Self {
        Self(now)
    }

    pub(crate) fn now(self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Instant::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
