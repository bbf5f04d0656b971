use std::time::Duration;

use protostub_types::{Address, Domain};

/// Default of [`BusConfig::request_timeout`]: 15 s.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest time that a request may be open, whatever it asks for.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest time that a message may wait in an inbox.
pub const MAX_QUEUE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an id that is a text may be, in bytes: twice what a UUID in a URN takes, with room for those who join several.
pub const MAX_ID_BYTES: usize = 256;

/// The configuration of a bus. [`Self::new`] gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BusConfig {
    /// The domain that `global://` addresses belong to.
    pub home: Domain,
    /// The runtime's own address. What is below it and has no listener is answered 404, and deploys nothing.
    pub runtime: Address,
    /// How long a request is open, unless it says otherwise in its header `timeout-ms`. At most [`MAX_REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// How long any other message may wait in an inbox. At most [`MAX_QUEUE_TIMEOUT`].
    pub queue_timeout: Duration,
    /// How many requests may be open at a time.
    pub max_open_requests: usize,
}

impl BusConfig {
    /// 15 seconds for requests, 60 seconds in queues, and 65 536 open requests.
    #[must_use]
    pub fn new(home: Domain, runtime: Address) -> Self {
        Self {
            home,
            runtime,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            queue_timeout: Duration::from_secs(60),
            max_open_requests: 65_536,
        }
    }
}
