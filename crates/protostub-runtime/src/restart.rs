//! Whether, and after which pause, a stub whose instance broke gets a new one.

use std::{collections::VecDeque, time::Duration};

use protostub_types::{Backoff, overridable};
use tokio::time::Instant;

overridable! {
    /// Restarts of a stub that was live and failed: it crashed, exceeded a limit, said `failed`, or
    /// could not connect again in time.
    ///
    /// A stub that was never live is not restarted: its deployment has failed, and a later message
    /// tries again. The pause before a restart begins with [`Self::first_pause`] and doubles with
    /// each restart that the budget still counts, up to [`Self::longest_pause`]. Up to as much
    /// again is added at random, so that stubs that failed together do not restart together.
    pub struct RestartPolicy, overridden by
    /// Restarts of one domain's stub. `None` inherits the runtime's setting.
    ///
    /// A whole [`RestartPolicy`] converts into overrides of every setting.
    pub struct RestartOverrides {
        /// Maximum number of restarts [within](Self::within) a time, and without being live in
        /// between. Beyond it, the stub is `failed`. Zero restarts none. Default: 5.
        #[serde(rename = "times")]
        restarts: u32 = 5,
        /// Time for which a restart counts. Default: 60 s.
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
    /// The pause after so many new instances that count.
    fn pause(&self, counted: usize) -> Duration {
        Backoff::new(self.first_pause, self.longest_pause).nth(counted).unwrap_or(self.longest_pause)
    }
}

/// The new instances of one stub so far, and what they may find saved.
#[derive(Debug)]
pub(crate) struct Restarts {
    policy: RestartPolicy,
    recent: VecDeque<Instant>,
    since_live: usize,
    /// When an instance crashed last that had a session to begin with.
    with_session: Option<Instant>,
}

impl Restarts {
    pub(crate) fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::new(), since_live: 0, with_session: None }
    }

    pub(crate) fn policy(&self) -> &RestartPolicy {
        &self.policy
    }

    /// Counts one more new instance, and tells the pause before it; none if the budget is spent.
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

    /// An instance is live.
    pub(crate) fn live(&mut self) {
        self.since_live = 0;
    }

    /// An instance has crashed while a session was saved. Whether the next one had better do without: the second time within the time that counts.
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
    fn pauses_grow_and_the_budget_ends() {
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
        // What is longer ago does not count.
        assert!(restarts.next(at(start, 61)).is_some_and(|pause| pause <= Duration::from_millis(200)));
    }

    #[test]
    fn instances_that_are_never_live_count_however_long_ago_they_were() {
        let mut restarts = Restarts::new(RestartPolicy::default());
        let start = Instant::now();
        assert!((0..5).all(|n| restarts.next(at(start, 100 * n)).is_some()));
        assert_eq!(restarts.next(at(start, 1000)), None);
        restarts.live();
        assert!(restarts.next(at(start, 1000)).is_some());
    }

    #[test]
    fn no_restarts_means_none() {
        let mut restarts = Restarts::new(RestartPolicy { restarts: 0, ..RestartPolicy::default() });
        assert_eq!(restarts.next(Instant::now()), None);
    }

    #[test]
    fn a_session_is_blamed_for_the_second_crash_in_a_row() {
        let mut restarts = Restarts::new(RestartPolicy::default());
        let start = Instant::now();
        assert!(!restarts.suspects_session(start));
        assert!(restarts.suspects_session(at(start, 60)));
        assert!(!restarts.suspects_session(at(start, 61)));
        assert!(!restarts.suspects_session(at(start, 200)), "that is long ago");
    }
}
