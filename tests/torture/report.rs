use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::round::Round;

/// What the neighbours' latency may be at least, during an attack.
const FLOOR: Duration = Duration::from_millis(5);
/// How many times as long it may be as before.
const TIMES: u32 = 3;
/// How late the host program's timers may be, 99 of 100.
const LATE: Duration = Duration::from_millis(20);

/// What became of an attack in all its rounds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    contained: String,
    attacks: usize,
    after: Duration,
    before: Duration,
    during: Duration,
    timers: Duration,
    asked: u64,
    lost: u64,
    kept_bytes: u64,
    /// Why it is not contained; empty: it is.
    pub(crate) escapes: Vec<String>,
}

impl Row {
    pub(crate) const HEAD: &str = "attack                             contained                               after  p99 before  p99 during  timers  lost  memory";

    pub(crate) fn of(name: &'static str, rounds: &[Round], timed: bool) -> Self {
        let mut escapes = Vec::new();
        let mut contained = String::new();
        for round in rounds {
            match &round.outcome {
                Ok(how) => contained.clone_from(&how.how),
                Err(escaped) => escapes.push(escaped.to_string()),
            }
            if let Err(harmed) = &round.neighbours {
                escapes.push(harmed.to_string());
            }
            if round.sum.lost > 0 {
                let fault = round.sum.fault.as_deref().unwrap_or_default();
                escapes.push(format!("{} of {} requests to neighbours were lost: {fault}", round.sum.lost, round.sum.asked));
            }
            if !round.gave_back {
                escapes.push(format!("{} MiB more are resident afterwards", round.kept_bytes >> 20));
            }
        }
        let median = |of: fn(&Round) -> Duration| {
            let mut values: Vec<_> = rounds.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (before, during) = (median(|round| round.before), median(|round| round.during));
        let timers = median(|round| round.timers);
        if timed && during > FLOOR.max(before * TIMES) {
            escapes.push(format!("neighbours waited {during:?}, and {before:?} before"));
        }
        if timed && timers > LATE {
            escapes.push(format!("the host program's timers were {timers:?} late"));
        }
        let after = rounds.iter().filter_map(|round| round.outcome.as_ref().ok()).map(|contained| contained.after).max();
        Self {
            name,
            contained,
            attacks: rounds.iter().map(|round| round.attacks).sum(),
            after: after.unwrap_or_default(),
            before,
            during,
            timers,
            asked: rounds.iter().map(|round| round.sum.asked).sum(),
            lost: rounds.iter().map(|round| round.sum.lost).sum(),
            kept_bytes: rounds.iter().map(|round| round.kept_bytes).max().unwrap_or_default(),
            escapes,
        }
    }

    fn json(&self) -> Value {
        json!({
            "attack": self.name,
            "contained": self.escapes.is_empty(),
            "how": self.contained,
            "attacks": self.attacks,
            "afterMilliseconds": milliseconds(self.after),
            "neighbours": {
                "p99BeforeMilliseconds": milliseconds(self.before),
                "p99DuringMilliseconds": milliseconds(self.during),
                "requests": self.asked,
                "lost": self.lost,
            },
            "timersP99Milliseconds": milliseconds(self.timers),
            "keptBytes": self.kept_bytes,
            "escapes": self.escapes,
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contained = if self.escapes.is_empty() { &self.contained } else { "ESCAPED" };
        let contained: String = contained.chars().take(35).collect();
        write!(
            f,
            "{:<34} {contained:<35} {:>6.0} ms {:>8.1} ms {:>8.1} ms {:>4.1} ms {:>5} {:>+3} MiB",
            self.name,
            milliseconds(self.after),
            milliseconds(self.before),
            milliseconds(self.during),
            milliseconds(self.timers),
            self.lost,
            self.kept_bytes >> 20,
        )
    }
}

/// The report, as a file.
pub(crate) fn json(rows: &[Row], runs: usize, timed: bool) -> String {
    let escaped = rows.iter().filter(|row| !row.escapes.is_empty()).count();
    let report = json!({
        "runs": runs,
        "latencyIsJudged": timed,
        "contained": rows.len() - escaped,
        "escaped": escaped,
        "attacks": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}
