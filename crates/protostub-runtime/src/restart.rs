//! The restart policy: pauses between instances, and the budget of restarts.

use std::{collections::VecDeque, time::Duration};

use protostub_types::{Backoff, overridable};
use tokio::time::Instant;

overridable! {
    /// Restarts of a stub that was live and failed: it crashed, exceeded a limit, reported
    /// `failed`, or reported nothing in time after the order to connect.
    ///
    /// A stub that was never live is not restarted. Its deployment has failed, and a later message
    /// tries again. The pause before a restart begins with [`Self::first_pause`] and doubles with
    /// each restart that still counts, up to [`Self::longest_pause`]. A random time of up to the
    /// same length is added, so that stubs that failed together do not restart together.
    pub struct RestartPolicy, overridden by
    /// Restarts of one domain's stub. `None` inherits the runtime's setting.
    ///
    /// A whole [`RestartPolicy`] converts into overrides of every setting.
    pub struct RestartOverrides {
        /// Maximum number of restarts [within](Self::within) a time, and without being live in
        /// between. Beyond this, the stub is `failed`. Zero disables restarts. Default: 5.
        #[serde(rename = "times")]
        restarts: u32 = 5,
        /// Time for which a restart counts, and for which a sender gets 503 whose messages ended
        /// two instances. Longer than zero. Default: 60 s.
        #[serde(rename = "within-seconds", deserialize_with = "protostub_types::settings::seconds")]
        within: Duration = Duration::from_secs(60),
        /// Pause before the first restart. Default: 100 ms.
        #[serde(rename = "first-pause-milliseconds", deserialize_with = "protostub_types::settings::milliseconds")]
        first_pause: Duration = Duration::from_millis(100),
        /// Longest pause. Default: 10 s.
        #[serde(rename = "longest-pause-milliseconds", deserialize_with = "protostub_types::settings::milliseconds")]
        longest_pause: Duration = Duration::from_secs(10),
    }
}

impl RestartPolicy {
    /// Returns the pause after this number of counted restarts.
    fn pause(&self, counted: usize) -> Duration {
        Backoff::new(self.first_pause, self.longest_pause).nth(counted).unwrap_or(self.longest_pause)
    }
}

/// The restarts of one stub so far, and the suspicion against its saved session.
#[derive(Debug)]
pub(crate) struct Restarts {
    policy: RestartPolicy,
    recent: VecDeque<Instant>,
    since_live: usize,
    /// Time of the last crash of an instance that had a saved session.
    with_session: Option<Instant>,
}

impl Restarts {
    pub(crate) fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::new(), since_live: 0, with_session: None }
    }

    pub(crate) fn policy(&self) -> &RestartPolicy {
        &self.policy
    }

    /// Counts one more restart and returns the pause before it. Returns `None` if the budget is
    /// spent.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) > self.policy.within) {
            self.recent.pop_front();
        }
        let counted = self.recent.len().max(self.since_live);
        if counted >= usize::try_from(self.policy.restarts).unwrap_or(usize::MAX) {
            return None;
        }
        self.recent.push_back(now);
        self.since_live += 1;
        Some(self.policy.pause(counted))
    }

    /// Notes that an instance is live.
    pub(crate) fn live(&mut self) {
        self.since_live = 0;
    }

    /// Notes a crash of an instance while a session was saved. Returns `true` for the second such
    /// crash within [`RestartPolicy::within`]: the next instance should start without the session.
    pub(crate) fn suspects_session(&mut self, now: Instant) -> bool {
        let counts = |at: Instant| now.saturating_duration_since(at) <= self.policy.within;
        let again = self.with_session.take().is_some_and(counts);
        if !again {
            self.with_session = Some(now);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn restart_pauses_grow_until_the_budget_ends() {
        let policy = RestartPolicy { longest_pause: Duration::from_millis(350), ..RestartPolicy::default() };
        let mut restarts = Restarts::new(policy);
        let start = Instant::now();
        for shortest in [100, 200, 350, 350, 350] {
            restarts.live();
            let pause = restarts.next(start).expect("one of five");
            assert!(pause >= Duration::from_millis(shortest) && pause <= Duration::from_millis(2 * shortest), "{pause:?}");
        }
        restarts.live();
        assert_eq!(restarts.next(at(start, 60)), None, "five within a minute");
        // Restarts before that do not count.
        assert!(restarts.next(at(start, 61)).is_some_and(|pause| pause <= Duration::from_millis(200)));
    }

    #[test]
    fn restart_without_live_in_between_counts_at_any_age() {
        let mut restarts = Restarts::new(RestartPolicy::default());
        let start = Instant::now();
        assert!((0..5).all(|n| restarts.next(at(start, 100 * n)).is_some()));
        assert_eq!(restarts.next(at(start, 1000)), None);
        restarts.live();
        assert!(restarts.next(at(start, 1000)).is_some());
    }

    #[test]
    fn zero_restarts_allow_no_restart() {
        let mut restarts = Restarts::new(RestartPolicy { restarts: 0, ..RestartPolicy::default() });
        assert_eq!(restarts.next(Instant::now()), None);
    }

    #[test]
    fn session_is_suspected_after_the_second_crash() {
        let mut restarts = Restarts::new(RestartPolicy::default());
        let start = Instant::now();
        assert!(!restarts.suspects_session(start));
        assert!(restarts.suspects_session(at(start, 60)));
        assert!(!restarts.suspects_session(at(start, 61)));
        assert!(!restarts.suspects_session(at(start, 200)), "the last crash is too long ago");
    }
}
