use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The longest pause before its jitter: a year. Any clock time plus the pause is a valid time.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Growing pauses between attempts: an endless iterator.
///
/// Each pause is twice as long as the previous one, up to a longest one. Jitter then adds up to the
/// same time again, so that the clients of a failed server do not all return at once. Make a new
/// one after a success.
#[derive(Debug)]
pub struct Backoff {
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Creates pauses that begin with `first`. No pause is longer than `longest`, before its
    /// jitter. A year is the maximum of both.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        let longest = longest.min(FARTHEST);
        let pauses = ExponentialBuilder::default()
            .with_min_delay(first.min(FARTHEST))
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times()
            .build();
        Self { pauses, longest }
    }

    /// Returns the next pause.
    pub fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_pause())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = Backoff::new(Duration::from_secs(1), Duration::from_secs(5)).take(5).collect();
        for (pause, least) in pauses.into_iter().zip([1, 2, 4, 5, 5].map(Duration::from_secs)) {
            assert!(least <= pause && pause <= 2 * least, "{pause:?} after at least {least:?}");
        }
    }

    #[test]
    fn pauses_of_any_length_can_be_added_to_a_time() {
        let longest = Backoff::new(Duration::MAX, Duration::MAX).take(100).max();
        assert!(longest.is_some_and(|longest| longest <= 2 * FARTHEST), "{longest:?}");
    }
}
