use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use miette::Diagnostic;

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Their file cannot be read.
    #[error("failed to read the policies in {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What is in the way.
        #[source]
        source: io::Error,
    },
    /// They are not Cedar, or are about what messages do not have.
    #[error("the policies cannot be used: {}", lines(faults))]
    Faults {
        /// What is wrong, and where; at least one.
        faults: Vec<PolicyFault>,
    },
}

/// Something wrong with a policy. Written as `rules.cedar:3:9: what is wrong: what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyFault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 if it is the file as a whole.
    pub line: usize,
    /// The character in the line, from 1; 0 if it is the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
    /// What to do about it, where there is more to say.
    pub advice: Option<String>,
}

impl PolicyFault {
    /// What Cedar found in a text.
    pub(crate) fn new(file: &Path, text: &str, found: &dyn Diagnostic) -> Self {
        let label = found.labels().and_then(|mut labels| labels.next());
        let (line, column) = label.as_ref().map_or((0, 0), |label| place(text, label.offset()));
        let label = label.as_ref().and_then(|label| label.label());
        let advice = found.help().map(|help| help.to_string()).or_else(|| label.map(str::to_owned));
        let problem = found.to_string();
        // Where it is says the place, not Cedar's own number of the policy.
        let after_number = problem.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, "));
        let problem = after_number.map_or_else(|| problem.clone(), |(_, problem)| problem.to_owned());
        Self { file: file.to_owned(), line, column, problem, advice }
    }
}

/// What Cedar found, in the order of the text, one at each place: it tells of a misspelt name for each action that the policy is about.
pub(crate) fn in_order<'a, D: Diagnostic + 'a>(file: &Path, text: &str, found: impl Iterator<Item = &'a D>) -> Vec<PolicyFault> {
    let mut faults: Vec<_> = found.map(|found| PolicyFault::new(file, text, found)).collect();
    faults.sort_by(|one, other| (one.line, one.column, &one.problem).cmp(&(other.line, other.column, &other.problem)));
    faults.dedup_by_key(|fault| (fault.line, fault.column));
    faults
}

/// Line and character, from 1.
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
