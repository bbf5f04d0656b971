//! Holds the repository's English to the rules in [`rules`].

mod comment;
mod judge;
mod paragraph;
mod rules;
mod rust;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::{
    judge::{Finding, Judge},
    rules::{ALLOWED, Allowed, SKIPPED},
};
use crate::new_user::repository_files;

pub(crate) const HELP: &str = "\
usage: cargo xtask prose [<folder or file>...]

Holds the English of the repository, or of the folders and files, to the rules in
crates/xtask/src/prose/rules.rs. It reads

  comments          of Rust, WIT and TOML, and Markdown
  errors            #[error], anyhow!, bail!, ensure!, context and with_context
  log lines         trace!, debug!, info!, warn! and error!
  printed texts     print!, println!, eprint!, eprintln!, format!, write! and writeln!
  help texts        of clap, and constants with HELP or ABOUT in their name
  function names

and reports

  opening           a sentence that hides its subject: it begins with a noun clause or a pronoun
  subject           an error that begins with `it`, and so does not say what failed
  word              a word that the project does not use
  columns           a comment that is longer than 100 columns
  name              a function name that is a riddle, or longer than 60 characters

Each finding is a line `path:line: rule: text; suggestion`. The last line is `N passed, N failed`;
a file is one.
";

/// Kinds of files that are checked.
const EXTENSIONS: [&str; 4] = ["md", "rs", "toml", "wit"];

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    /// Errors of the table of exceptions, and files that cannot be read.
    pub(crate) errors: Vec<String>,
    /// Files without a finding.
    pub(crate) passed: u64,
    /// Files with a finding, and errors.
    pub(crate) failed: u64,
}

impl Report {
    /// Prints all findings.
    pub(crate) fn print(&self) {
        for finding in &self.findings {
            println!("{finding}");
        }
        for error in &self.errors {
            println!("error: {error}");
        }
    }
}

pub(crate) fn run(root: &Path, paths: &[&str]) -> Result<ExitCode> {
    let report = check(root, paths)?;
    report.print();
    println!("\n{} passed, {} failed", report.passed, report.failed);
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the files of the repository that are in these folders, or all of them.
pub(crate) fn check(root: &Path, paths: &[&str]) -> Result<Report> {
    let is_wanted = |file: &Path| paths.is_empty() || paths.iter().any(|path| file.starts_with(path.trim_start_matches("./")));
    let is_checked = |file: &Path| {
        let is_skipped = SKIPPED.iter().any(|skipped| file.to_string_lossy().starts_with(skipped));
        let is_known = file.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        is_known && !is_skipped
    };
    let mut sources = Vec::new();
    for file in repository_files(root)?.into_iter().filter(|file| is_checked(file) && is_wanted(file)) {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        sources.push((file.to_string_lossy().into_owned(), text));
    }
    if sources.is_empty() {
        bail!("no file to check in {}; name folders or files from the repository's root", paths.join(", "));
    }
    Ok(judge(&Judge::new()?, &sources, &ALLOWED, paths.is_empty()))
}

/// Checks sources, which are pairs of a path and a text. `is_whole` is true if they are the whole
/// repository.
fn judge(judge: &Judge, sources: &[(String, String)], allowed: &[Allowed], is_whole: bool) -> Report {
    let mut report = Report::default();
    let mut used = vec![false; allowed.len()];
    for (path, text) in sources {
        let mut findings = match judge.check(path, text) {
            Ok(findings) => findings,
            Err(error) => {
                report.errors.push(format!("{error:#}"));
                continue;
            }
        };
        findings.retain(|finding| {
            let exception = allowed.iter().position(|entry| entry.path == finding.path && finding.text.contains(entry.text));
            exception.map(|index| used[index] = true).is_none()
        });
        *(if findings.is_empty() { &mut report.passed } else { &mut report.failed }) += 1;
        report.findings.extend(findings);
    }
    for (entry, _) in allowed.iter().zip(used).filter(|(_, is_used)| !is_used) {
        // A file outside of the chosen folders may have the text.
        if is_whole || sources.iter().any(|(path, _)| path == entry.path) {
            report.errors.push(format!(
                "the exception for `{}` matches nothing in {}; remove it from ALLOWED in crates/xtask/src/prose/rules.rs",
                entry.text, entry.path
            ));
        }
    }
    report.failed += report.errors.len() as u64;
    report
}

#[cfg(test)]
mod tests {
    use super::{Allowed, Judge, judge};

    const SAID: Allowed = Allowed { path: "a.md", text: "starts anew", reason: "the specification's words" };

    /// Checks the findings' and errors' number, and the files that passed and failed.
    fn check(sources: &[(&str, &str)], allowed: &[Allowed], is_whole: bool, expected: (usize, usize, u64, u64)) {
        let sources: Vec<_> = sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let report = judge(&Judge::new().expect("the rules"), &sources, allowed, is_whole);
        let found = (report.findings.len(), report.errors.len(), report.passed, report.failed);
        assert_eq!(found, expected, "{sources:?} {allowed:?}: {report:?}");
    }

    #[test]
    fn each_file_counts_as_one() {
        check(&[("a.md", "It starts anew, anew."), ("b.md", "It restarts.")], &[], true, (2, 0, 1, 1));
    }

    #[test]
    fn exception_allows_a_sentence_of_its_file() {
        check(&[("a.md", "It starts anew.")], &[SAID], true, (0, 0, 1, 0));
        check(&[("a.md", "It starts anew. It stops anew.")], &[SAID], true, (1, 0, 0, 1));
        check(&[("a.md", "It starts anew."), ("b.md", "It starts anew.")], &[SAID], true, (1, 0, 1, 1));
    }

    #[test]
    fn exception_without_a_match_is_an_error() {
        check(&[("a.md", "It restarts.")], &[SAID], true, (0, 1, 1, 1));
        check(&[("a.md", "It restarts.")], &[SAID], false, (0, 1, 1, 1));
        check(&[("b.md", "It restarts.")], &[SAID], false, (0, 0, 1, 0));
    }

    #[test]
    fn source_that_is_no_rust_fails() {
        check(&[("a.rs", "fn a() { \"")], &[], true, (0, 1, 0, 1));
    }
}
