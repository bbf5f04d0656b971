use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use miette::Diagnostic;

/// The error of policies that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file of the policies cannot be read.
    #[error("failed to read the policies in {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The policies are not Cedar, or use names that the schema does not have.
    #[error("the policies cannot be used: {}", lines(faults))]
    Faults {
        /// The faults and their places, at least one.
        faults: Vec<PolicyFault>,
    },
}

/// A fault of a policy. Its text has the form `rules.cedar:3:9: <problem>: <advice>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyFault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1. 0 for the file as a whole.
    pub line: usize,
    /// The character in the line, from 1. 0 for the file as a whole.
    pub column: usize,
    /// The problem.
    pub problem: String,
    /// The advice, if there is any.
    pub advice: Option<String>,
}

impl PolicyFault {
    /// Returns the fault that Cedar found in a text.
    pub(crate) fn new(file: &Path, text: &str, found: &dyn Diagnostic) -> Self {
        let label = found.labels().and_then(|mut labels| labels.next());
        let (line, column) = label.as_ref().map_or((0, 0), |label| place(text, label.offset()));
        let label = label.as_ref().and_then(|label| label.label());
        let advice = found.help().map(|help| help.to_string()).or_else(|| label.map(str::to_owned));
        let problem = found.to_string();
        // Removes Cedar's own number of the policy: line and column state the place.
        let after_number = problem.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, "));
        let problem = after_number.map_or_else(|| problem.clone(), |(_, problem)| problem.to_owned());
        Self { file: file.to_owned(), line, column, problem, advice }
    }
}

/// Returns the faults that Cedar found, in the order of the text, and only one at each place. Cedar
/// reports a misspelt name once for each action that the policy is about.
pub(crate) fn in_order<'a, D: Diagnostic + 'a>(file: &Path, text: &str, found: impl Iterator<Item = &'a D>) -> Vec<PolicyFault> {
    let mut faults: Vec<_> = found.map(|found| PolicyFault::new(file, text, found)).collect();
    faults.sort_by(|one, other| (one.line, one.column, &one.problem).cmp(&(other.line, other.column, &other.problem)));
    faults.dedup_by_key(|fault| (fault.line, fault.column));
    faults
}

/// Returns line and character, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, problem, advice } = self;
        write!(f, "{}:", file.display())?;
        if *line > 0 {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {problem}")?;
        advice.iter().try_for_each(|advice| write!(f, ": {advice}"))
    }
}

fn lines(faults: &[PolicyFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
