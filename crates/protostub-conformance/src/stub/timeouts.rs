use std::time::Duration;

/// Time limits for a stub. The defaults fit the host's own timeouts, with room for a slow machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From `connect` to `live`, with a working server. 20 s; a runtime has 30 s by default.
    pub live: Duration,
    /// To answer a request, with a working server. 10 s.
    pub answer: Duration,
    /// To disconnect, and to notice the end of a connection. 5 s: the grace time of a runtime.
    pub grace: Duration,
    /// To report an unreachable server. 20 s: the host gives up a connection that does not open
    /// within 15 s.
    pub outage: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            live: Duration::from_secs(20),
            answer: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            outage: Duration::from_secs(20),
        }
    }
}
