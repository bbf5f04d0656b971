use std::{
    env,
    ops::AddAssign,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo, conformance, debian, guests, musl, must, new_user,
    patience::{self, Heard},
    prose, shown,
    structure::{self, Verdict},
    stubs, toolchain, wit,
};

pub(crate) const HELP: &str = "\
usage: cargo xtask test [<stage>...]

Runs all stages, or the named ones. A failed stage does not stop the others:

  fmt             formatting of the host, the stubs and the test programs
  structure       no circular files in a crate, and no two types with one name: see `cargo xtask structure --help`
  prose           the English of comments, errors, log lines, printed texts and help: see `cargo xtask prose --help`
  wit             the contract: see `cargo xtask wit check`
  stubs           builds the stubs and the test programs, and checks the stubs' sizes
  clippy          lints of the host, warnings denied
  clippy-guests   lints of the stubs and the test programs, warnings denied
  test            unit, integration, end-to-end and documentation tests of the host
  test-stubs      the stubs' own tests, run natively
  platforms       tests of messages and of the bus for 64-bit ARM, in an emulator; if named, or built before, also the static command with musl, alone
                  in a root folder
  conformance     the conformance kit on the sample stubs: see `cargo xtask conformance --help`
  doc             the documentation, warnings denied
  deny            licences, bans, sources and security advisories of dependencies, by .cargo/deny.toml; if cargo-deny is missing, CI installs it
  new-user        every command of every README: see `cargo xtask new-user --help`

Each check and each test counts as one. Skipped checks are listed with their reasons. The last line is `N passed, N failed`, and the exit code says
whether everything passed.
";

/// Result of a stage.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Failures, one line each. Only those that have a name.
    failures: Vec<String>,
    /// Checks that could not be made, one line each, with the reason.
    skipped: Vec<String>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }
}

impl Tally {
    fn of(passed: u64, failed: u64) -> Self {
        Self { passed, failed, ..Self::default() }
    }

    fn failure(what: String) -> Self {
        Self { failed: 1, failures: vec![what], ..Self::default() }
    }

    fn skip(what: String) -> Self {
        Self { skipped: vec![what], ..Self::default() }
    }

    fn verdict(&self) -> &'static str {
        match self {
            Self { failed: 1.., .. } => "FAILED",
            Self { passed: 0, skipped, .. } if !skipped.is_empty() => "skipped",
            _ => "ok",
        }
    }

    /// Returns the lines of the summary for the stage with this name.
    fn lines(&self, name: &str, took: Duration) -> String {
        let (verdict, took) = (self.verdict(), clock(took));
        let mut lines = format!("{name:<14} {verdict:<7} {:>5} passed {:>4} failed {took:>9}\n", self.passed, self.failed);
        lines.extend(self.failures.iter().map(|failure| format!("  FAILED {failure}\n")));
        lines.extend(self.skipped.iter().map(|skipped| format!("  skipped {skipped}\n")));
        lines
    }
}

struct Stage {
    name: &'static str,
    run: fn(&Path) -> Result<Tally>,
    /// The checks of a run that names its stages, if they are others.
    run_if_named: fn(&Path) -> Result<Tally>,
}

impl Stage {
    const fn new(name: &'static str, run: fn(&Path) -> Result<Tally>) -> Self {
        Self { name, run, run_if_named: run }
    }
}

const STAGES: [Stage; 14] = [
    Stage::new("fmt", fmt),
    Stage::new("structure", check_structure),
    Stage::new("prose", hold_prose),
    Stage::new("wit", contract),
    Stage::new("stubs", build_guests),
    Stage::new("clippy", clippy),
    Stage::new("clippy-guests", clippy_guests),
    Stage::new("test", test),
    Stage::new("test-stubs", test_stubs),
    Stage { run_if_named: check_all_platforms, ..Stage::new("platforms", check_platforms) },
    Stage::new("conformance", try_conformance),
    Stage::new("doc", doc),
    Stage::new("deny", deny),
    Stage::new("new-user", follow_readmes),
];

/// Time limit for tests without output. Tests that exceed it count as hanging. Each test has a
/// shorter limit of its own, and documentation tests are compiled in between.
const SILENCE: Duration = Duration::from_secs(10 * 60);

/// The workspaces of guests.
const GUESTS: [&str; 2] = ["stubs", "tests/programs"];

pub(crate) fn run(root: &Path, wanted: &[&str]) -> Result<ExitCode> {
    if let Some(unknown) = wanted.iter().find(|name| !STAGES.iter().any(|stage| stage.name == **name)) {
        bail!("unknown stage `{unknown}`; see `cargo xtask test --help`");
    }
    toolchain::require_components(root)?;
    toolchain::require_target(guests::TARGET)?;
    let begin = Instant::now();
    let mut total = Tally::default();
    let mut outcomes = Vec::new();
    for stage in STAGES.iter().filter(|stage| wanted.is_empty() || wanted.contains(&stage.name)) {
        println!("\n=== {}", stage.name);
        let stage_begin = Instant::now();
        let checks = if wanted.is_empty() { stage.run } else { stage.run_if_named };
        let tally = checks(root).unwrap_or_else(|error| {
            println!("error: {error:#}");
            Tally::failure(format!("{error:#}"))
        });
        outcomes.push((stage.name, tally, stage_begin.elapsed()));
    }
    println!();
    for (name, tally, took) in outcomes {
        print!("{}", tally.lines(name, took));
        total += tally;
    }
    println!("{:<58}{:>9}\n", "in all", clock(begin.elapsed()));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fmt(root: &Path) -> Result<Tally> {
    let host = checked(cargo(root).args(["fmt", "--all", "--check"]));
    // `--all` would also format the path dependencies of the guests.
    let others = GUESTS.iter().chain(&["tests/extism", "tests/fuzz"]);
    let of_others = others.map(|workspace| checked(cargo(&root.join(workspace)).args(["fmt", "--check"])));
    Ok(sum([host].into_iter().chain(of_others)))
}

fn check_structure(root: &Path) -> Result<Tally> {
    let tallies = structure::check_all(root)?.into_iter().map(|check| match check.verdict {
        Verdict::Passed => Tally::of(1, 0),
        Verdict::Skipped(_) => Tally::skip(check.to_string()),
        Verdict::Failed(_) => Tally::failure(check.to_string()),
    });
    Ok(sum(tallies))
}

fn hold_prose(root: &Path) -> Result<Tally> {
    let report = prose::check(root, &[])?;
    report.print();
    let found = report.findings.len() + report.errors.len();
    let failures = (found > 0).then(|| format!("the English: {found} findings; see `cargo xtask prose`"));
    Ok(Tally { failures: failures.into_iter().collect(), ..Tally::of(report.passed, report.failed) })
}

fn contract(root: &Path) -> Result<Tally> {
    Ok(if wit::check(root)? == ExitCode::SUCCESS { Tally::of(1, 0) } else { Tally::failure("the contract".to_owned()) })
}

fn build_guests(root: &Path) -> Result<Tally> {
    let programs = guests::build(root, "tests/programs")?;
    println!("  {} test programs", programs.len());
    stubs::check_sizes(&guests::build(root, "stubs")?)?;
    Ok(Tally::of(1, 0))
}

fn clippy(root: &Path) -> Result<Tally> {
    Ok(checked(locked(cargo(root).args(["clippy", "--workspace", "--all-targets"])).args(["--", "--deny", "warnings"])))
}

fn clippy_guests(root: &Path) -> Result<Tally> {
    let deny = ["--", "--deny", "warnings"];
    let as_components = GUESTS.map(|workspace| {
        checked(guests::cargo(root, workspace, "clippy").args(["--workspace", "--target", guests::TARGET]).args(deny))
    });
    let natively = checked(
        guests::cargo(root, "stubs", "clippy").args(["--workspace", "--all-targets", "--target", "host-tuple"]).args(deny),
    );
    Ok(sum(as_components.into_iter().chain([natively])))
}

fn test(root: &Path) -> Result<Tally> {
    debian::packages(debian::MOSQUITTO)?;
    // Without `faketime`, one test is skipped with the reason.
    let without_faketime = debian::packages(debian::FAKETIME).err();
    let mut tally = tests(|| {
        let mut command = cargo(root);
        locked(command.args(["test", "--workspace", "--no-fail-fast"]));
        command
    })?;
    tally.skipped.extend(without_faketime.map(|error| format!("the test with a clock of its own: {error:#}")));
    Ok(tally)
}

fn test_stubs(root: &Path) -> Result<Tally> {
    tests(|| {
        let mut command = guests::cargo(root, "stubs", "test");
        command.args(["--workspace", "--no-fail-fast", "--target", "host-tuple"]);
        command
    })
}

/// Checks other platforms, as far as the build is short.
fn check_platforms(root: &Path) -> Result<Tally> {
    let mut tally = test_for_arm(root)?;
    tally += if musl::is_built(root) {
        check_static_command(root)
    } else {
        Tally::skip("the static command: its first build takes ten minutes or more; run: cargo xtask test platforms".to_owned())
    };
    Ok(tally)
}

/// Checks other platforms, and builds the static command if needed.
fn check_all_platforms(root: &Path) -> Result<Tally> {
    let mut tally = test_for_arm(root)?;
    tally += check_static_command(root);
    Ok(tally)
}

/// Runs the tests of messages and of the bus for 64-bit ARM, in an emulator.
fn test_for_arm(root: &Path) -> Result<Tally> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    let prepared = toolchain::require_target(TARGET).and_then(|()| debian::packages(debian::AARCH64));
    if let Err(error) = prepared {
        return Ok(Tally::skip(format!("the tests for 64-bit ARM: {error:#}")));
    }
    tests(|| {
        let mut command = cargo(root);
        // Documentation tests would each be linked and emulated.
        command.args(["test", "--package", "protostub-types", "--package", "protostub-bus", "--tests", "--no-fail-fast"]);
        locked(command.args(["--target", TARGET]))
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64 -L /usr/aarch64-linux-gnu");
        command
    })
}

fn check_static_command(root: &Path) -> Tally {
    match musl::obstacle() {
        Some(reason) => Tally::skip(format!("the static command: {reason}")),
        None => musl::check(root).map_or_else(
            |error| {
                println!("error: {error:#}");
                Tally::failure(format!("{error:#}"))
            },
            |passed| Tally::of(passed, 0),
        ),
    }
}

fn try_conformance(root: &Path) -> Result<Tally> {
    let conformance::Cases { passed, failed, left_out, .. } = conformance::run_all(root)?;
    Ok(Tally { skipped: left_out, ..Tally::of(passed, failed) })
}

fn doc(root: &Path) -> Result<Tally> {
    // With `--examples`, dependencies have the same features as for `clippy --all-targets`, and are
    // not checked again.
    let targets = ["--lib", "--bins", "--examples"];
    Ok(checked(
        locked(cargo(root).args(["doc", "--workspace", "--no-deps"]).args(targets)).env("RUSTDOCFLAGS", "--deny warnings"),
    ))
}

/// Checks the dependencies of all workspaces, and their security advisories.
fn deny(root: &Path) -> Result<Tally> {
    let mut version = cargo(root);
    version.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let is_installed = version.status().is_ok_and(|status| status.success());
    let is_ci = env::var_os("CI").is_some();
    let install = || must(cargo(root).args(["install", "cargo-deny", "--locked"]));
    if let Some(reason) = missing_tool(is_installed, is_ci, install) {
        println!("{reason}");
        return Ok(Tally::skip(reason));
    }
    let check = |workspace: &str, what: &[&str]| {
        println!("  {workspace}: {}", what.join(", "));
        let manifest = root.join(workspace).join("Cargo.toml");
        let config = root.join(".cargo/deny.toml");
        let mut command = cargo(root);
        command.arg("deny").arg("--config").arg(config).arg("--manifest-path").arg(manifest);
        checked(command.arg("check").args(what))
    };
    let workspaces = || ["."].into_iter().chain(GUESTS).chain(["tests/fuzz"]);
    let mut tally = sum(workspaces().map(|workspace| check(workspace, &["bans", "licenses", "sources"])));
    let mut fetch = cargo(root);
    fetch.arg("deny").arg("--config").arg(root.join(".cargo/deny.toml")).args(["fetch", "db"]);
    // Without the database, the check would fail for a reason that no change can mend.
    match must(&mut fetch) {
        Ok(()) => tally += sum(workspaces().map(|workspace| check(workspace, &["advisories"]))),
        Err(error) => tally += Tally::skip(format!("the advisories: their database cannot be downloaded: {error:#}")),
    }
    Ok(tally)
}

/// Returns the reason why cargo-deny is missing. CI installs it from the package index. Elsewhere,
/// its compilation takes minutes, so the user decides.
fn missing_tool(is_installed: bool, is_ci: bool, install: impl FnOnce() -> Result<()>) -> Option<String> {
    const MISSING: &str = "the dependencies: cargo-deny is not installed";
    match (is_installed, is_ci) {
        (true, _) => None,
        (false, false) => Some(format!("{MISSING}; run: cargo install cargo-deny --locked")),
        (false, true) => install().err().map(|error| format!("{MISSING}, and the package index does not provide it: {error:#}")),
    }
}

fn follow_readmes(root: &Path) -> Result<Tally> {
    let new_user::Followed { passed, failed, skipped } = new_user::follow_all(root, &[])?;
    Ok(Tally { skipped, ..Tally::of(passed, failed) })
}

/// Uses the dependencies of the lock file in CI.
fn locked(command: &mut Command) -> &mut Command {
    if env::var_os("CI").is_some() { command.arg("--locked") } else { command }
}

/// Runs a command that counts as one check.
fn checked(command: &mut Command) -> Tally {
    must(command).map_or_else(
        |error| {
            println!("error: {error:#}");
            Tally::failure(format!("{error:#}"))
        },
        |()| Tally::of(1, 0),
    )
}

fn sum(tallies: impl IntoIterator<Item = Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), |mut sum, tally| {
        sum += tally;
        sum
    })
}

/// Runs tests, shows their output, and adds up the result lines of the test binaries. Compiles them
/// in a separate command before, whose output is not parsed.
fn tests(mut command: impl FnMut() -> Command) -> Result<Tally> {
    must(command().arg("--no-run"))?;
    let mut command = command();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {}", shown(&command)))?;
    let output = child.stdout.take().context("the tests have no standard output")?;
    let mut tally = Tally::default();
    // libtest names a test that has run for over a minute, and later its result.
    let mut slow = Vec::new();
    let all = patience::lines(&child, output, SILENCE, |heard| match heard {
        Heard::Line(line) => {
            let line = String::from_utf8_lossy(line);
            println!("{line}");
            match said(&line) {
                Some(Said::Slow(name)) => slow.push(name.to_owned()),
                Some(Said::Ended { name, passed }) => {
                    slow.retain(|slow| slow != name);
                    if !passed {
                        tally.failures.push(name.to_owned());
                    }
                }
                Some(Said::All { passed, failed }) => tally += Tally::of(passed, failed),
                None => {}
            }
        }
        Heard::Silence => {
            let which = if slow.is_empty() { "no test has run for over a minute".to_owned() } else { slow.join(", ") };
            let failure = format!("the tests printed nothing for {} and were killed: {which}", clock(SILENCE));
            println!("error: {failure}");
            tally += Tally::failure(failure);
            slow.clear();
        }
    });
    let status = child.wait()?;
    if let Err(error) = all {
        println!("error: {}: {error:#}", shown(&command));
        tally += Tally::failure(format!("{error:#}"));
    } else if !status.success() && tally.failed == 0 {
        println!("error: {} failed ({status})", shown(&command));
        tally += Tally::failure(format!("{} failed ({status})", shown(&command)));
    }
    Ok(tally)
}

/// A line of libtest's output.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// `test deploy::steps has been running for over 60 seconds`
    Slow(&'a str),
    /// `test deploy::steps ... ok`
    Ended { name: &'a str, passed: bool },
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; …`
    All { passed: u64, failed: u64 },
}

fn said(line: &str) -> Option<Said<'_>> {
    if let Some(result) = line.strip_prefix("test result: ") {
        let counts = result.split_once(". ")?.1;
        let count = |what: &str| {
            let (number, _) = counts.split("; ").find_map(|part| part.split_once(' ').filter(|(_, name)| *name == what))?;
            number.parse().ok()
        };
        return Some(Said::All { passed: count("passed")?, failed: count("failed")? });
    }
    let about = line.strip_prefix("test ")?;
    if let Some(name) = about.strip_suffix(" has been running for over 60 seconds") {
        return Some(Said::Slow(name));
    }
    let (name, outcome) = about.rsplit_once(" ... ")?;
    Some(Said::Ended { name, passed: !outcome.starts_with("FAILED") })
}

fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{:.1} s", duration.as_secs_f64()) } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::{Said, Tally, missing_tool, said};

    #[test]
    fn skipped_stage_is_reported_as_skipped() {
        let lines = |tally: Tally| tally.lines("deny", Duration::from_secs(1));
        let skipped = || Tally::skip("the advisories: no network".to_owned());
        let (line, reason) =
            ("deny           skipped     0 passed    0 failed     1.0 s\n", "  skipped the advisories: no network\n");
        assert_eq!(lines(skipped()), format!("{line}{reason}"));
        let mut partly = Tally::of(4, 0);
        partly += skipped();
        assert_eq!(lines(partly), format!("deny           ok          4 passed    0 failed     1.0 s\n{reason}"));
        assert_eq!(lines(Tally::of(4, 0)), "deny           ok          4 passed    0 failed     1.0 s\n");
        let mut failed = Tally::failure("a licence".to_owned());
        failed += skipped();
        assert!(lines(failed).starts_with("deny           FAILED "));
    }

    #[test]
    fn missing_cargo_deny_is_installed_in_ci_or_skipped() {
        let installs = || Ok(());
        let fails = || bail!("no index");
        assert_eq!(missing_tool(true, true, fails), None);
        assert_eq!(missing_tool(false, true, installs), None);
        let reason = missing_tool(false, true, fails).expect("a reason");
        assert!(reason.ends_with("does not provide it: no index"), "{reason}");
        let reason = missing_tool(false, false, fails).expect("a reason");
        assert!(reason.ends_with("run: cargo install cargo-deny --locked"), "{reason}");
    }

    #[test]
    fn tally_reads_libtest_output() {
        let check = |line: &str, expected: Option<Said<'_>>| assert_eq!(said(line), expected, "{line}");
        check(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            Some(Said::All { passed: 5, failed: 0 }),
        );
        check(
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            Some(Said::All { passed: 12, failed: 3 }),
        );
        check("test result: something else", None);
        check("test deploy::steps ... ok", Some(Said::Ended { name: "deploy::steps", passed: true }));
        check("test deploy::steps ... ignored, it measures", Some(Said::Ended { name: "deploy::steps", passed: true }));
        check(
            "test src/lib.rs - Runtime (line 12) ... FAILED",
            Some(Said::Ended { name: "src/lib.rs - Runtime (line 12)", passed: false }),
        );
        check("test deploy::steps has been running for over 60 seconds", Some(Said::Slow("deploy::steps")));
        check("running 5 tests", None);
    }
}
