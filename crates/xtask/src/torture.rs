use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{cargo, debian, shown};

pub(crate) const TORTURE_HELP: &str = "\
usage: cargo xtask torture [--runs <number>] [--quick] [--only <texts>] [--window <milliseconds>]

Runs every hostile program and server of tests/hostile next to twenty well-behaved stubs. Each of these neighbours gets forty requests a second at
fixed times. The command prints a table: how each attack was contained and after how long, the neighbours' latency (p99) before and during the
attack, the delay of the host program's timers, lost messages, and memory that was not given back.

Then a process runs in each environment that fails: few descriptors, a full disk, I/O errors, a silent name service, a clock that is set back. In
these environments, domains offer stubs in older and unsigned releases, and messages are counted. An environment is skipped with the reason if the
user lacks the rights or a program is missing: mounts (full_disk, silent_dns) need root's rights or user namespaces, clock_set_back needs Debian's
faketime.

Writes target/torture/report.json. The last line is `N contained, N escaped`: attacks and environments together, without the skipped ones.

Builds with the release profile, which takes a while the first time, except with --quick.

An attack escapes in each of these cases:

  the attack is not contained as its definition demands
  a neighbour is ended, restarted or not answered
  memory is not given back
  neighbours wait longer than three times as long as before and than 5 ms, in the median of all runs
  timers are more than 20 ms late, in the median of all runs

A latency is the time from when a request was due to its answer, even if the request was sent late. The median is the protection against noise. The
p99 before is measured a moment before each run. It and the p99 during the run are each the median of all runs. Other load on the machine in less
than half of the runs therefore neither fails nor excuses an attack.

An environment escapes in each of these cases:

  a runtime, running or starting, accepts a lesser release than before (older, or no longer signed)
  a stub gets something that it has no right to
  a request has no outcome within its deadline, or more than one
  neighbours are not answered
  domains are not served again once the environment has recovered

  --runs <number>           runs of each attack: 5
  --quick                   runs once, built as the tests are, and judges no time: for a busy machine
  --only <texts>            attacks and environments with one of these in their names, separated by commas
  --window <milliseconds>   time before the attack, and least time during it: 1000
";

pub(crate) const SOAK_HELP: &str = "\
usage: cargo xtask soak [--minutes <number>] [--only <texts>]

Twenty stubs get forty requests a second each at fixed times. Next to them, other stubs attack and are ended, one after the other at random, and a
message node goes down and comes back. Each second the resources of the process are measured.

The means of the first and the last third are compared, after a warm-up of a sixth of the time. Memory may grow by a tenth or 16 MiB, file
descriptors by a tenth or 8, threads by a tenth or 4, tasks by a tenth or 16, whichever is more. Each request to a neighbour must be answered within
5 s. The latencies of each minute are reported, next to those of 5 s without attacks. Writes target/soak/report.json. The last line begins with
`flat` or `NOT FLAT`.

  --minutes <number>   running time: 20
  --only <texts>       runs the attacks with one of these in their names, separated by commas, all at once, each again and again
";

pub(crate) fn torture(root: &Path, args: &[&str]) -> Result<ExitCode> {
    // Without `faketime`, one environment is skipped with the reason.
    if let Err(error) = debian::packages(debian::FAKETIME) {
        println!("{error:#}");
    }
    // Measured times have to be those of the shipped build.
    let profile: &[&str] = if args.contains(&"--quick") { &[] } else { &["--release"] };
    example(root, "torture", profile, args)
}

pub(crate) fn soak(root: &Path, args: &[&str]) -> Result<ExitCode> {
    example(root, "soak", &[], args)
}

/// Runs an example. Without a profile, it has the tests' profile, and dependencies are compiled
/// once.
pub(crate) fn example(root: &Path, name: &str, profile: &[&str], args: &[&str]) -> Result<ExitCode> {
    let mut command = cargo(root);
    command.args(["run", "--quiet", "--example", name]).args(profile).arg("--").args(args);
    let status = command.status().with_context(|| format!("starting {}", shown(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
