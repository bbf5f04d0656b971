//! Rules about the structure of the crates: the files of a crate use each other without circles,
//! and no two types of a crate share a name.

mod circles;
mod source;

use std::{collections::BTreeMap, fmt, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::source::{Crate, FileName};

pub(crate) const HELP: &str = "\
usage: cargo xtask structure [<crate>...]

Checks all crates of the host, or the named ones:

  circles  the files of a crate use each other without circles
  names    no two types of a crate share a name, except in generated code

A use is an import or a path outside of tests that begins with `crate`, `super` or `self`. The check follows a use through re-exports to the file
that defines the name. The uses of `lib.rs` and `main.rs` do not count, since these files list and re-export the modules.

Exceptions are in crates/xtask/src/structure/mod.rs, each with a reason. They are printed as skipped, and fail once they are needless.
";

/// Crates whose files still form circles, with the reasons.
const CIRCLES: [(&str, &str); 3] = [
    ("protostub-conformance", "not yet removed"),
    ("protostub-sandbox", "not yet removed"),
    ("protostub-sdk", "not yet removed"),
];
/// Types that share a name in a crate: the crate, the name, and the reason.
const SHARED_NAMES: [(&str, &str, &str); 0] = [];
/// Files with generated code, whose types share names by design.
const GENERATED: [(&str, &str); 1] = [("protostub-sdk", "bindings.rs")];

/// The result of one rule for one crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// The rule fails for this known reason.
    Skipped(String),
    Failed(String),
}

/// One rule for one crate.
#[derive(Debug)]
pub(crate) struct Check {
    crate_name: String,
    rule: &'static str,
    pub(crate) verdict: Verdict,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { crate_name, rule, verdict } = self;
        match verdict {
            Verdict::Passed => write!(f, "{rule:<8} {crate_name}: ok"),
            Verdict::Skipped(reason) => write!(f, "{rule:<8} {crate_name}: skipped: {reason}"),
            Verdict::Failed(reason) => write!(f, "{rule:<8} {crate_name}: FAILED: {reason}"),
        }
    }
}

/// Checks the named crates, or all, and prints the results.
pub(crate) fn run(root: &Path, wanted: &[&str]) -> Result<ExitCode> {
    let known = crates(root)?;
    if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|known| known == *name)) {
        bail!("unknown crate `{unknown}`; the crates are {}", known.join(", "));
    }
    let checks = check(root, |name| wanted.is_empty() || wanted.contains(&name))?;
    let failed = checks.iter().any(|check| matches!(check.verdict, Verdict::Failed(_)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Checks all crates, and prints the results.
pub(crate) fn check_all(root: &Path) -> Result<Vec<Check>> {
    check(root, |_| true)
}

fn check(root: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for name in crates(root)?.into_iter().filter(|name| is_wanted(name)) {
        let parsed = Crate::read(&root.join("crates").join(&name)).with_context(|| format!("reading the crate `{name}`"))?;
        for (rule, verdict) in [("circles", check_circles(&name, &parsed)), ("names", check_names(&name, &parsed))] {
            let check = Check { crate_name: name.clone(), rule, verdict };
            println!("{check}");
            checks.push(check);
        }
    }
    Ok(checks)
}

/// Returns the folder names of the host's crates.
fn crates(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("crates");
    let reading = || format!("reading `{}`", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn check_circles(name: &str, parsed: &Crate) -> Verdict {
    let uses = parsed.uses();
    let circles = circles::circles(&uses);
    let exception = CIRCLES.iter().find(|(exception, _)| *exception == name).map(|(_, reason)| *reason);
    match (circles.as_slice(), exception) {
        ([], None) => Verdict::Passed,
        ([], Some(_)) => Verdict::Failed("the crate has no circle any more; delete its entry in `CIRCLES`".into()),
        (circles, Some(reason)) => Verdict::Skipped(format!("{} ({reason})", sizes(circles))),
        (circles, None) => {
            let lines = circles.iter().flat_map(|circle| {
                let edges = circles::edges(&uses, circle).map(|edge| format!("\n    {edge}"));
                [format!("\n  {}", circle.join(" "))].into_iter().chain(edges)
            });
            Verdict::Failed(format!(
                "{}; move the shared items of two files into a third one below both:{}",
                sizes(circles),
                lines.collect::<String>()
            ))
        }
    }
}

fn sizes(circles: &[Vec<FileName>]) -> String {
    let sizes: Vec<_> = circles.iter().map(|circle| format!("a circle of {} files", circle.len())).collect();
    sizes.join(", ")
}

fn check_names(name: &str, parsed: &Crate) -> Verdict {
    let is_generated = |file: &FileName| GENERATED.contains(&(name, file.as_str()));
    let shared: BTreeMap<&str, Vec<&str>> = parsed
        .types
        .iter()
        .map(|(name, files)| (name.as_str(), files.iter().filter(|file| !is_generated(file)).map(String::as_str).collect()))
        .filter(|(_, files): &(_, Vec<_>)| files.len() > 1)
        .collect();
    let exceptions: BTreeMap<_, _> =
        SHARED_NAMES.iter().filter(|(exception, ..)| *exception == name).map(|(_, shared, reason)| (*shared, *reason)).collect();
    let failed = shared.iter().filter(|(shared, _)| !exceptions.contains_key(*shared));
    let mut lines: Vec<_> = failed.map(|(shared, files)| format!("\n  `{shared}` is in {}", files.join(", "))).collect();
    let needless = exceptions.keys().filter(|exception| !shared.contains_key(*exception));
    lines.extend(needless.map(|exception| format!("\n  only one `{exception}` is left; delete its entry in `SHARED_NAMES`")));
    if !lines.is_empty() {
        return Verdict::Failed(format!("types share a name; rename all but one:{}", lines.concat()));
    }
    if exceptions.is_empty() {
        return Verdict::Passed;
    }
    let known: Vec<_> = exceptions.iter().map(|(name, reason)| format!("`{name}` ({reason})")).collect();
    Verdict::Skipped(format!("types share a name: {}", known.join(", ")))
}

#[cfg(test)]
mod tests;
