use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A rate limit as a token bucket, for any countable amount. Its capacity is the amount that flows
/// in within one second.
///
/// [`take`](Self::take) may take more than there is. The bucket then has a debt, and
/// [`wait`](Self::wait) returns the time until it is paid.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: u64,
    /// Level in billionths, so that no amount is lost to rounding between two readings of the
    /// clock. Negative if there is a debt.
    level: i128,
    at: Instant,
}

impl TokenBucket {
    /// Makes a full bucket. A rate of zero counts as one.
    #[must_use]
    pub fn new(per_second: u64, now: Instant) -> Self {
        let mut bucket = Self { per_second: per_second.max(1), level: 0, at: now };
        bucket.level = bucket.most();
        bucket
    }

    fn most(&self) -> i128 {
        i128::from(self.per_second) * nanoseconds(SECOND)
    }

    /// Takes an amount, even if the bucket has less.
    pub fn take(&mut self, amount: u64, now: Instant) {
        self.refill(now);
        self.level -= i128::from(amount) * nanoseconds(SECOND);
    }

    /// Returns the time until the bucket has no debt, or `None` if it has no debt now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        // The level can only have risen since the last reading.
        if self.level >= 0 {
            return None;
        }
        self.refill(now);
        if self.level >= 0 {
            return None;
        }
        let wait = (-self.level).div_euclid(i128::from(self.per_second)) + 1;
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn refill(&mut self, now: Instant) {
        // Tasks on other threads may have read the clock a little later.
        let passed = now.saturating_duration_since(self.at);
        self.at += passed;
        self.level = self.most().min(self.level + nanoseconds(passed) * i128::from(self.per_second));
    }
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_allows_one_second_of_rate_then_waits() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::new(1_000, start);
        bucket.take(1_000, start);
        assert_eq!(bucket.wait(start), None, "as much as in a second may come at once");
        bucket.take(500, start);
        assert_eq!(bucket.wait(start).map(|wait| wait.as_millis()), Some(500));
        assert_eq!(bucket.wait(after(400)).map(|wait| wait.as_millis()), Some(100));
        assert_eq!(bucket.wait(after(501)), None);
        // The bucket saves up at most the amount of one second.
        bucket.take(1_001, after(60_000));
        assert_eq!(bucket.wait(after(60_000)).map(|wait| wait.as_millis()), Some(1));
    }
}
