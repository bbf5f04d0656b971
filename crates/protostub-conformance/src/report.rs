use std::{fmt, fmt::Write as _, iter::Sum, time::Duration};

use serde_json::{Value, json};

use crate::{Outcome, Verdict};

/// The results of a suite for one subject.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The name of the suite, such as `stub`.
    pub suite: &'static str,
    /// The name of the subject.
    pub subject: String,
    /// The results of the cases, in the suite's order.
    pub outcomes: Vec<Outcome>,
}

/// Numbers of passed, failed and skipped cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Cases whose requirement holds.
    pub passed: usize,
    /// Cases whose requirement does not hold.
    pub failed: usize,
    /// Cases that do not apply.
    pub skipped: usize,
}

impl Report {
    pub(crate) fn new(suite: &'static str, subject: &str, outcomes: Vec<Outcome>) -> Self {
        Self { suite, subject: subject.to_owned(), outcomes }
    }

    /// Counts the passed, failed and skipped cases.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for outcome in &self.outcomes {
            match outcome.verdict {
                Verdict::Pass => tally.passed += 1,
                Verdict::Fail { .. } => tally.failed += 1,
                Verdict::NotApplicable { .. } => tally.skipped += 1,
            }
        }
        tally
    }

    /// Returns the report for people: a line for each case ([`Outcome::to_text`]), then the
    /// [`Tally`].
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("suite {}: {}\n\n", self.suite, self.subject);
        for outcome in &self.outcomes {
            text += &outcome.to_text();
            text.push('\n');
        }
        let _ = write!(text, "\n{}", self.tally());
        text
    }

    /// Returns the report for programs: an object with `suite`, `subject`, `passed`, `failed`,
    /// `skipped`, and `outcomes`, one for each case.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Tally { passed, failed, skipped } = self.tally();
        json!({
            "suite": self.suite, "subject": self.subject, "passed": passed, "failed": failed, "skipped": skipped,
            "outcomes": self.outcomes,
        })
    }

    /// Returns the report as JUnit XML, which CI systems read: `testsuite`, with a `testcase` for
    /// each case.
    #[must_use]
    pub fn to_junit(&self) -> String {
        let tally = self.tally();
        let took: Duration = self.outcomes.iter().map(|outcome| outcome.took).sum();
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">\n",
            escaped(&format!("{}: {}", self.suite, self.subject)),
            self.outcomes.len(),
            tally.failed,
            tally.skipped,
            took.as_secs_f64(),
        );
        for Outcome { case, verdict, note, took } in &self.outcomes {
            let (class, name) = case.id.rsplit_once('/').unwrap_or(("", case.id));
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
                escaped(&class.replace('/', ".")),
                escaped(name),
                took.as_secs_f64()
            );
            let inside = match verdict {
                Verdict::Fail { expected, observed } => format!(
                    "<failure message=\"{}\">{}</failure>",
                    escaped(observed),
                    escaped(&format!(
                        "holds: {}\nsource: {}\nexpected: {expected}\nobserved: {observed}",
                        case.holds, case.source
                    ))
                ),
                Verdict::NotApplicable { reason } => format!("<skipped message=\"{}\"/>", escaped(reason)),
                Verdict::Pass => {
                    note.as_ref().map_or_else(String::new, |note| format!("<system-out>{}</system-out>", escaped(note)))
                }
            };
            xml += &if inside.is_empty() { "/>\n".to_owned() } else { format!(">{inside}</testcase>\n") };
        }
        xml + "</testsuite>\n"
    }
}

/// Width of the column of ids.
const ID_WIDTH: usize = 34;

impl Outcome {
    /// Returns one line for people. Below a failed case follow the requirement, its source, and the
    /// expected and observed behaviour.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { case, verdict, note, .. } = self;
        let remark = match verdict {
            Verdict::NotApplicable { reason } => Some(reason),
            _ => note.as_ref(),
        };
        let line = format!("  {}  {:ID_WIDTH$}  {}", verdict.mark(), case.id, remark.map_or("", String::as_str));
        let mut text = line.trim_end().to_owned();
        if let Verdict::Fail { expected, observed } = verdict {
            for (what, value) in [("holds", case.holds), ("source", case.source), ("expected", expected), ("observed", observed)]
            {
                let _ = write!(text, "\n        {what:<9} {}", value.replace('\n', "\n                  "));
            }
        }
        text
    }
}

/// Escapes a text for XML 1.0, and replaces control characters, most of which XML forbids.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => xml += "&lt;",
            '>' => xml += "&gt;",
            '&' => xml += "&amp;",
            '"' => xml += "&quot;",
            '\n' => xml += "&#10;",
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => xml.push('\u{fffd}'),
            char => xml.push(char),
        }
    }
    xml
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, tally| Self {
            passed: sum.passed + tally.passed,
            failed: sum.failed + tally.failed,
            skipped: sum.skipped + tally.skipped,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Case;

    fn report() -> Report {
        let case = |name| Case::new(name, "Nothing is lost without a word.", "stubs/README.md");
        let outcome = |name, verdict, note: Option<&str>| Outcome {
            case: case(name),
            verdict,
            note: note.map(str::to_owned),
            took: Duration::from_millis(12),
        };
        let outcomes = vec![
            outcome("stub/a/one", Verdict::Pass, Some("9 MiB")),
            outcome("stub/a/two", Verdict::fail("an \"answer\"", "<nothing>\nat all"), None),
            outcome("stub/b/three", Verdict::not_applicable("the stub has no server"), None),
        ];
        Report::new("stub", "echo.wasm", outcomes)
    }

    #[test]
    fn text_report_shows_failures_with_reasons() {
        let expected = "\
suite stub: echo.wasm

  pass  stub/a/one                          9 MiB
  FAIL  stub/a/two
        holds     Nothing is lost without a word.
        source    stubs/README.md
        expected  an \"answer\"
        observed  <nothing>
                  at all
  skip  stub/b/three                        the stub has no server

1 passed, 1 failed, 1 skipped";
        assert_eq!(report().to_text(), expected);
    }

    #[test]
    fn programs_see_all_of_it() {
        let json = report().to_json();
        let expected = serde_json::json!({
            "id": "stub/a/two", "holds": "Nothing is lost without a word.", "source": "stubs/README.md", "verdict": "fail",
            "expected": "an \"answer\"", "observed": "<nothing>\nat all", "seconds": 0.012,
        });
        assert_eq!((&json["suite"], &json["subject"], &json["outcomes"][1]), (&"stub".into(), &"echo.wasm".into(), &expected));
        assert_eq!((&json["passed"], &json["failed"], &json["skipped"]), (&1.into(), &1.into(), &1.into()));
        assert_eq!(json["outcomes"][2]["verdict"], "not-applicable");
        let xml = report().to_junit();
        for piece in [
            r#"<testsuite name="stub: echo.wasm" tests="3" failures="1" errors="0" skipped="1" time="0.036">"#,
            r#"<testcase classname="stub.a" name="one" time="0.012"><system-out>9 MiB</system-out></testcase>"#,
            r#"<failure message="&lt;nothing&gt;&#10;at all">"#,
            r#"<skipped message="the stub has no server"/>"#,
        ] {
            assert!(xml.contains(piece), "{xml}");
        }
    }
}
