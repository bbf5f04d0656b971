use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use protostub_types::SafeText;
use serde::Serialize;

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Case {
    /// What it is called, for ever: `stub/start/bad-configuration`.
    pub id: &'static str,
    /// The sentence that it holds its subject to.
    pub holds: &'static str,
    /// Where the sentence stands.
    pub source: &'static str,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not.
    Fail {
        /// What should have been seen.
        expected: String,
        /// What was seen.
        observed: String,
    },
    /// It says nothing about this subject.
    NotApplicable {
        /// Why.
        reason: String,
    },
}

/// A case with what became of it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// What had to hold.
    #[serde(flatten)]
    pub case: Case,
    /// Whether it does.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What else was found out: how much memory was used, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long it took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

/// How a case goes on: with `?` it ends with the verdict that is the error. What is returned at its end is a note.
pub(crate) type Course<T = Option<String>> = Result<T, Verdict>;

/// A case, and the script by which it is tried on a subject.
pub(crate) struct Script<S> {
    pub(crate) case: Case,
    pub(crate) run: for<'a> fn(&'a S) -> BoxFuture<'a, Course>,
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

impl<S> Script<S> {
    /// Tries the case, for `patience` at most.
    pub(crate) async fn try_on(&self, subject: &S, patience: Duration) -> Outcome {
        let began = std::time::Instant::now();
        let course = tokio::time::timeout(patience, (self.run)(subject)).await;
        let (verdict, note) = match course {
            Ok(Ok(note)) => (Verdict::Pass, note.as_deref().map(shown)),
            Ok(Err(verdict)) => (verdict, None),
            Err(_elapsed) => (Verdict::fail(format!("an end within {} s", patience.as_secs()), "none"), None),
        };
        Outcome { case: self.case, verdict, note, took: began.elapsed() }
    }
}

/// Returns what was seen of a subject, safe to show: lines stay lines, as a report indents them.
fn shown(text: &str) -> String {
    const MAX_LINES: usize = 50;
    text.lines().take(MAX_LINES).map(|line| SafeText::new(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// Ends a case unless this holds.
pub(crate) fn expect(holds: bool, expected: &str, observed: impl FnOnce() -> String) -> Course<()> {
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
