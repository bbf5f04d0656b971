use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use crate::{guests, must, shown, toolchain};

pub(crate) const HELP: &str = "\
usage: cargo xtask fuzz [--seconds <N>] [<target>...]

Feeds random bytes to parsers, components and host calls: all targets, or the named ones, for N seconds each (60):

  address      addresses, domains, rules, versions, URLs of catalogues
  message      messages as JSON
  descriptor   descriptors, and the packages in them
  http         responses of HTTP servers
  jws          signatures of descriptors, and the keys that verify them
  policy       operators' rules in Cedar
  consumer     messages with any body, as `run` and `send` print them
  control      lines of the control socket
  settings     settings files
  component    components, including their start functions
  host_calls   calls of a stub to its host, with a server that sends any answer

The last five targets contain the sandbox. Its first build takes ten minutes or more. The fuzzers need nightly Rust and cargo-fuzz. cargo-fuzz is
installed if it is missing.

Each target begins with its seeds in tests/fuzz/corpus/<target> and the inputs that earlier runs found in target/fuzz/corpus/<target>. An input that
causes a fault is written to tests/fuzz/artifacts/<target>. Once the fault is fixed, make the input a seed: the tests replay all seeds. The last line is
`N targets, N without a fault, N faults`.
";

/// The fuzzers' package, from the repository's root.
const FUZZ: &str = "tests/fuzz";
/// Default running time of each target, in seconds.
const SECONDS: u64 = 60;
/// Time limit of one input, in seconds.
const INPUT_SECONDS: u64 = 60;
/// Memory limit of a target, in megabytes.
const MEGABYTES: u64 = 4096;
/// Number of output lines that are shown of a target that found a fault.
const LINES: usize = 60;

/// A binary of the fuzzers' package.
struct Target {
    name: String,
    features: Vec<String>,
}

pub(crate) fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let all = targets(root)?;
    let (seconds, wanted) = arguments(args)?;
    if let Some(unknown) = wanted.iter().find(|name| !all.iter().any(|target| target.name == **name)) {
        let names: Vec<_> = all.iter().map(|target| target.name.as_str()).collect();
        bail!("unknown target `{unknown}`; the targets are {}", names.join(", "));
    }
    require_nightly()?;
    require_cargo_fuzz(root)?;
    let chosen: Vec<_> = all.iter().filter(|target| wanted.is_empty() || wanted.contains(&target.name.as_str())).collect();
    if chosen.iter().any(|target| !target.features.is_empty()) {
        toolchain::require_target(guests::TARGET)?;
        guests::build(root, "tests/programs")?;
    }
    for target in &chosen {
        println!("Building {}.", target.name);
        must(cargo_fuzz(root, "build", target).arg(&target.name))?;
    }
    let mut sound = 0;
    for target in &chosen {
        sound += usize::from(fuzz(root, target, Duration::from_secs(seconds))?);
    }
    let faults = chosen.len() - sound;
    println!("\n{} targets, {sound} without a fault, {faults} faults", chosen.len());
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn arguments<'a>(args: &[&'a str]) -> Result<(u64, Vec<&'a str>)> {
    let mut seconds = SECONDS;
    let mut targets = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--seconds" => {
                let number = rest.next().and_then(|number| number.parse().ok()).filter(|seconds| *seconds > 0);
                seconds = number.context("`--seconds` needs a number of seconds")?;
            }
            flag if flag.starts_with('-') => bail!("unknown argument `{flag}`; see --help"),
            target => targets.push(target),
        }
    }
    Ok((seconds, targets))
}

/// Returns the binaries of the fuzzers' manifest.
fn targets(root: &Path) -> Result<Vec<Target>> {
    let file = root.join(FUZZ).join("Cargo.toml");
    let manifest: Table = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?.parse()?;
    let bins = manifest.get("bin").and_then(Value::as_array).context("the fuzzers' manifest has no `[[bin]]` tables")?;
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let target = |bin: &Value| {
        let name = bin.get("name").and_then(Value::as_str).context("a binary has no name")?.to_owned();
        Ok(Target { name, features: texts(bin.get("required-features")) })
    };
    bins.iter().map(target).collect()
}

fn require_nightly() -> Result<()> {
    let mut version = Command::new("rustup");
    version.args(["run", "nightly", "cargo", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        bail!("the fuzzers need a nightly Rust; run: rustup toolchain install nightly --profile minimal");
    }
    Ok(())
}

fn require_cargo_fuzz(root: &Path) -> Result<()> {
    let runs = || {
        let mut version = crate::cargo(root);
        version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    if !runs() {
        println!("cargo install cargo-fuzz --locked");
        let installed = must(crate::cargo(root).args(["install", "cargo-fuzz", "--locked"]));
        if installed.is_err() || !runs() {
            bail!("`cargo fuzz` is missing; run: cargo install cargo-fuzz --locked");
        }
    }
    Ok(())
}

/// Runs without AddressSanitizer: the host is safe Rust, and the saved time allows more inputs.
fn cargo_fuzz(root: &Path, subcommand: &str, target: &Target) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root).args(["run", "nightly", "cargo", "fuzz", subcommand, "--fuzz-dir", FUZZ, "--sanitizer", "none"]);
    for feature in &target.features {
        command.args(["--features", feature]);
    }
    // These variables belong to the cargo that runs this command, which has another toolchain.
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// Runs a target for this time. Returns `true` if it found no fault.
fn fuzz(root: &Path, target: &Target, time: Duration) -> Result<bool> {
    let found = root.join("target/fuzz/corpus").join(&target.name);
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let seeds = root.join(FUZZ).join("corpus").join(&target.name);
    let mut command = cargo_fuzz(root, "run", target);
    command.arg(&target.name).arg(&found);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command.arg("--").arg(format!("-max_total_time={}", time.as_secs()));
    command.args([format!("-timeout={INPUT_SECONDS}"), format!("-rss_limit_mb={MEGABYTES}")]);
    println!("\n=== {} for {} s", target.name, time.as_secs());
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| format!("starting {}", shown(&command)))?;
    let output = child.stderr.take().context("the fuzzer has no output")?;
    let mut last = VecDeque::new();
    let mut end = None;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if line.contains("DONE") || line.starts_with("Done ") {
            end = Some(line.clone());
        }
        last.push_back(line);
        if last.len() > LINES {
            last.pop_front();
        }
    }
    let status = child.wait()?;
    if status.success() {
        println!("{}", end.unwrap_or_else(|| "done".to_owned()));
    } else {
        for line in last {
            println!("{line}");
        }
        println!("{} found a fault ({status})", target.name);
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::{FUZZ, HELP, arguments, targets};
    use crate::root;

    #[test]
    fn every_target_is_in_the_help_and_has_seeds() {
        for target in targets(&root()).expect("the fuzzers' manifest") {
            let told = HELP.lines().any(|line| line.trim_start().starts_with(&format!("{} ", target.name)));
            assert!(told, "`cargo xtask fuzz --help` does not list {}", target.name);
            let seeds = root().join(FUZZ).join("corpus").join(&target.name);
            assert!(seeds.read_dir().is_ok_and(|mut files| files.next().is_some()), "{} has no seeds", target.name);
        }
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(arguments(&[]).unwrap(), (60, vec![]));
        assert_eq!(arguments(&["message", "--seconds", "5", "policy"]).unwrap(), (5, vec!["message", "policy"]));
        for wrong in [&["--seconds"][..], &["--seconds", "0"], &["--minutes", "5"]] {
            assert!(arguments(wrong).is_err(), "{wrong:?}");
        }
    }
}
