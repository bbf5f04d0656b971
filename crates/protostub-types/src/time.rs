use std::time::{Duration, Instant};

/// The farthest deadline from now: 100 years. Every clock can represent it.
const FARTHEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Returns the time `after` from `now`. A duration that no clock can add, such as
/// [`Duration::MAX`], gives a deadline 100 years away instead of a panic.
///
/// Accepts the instants of the standard library, and those that convert from and to them, such as
/// tokio's.
#[must_use]
pub fn deadline<I: Into<Instant> + From<Instant>>(now: I, after: Duration) -> I {
    let now = now.into();
    // A clock that is within 100 years of its end has no later time.
    now.checked_add(after.min(FARTHEST)).unwrap_or(now).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_of_any_duration_is_after_now() {
        let now = Instant::now();
        assert_eq!(deadline(now, Duration::from_secs(5)), now + Duration::from_secs(5));
        for after in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_millis(u64::MAX), FARTHEST] {
            assert_eq!(deadline(now, after), now + FARTHEST, "{after:?}");
        }
    }
}
