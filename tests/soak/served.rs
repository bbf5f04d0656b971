//! The neighbours' latencies, minute by minute.

use std::{fmt, time::Duration};

use hostile::{Answer, percentile};
use serde_json::{Value, json};

/// The longest latency of a neighbour that counts as served.
const LONGEST: Duration = Duration::from_secs(5);

/// The latencies of a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    median: Duration,
    p99: Duration,
    longest: Duration,
}

impl Waited {
    fn of(latencies: &mut [Duration]) -> Self {
        Self { median: percentile(latencies, 50), p99: percentile(latencies, 99), longest: percentile(latencies, 100) }
    }

    fn json(self) -> Value {
        json!({ "p50Milliseconds": milliseconds(self.median), "p99Milliseconds": milliseconds(self.p99), "longestMilliseconds": milliseconds(self.longest) })
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, p99, longest } = self;
        write!(
            f,
            "{:.1} ms (p50), {:.1} ms (p99), {:.0} ms at most",
            milliseconds(*median),
            milliseconds(*p99),
            milliseconds(*longest)
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The neighbours' latencies. Single values are kept for one minute.
#[derive(Debug)]
pub(crate) struct Served {
    before: Waited,
    minutes: Vec<Waited>,
    minute: Vec<Duration>,
}

impl Served {
    /// Starts with the answers before the attacks.
    pub(crate) fn after(quiet: Vec<Answer>) -> Self {
        let mut latencies: Vec<_> = quiet.into_iter().map(|answer| answer.latency).collect();
        Self { before: Waited::of(&mut latencies), minutes: Vec::new(), minute: Vec::new() }
    }

    pub(crate) fn add(&mut self, answers: Vec<Answer>) {
        self.minute.extend(answers.into_iter().map(|answer| answer.latency));
    }

    pub(crate) fn end_minute(&mut self) -> Waited {
        let waited = Waited::of(&mut self.minute);
        self.minute.clear();
        self.minutes.push(waited);
        waited
    }

    /// Returns all minutes, including the current one.
    fn all(&self) -> Vec<Waited> {
        let mut rest = self.minute.clone();
        let last = (!rest.is_empty()).then(|| Waited::of(&mut rest));
        self.minutes.iter().copied().chain(last).collect()
    }

    /// Returns the fault if a neighbour waited too long.
    pub(crate) fn fault(&self) -> Option<String> {
        let longest = self.all().iter().map(|waited| waited.longest).max().unwrap_or_default();
        (longest > LONGEST).then(|| format!("a neighbour waited {longest:?} for an answer"))
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "before": self.before.json(), "minutes": self.all().into_iter().map(Waited::json).collect::<Vec<_>>() })
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        let worst = |of: fn(&Waited) -> Duration| all.iter().map(of).max().unwrap_or_default();
        let worst = Waited { median: worst(|w| w.median), p99: worst(|w| w.p99), longest: worst(|w| w.longest) };
        write!(f, "{worst} in the worst minutes; before: {}", self.before)
    }
}
