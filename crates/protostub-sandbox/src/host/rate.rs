use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A limit on the number of events in each second.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    /// Start of the next second.
    until: Instant,
    admitted: u32,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, until: Instant::now() + SECOND, admitted: 0 }
    }

    /// Returns `true`, and counts, if one more event is possible now.
    pub(crate) fn admit(&mut self) -> bool {
        self.admit_at(Instant::now())
    }

    /// Returns the text of the error for an event over the limit.
    pub(crate) fn exceeded(&self, what: &str) -> String {
        format!("more than {} {what} a second", self.per_second)
    }

    /// Does the same as [`Self::admit`], at a known time.
    pub(crate) fn admit_at(&mut self, now: Instant) -> bool {
        if now >= self.until {
            self.until = now + SECOND;
            self.admitted = 0;
        }
        let admit = self.admitted < self.per_second;
        self.admitted += u32::from(admit);
        admit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_admits_its_number_each_second() {
        let mut rate = RateLimit::new(2);
        let start = rate.until - SECOND;
        assert_eq!(
            [0, 10, 999, 1_000, 1_001, 1_002].map(|ms| rate.admit_at(start + Duration::from_millis(ms))),
            [true, true, false, true, true, false]
        );
        assert_eq!(rate.exceeded("messages"), "more than 2 messages a second");
    }
}
