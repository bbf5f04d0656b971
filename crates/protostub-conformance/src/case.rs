use std::{fmt, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use protostub_types::SafeText;
use serde::Serialize;

/// A requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Case {
    /// The id, which never changes: `stub/start/bad-configuration`.
    pub id: &'static str,
    /// The requirement in a sentence.
    pub holds: &'static str,
    /// The documents with the requirement: `wit/0.1/stub.wit`, or `tests/CASES.md: C7` for a row of
    /// the catalogue.
    pub source: &'static str,
}

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// The requirement holds.
    Pass,
    /// The requirement does not hold.
    Fail {
        /// The expected behaviour.
        expected: String,
        /// The observed behaviour.
        observed: String,
    },
    /// The case does not apply to this subject.
    NotApplicable {
        /// The reason.
        reason: String,
    },
}

/// A case with its result.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// The result.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// An additional observation, such as the memory that the stub used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The duration.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

/// Result of a step of a case. `?` ends the case with the error as its verdict. The value of a
/// whole case is its note.
pub(crate) type CaseResult<T = Option<String>> = Result<T, Verdict>;

/// A case, and the script that checks a subject.
pub(crate) struct Script<S> {
    pub(crate) case: Case,
    pub(crate) run: for<'a> fn(&'a S) -> BoxFuture<'a, CaseResult>,
}

impl Case {
    pub(crate) const fn new(id: &'static str, holds: &'static str, source: &'static str) -> Self {
        Self { id, holds, source }
    }
}

impl Verdict {
    pub(crate) fn fail(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::Fail { expected: expected.into(), observed: shown(&observed.into()) }
    }

    pub(crate) fn not_applicable(reason: impl Into<String>) -> Self {
        Self::NotApplicable { reason: shown(&reason.into()) }
    }

    /// The name in reports: `pass`, `FAIL` or `skip`.
    pub(crate) fn mark(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail { .. } => "FAIL",
            Self::NotApplicable { .. } => "skip",
        }
    }
}

/// How a suite runs its cases.
pub(crate) struct Schedule<'a> {
    /// Beginnings of the ids of the cases to run. All cases run if the list is empty.
    pub(crate) only: &'a [String],
    /// Number of cases that run at the same time.
    pub(crate) concurrency: usize,
    /// Time limit of one case.
    pub(crate) time_limit: Duration,
}

impl Schedule<'_> {
    /// Runs the scripts on a subject. Calls `on_outcome` with each outcome, in the order of the
    /// cases.
    pub(crate) async fn run<S: 'static>(
        &self,
        scripts: impl Iterator<Item = &'static Script<S>>,
        subject: &S,
        on_outcome: impl FnMut(&Outcome),
    ) -> Vec<Outcome> {
        let wanted = |script: &&Script<S>| {
            self.only.is_empty() || self.only.iter().any(|beginning| script.case.id.starts_with(beginning.as_str()))
        };
        stream::iter(scripts.filter(wanted))
            .map(|script| script.execute(subject, self.time_limit))
            .buffered(self.concurrency)
            .inspect(on_outcome)
            .collect()
            .await
    }
}

impl<S> Script<S> {
    /// Runs the case on a subject, and ends it at the time limit.
    async fn execute(&self, subject: &S, time_limit: Duration) -> Outcome {
        let began = std::time::Instant::now();
        let result = tokio::time::timeout(time_limit, (self.run)(subject)).await;
        let (verdict, note) = match result {
            Ok(Ok(note)) => (Verdict::Pass, note.as_deref().map(shown)),
            Ok(Err(verdict)) => (verdict, None),
            Err(_elapsed) => (Verdict::fail(format!("the case ends within {} s", time_limit.as_secs()), "no end"), None),
        };
        Outcome { case: self.case, verdict, note, took: began.elapsed() }
    }
}

/// Returns a text of a subject, safe to show. Line breaks stay, because a report indents the lines.
fn shown(text: &str) -> String {
    const MAX_LINES: usize = 50;
    text.lines().take(MAX_LINES).map(|line| SafeText::new(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// Fails the case unless the condition holds.
pub(crate) fn expect(holds: bool, expected: &str, observed: impl FnOnce() -> String) -> CaseResult<()> {
    if holds { Ok(()) } else { Err(Verdict::fail(expected, observed())) }
}

fn seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}
