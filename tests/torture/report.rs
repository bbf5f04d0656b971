use std::{fmt, time::Duration};

use hostile::Verdict;
use serde_json::{Value, json};

use crate::round::Round;

/// Neighbours' latency that is always acceptable during an attack.
const FLOOR: Duration = Duration::from_millis(5);
/// Permitted factor of the latency during an attack to the latency before.
const TIMES: u32 = 3;
/// Maximum p99 delay of the host program's timers.
const LATE: Duration = Duration::from_millis(20);

/// The result of all rounds of an attack.
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
    /// The reasons for which the attack is not contained. Empty if it is.
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
            escapes.push(format!(
                "neighbours waited {during:?} (p99), and {before:?} before: more than {TIMES} times and {FLOOR:?}"
            ));
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

/// The row of a hostile environment.
#[derive(Debug)]
pub(crate) struct EnvironmentRow {
    pub(crate) name: &'static str,
    how: String,
    counted: Value,
    /// The reasons for which it is not contained. Empty if it is.
    pub(crate) escapes: Vec<String>,
    /// The reason for which the machine could not provide the environment.
    pub(crate) skipped: Option<String>,
}

impl EnvironmentRow {
    pub(crate) const HEAD: &str = "environment                        contained                                     requests  answered  no outcome  p99 before  p99 during  lost";

    pub(crate) fn judged(name: &'static str, verdict: Verdict) -> Self {
        Self { name, how: verdict.how, counted: verdict.counted, escapes: verdict.escapes, skipped: None }
    }

    pub(crate) fn skipped(name: &'static str, reason: String) -> Self {
        Self { name, how: String::new(), counted: Value::Null, escapes: Vec::new(), skipped: Some(reason) }
    }

    fn json(&self) -> Value {
        match (&self.skipped, &self.counted) {
            (Some(reason), _) => json!({ "environment": self.name, "skipped": reason }),
            (None, Value::Null) => json!({ "environment": self.name, "contained": false, "escapes": self.escapes }),
            (None, counted) => counted.clone(),
        }
    }
}

impl fmt::Display for EnvironmentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.skipped {
            return write!(f, "{:<34} skipped: {reason}", self.name);
        }
        let how: &str = if self.escapes.is_empty() { &self.how } else { "ESCAPED" };
        let (counted, neighbours) = (&self.counted, &self.counted["neighbours"]);
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        write!(
            f,
            "{:<34} {how:<45} {:>8} {:>9} {:>11} {:>8.1} ms {:>8.1} ms {:>5}",
            self.name,
            number(&counted["requests"]),
            number(&counted["answered"]),
            number(&counted["withoutOutcome"]),
            number(&neighbours["p99BeforeMilliseconds"]),
            number(&neighbours["p99DuringMilliseconds"]),
            number(&neighbours["lost"]),
        )
    }
}

/// Returns the content of the report file.
pub(crate) fn json(
    rows: &[Row],
    environments: &[EnvironmentRow],
    (contained, escaped): (usize, usize),
    runs: usize,
    timed: bool,
) -> String {
    let report = json!({
        "runs": runs,
        "latencyIsJudged": timed,
        "contained": contained,
        "escaped": escaped,
        "attacks": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "environments": environments.iter().map(EnvironmentRow::json).collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}
