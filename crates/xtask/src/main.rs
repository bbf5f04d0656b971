//! Automation of the repository: `cargo xtask help`.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod bench;
mod conformance;
mod debian;
mod defences;
mod demo;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod figures;
mod fuzz;
mod guests;
mod kills;
mod musl;
mod new_user;
mod patience;
mod prose;
mod readme;
mod structure;
mod stubs;
mod test;
mod test_index;
#[cfg(test)]
mod threats;
mod toolchain;
mod torture;
#[cfg(test)]
mod unsafe_code;
mod wit;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

const HELP: &str = "\
Automation of the Protostub repository

usage: cargo xtask <command>

  demo         lets two runtimes that have never met talk through a domain: deploys its stub, step by step
               (--mqtt: an app and MQTT clients, with a real broker between them)
  test         runs everything that CI runs: formatting, lints, all tests, the contract, the documentation
  conformance  runs the conformance cases on the sample stubs, and writes target/conformance/report.json
  bench        runs the benchmarks: see BENCHMARKS.md (--quick: in a few minutes)
  torture      runs every hostile program, server and environment next to well-behaved stubs, and writes target/torture/report.json
  defences     takes each defence out of the sources, and requires that its tests fail
  soak         runs load, attacks and outages for 20 minutes: no resource may grow
  kills        kills the runtime and its servers under load: every message has an outcome (--outages: servers that are away for long)
  fuzz         feeds random bytes to everything that reads untrusted bytes (--seconds N)
  structure    checks the crates' files: no circular dependencies, and no two types of a crate with one name
  prose        holds comments, errors, log lines, printed texts and help to the rules of plain English
  stubs        builds the sample stubs, and a catalogue of them in target/catalogue
  wit check    checks the contract in wit/: complete, documented, and compatible with the released versions
  wit freeze   records the contract's shape as released, in wit/frozen.toml
  new-user     runs the commands of the READMEs, one by one, with an empty home
  help         prints this text

`cargo xtask <command> --help` explains a command.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode> {
    let root = root();
    let wants_help = args.iter().any(|arg| matches!(*arg, "-h" | "--help"));
    let (help, command): (&str, &dyn Fn() -> Result<ExitCode>) = match args {
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        ["demo", "--mqtt", rest @ ..] => (demo::HELP, &|| none(rest).and_then(|()| demo::run_mqtt(&root))),
        ["demo", rest @ ..] => (demo::HELP, &|| none(rest).and_then(|()| demo::run(&root))),
        ["test", stages @ ..] => (test::HELP, &|| test::run(&root, stages)),
        ["bench", args @ ..] => (bench::HELP, &|| bench::run(&root, args)),
        ["conformance", rest @ ..] => (conformance::HELP, &|| none(rest).and_then(|()| conformance::run(&root))),
        ["defences", args @ ..] => (defences::HELP, &|| defences::run(&root, args)),
        ["fuzz", args @ ..] => (fuzz::HELP, &|| fuzz::run(&root, args)),
        ["new-user", args @ ..] => (new_user::HELP, &|| new_user::run(&root, args)),
        ["structure", crates @ ..] => (structure::HELP, &|| structure::run(&root, crates)),
        ["prose", paths @ ..] => (prose::HELP, &|| prose::run(&root, paths)),
        ["stubs", rest @ ..] => (stubs::HELP, &|| none(rest).and_then(|()| stubs::run(&root))),
        ["torture", args @ ..] => (torture::TORTURE_HELP, &|| torture::torture(&root, args)),
        ["soak", args @ ..] => (torture::SOAK_HELP, &|| torture::soak(&root, args)),
        ["kills", args @ ..] => (kills::HELP, &|| kills::run(&root, args)),
        ["wit", "check", rest @ ..] => (wit::HELP, &|| none(rest).and_then(|()| wit::check(&root))),
        ["wit", "freeze", rest @ ..] => (wit::HELP, &|| none(rest).and_then(|()| wit::freeze(&root))),
        ["wit", ..] => (wit::HELP, &|| bail!("`cargo xtask wit` needs `check` or `freeze`")),
        [unknown, ..] => bail!("unknown command `{unknown}`; `cargo xtask help` lists all commands"),
    };
    if wants_help {
        print!("{help}");
        return Ok(ExitCode::SUCCESS);
    }
    command()
}

fn none(args: &[&str]) -> Result<()> {
    match args {
        [] => Ok(()),
        [unexpected, ..] => bail!("unexpected argument `{unexpected}`; see --help"),
    }
}

/// Returns the repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Returns a command of the cargo that runs this program, in the host's workspace.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs a command to its end, and shows its output. Returns an error if it fails.
fn must(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Returns a command as a user would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    command.get_args().fold(program.into_owned(), |shown, arg| shown + " " + &arg.to_string_lossy())
}
