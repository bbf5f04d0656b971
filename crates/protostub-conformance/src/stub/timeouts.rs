use std::time::Duration;

/// How long a stub may take for what it has to do. The defaults fit the host's own time-outs, with room for a slow machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From `connect` to `live`, while its server is well. 20 s; a runtime has 30 s by default.
    pub live: Duration,
    /// To answer a request, while its server is well. 10 s.
    pub answer: Duration,
    /// To say good-bye, and to notice that a connection has ended. 5 s: the grace time of a runtime.
    pub grace: Duration,
    /// To say that its server is not well. 20 s: the host gives up a connection that does not open after 15 s.
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
