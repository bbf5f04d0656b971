use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{cargo, debian, shown};

pub(crate) const TORTURE_HELP: &str = "\
usage: cargo xtask torture [--runs <number>] [--quick] [--only <texts>] [--window <milliseconds>]

Runs every hostile program and server of tests/hostile next to twenty well-behaved stubs, each of which is asked forty times a second at fixed
times, and prints a table: how each was contained and after how long, the neighbours' latency (99 of 100) before and during, how late the host
program's timers were, messages lost, and memory that was not given back.

Then a process runs in each environment that fails: few descriptors, a full disk, I/O errors, a silent name service, a clock that is set back.
Stubs are offered in older and unsigned releases there, and messages are counted. What an environment takes that this user may not, or that is not
installed, is skipped with the reason: mounts (full_disk, silent_dns) need root's rights or user namespaces, clock_set_back Debian's faketime.

It writes target/torture/report.json, and ends with `N contained, N escaped`: attacks and environments together, without those that were skipped.

All is built as it ships, optimised, which takes a while the first time; not so with --quick.

An attack escapes if it is not contained as it has to be; if a neighbour is ended, restarted or not answered; if memory is not given back; or if,
in the median of all runs, neighbours wait longer than three times as long as before and than 5 ms, or timers are more than 20 ms late. A latency
is the time from when a request was due to its answer, however late it was sent and answered. The median is what noise is treated with: the p99
before, taken a moment before each run, and the p99 during it are each the median of all runs, so that what else happens on the machine in less
than half of the runs is not held against an attack, and does not excuse one.

An environment escapes if a release is accepted that is less than one before (older, or not signed any more), by the runtime that runs or by one
that starts; if a stub gets what it has no right to; if a request has no outcome within its deadline, or more than one; if neighbours are not
answered; or if domains are not served again once the environment has recovered.

  --runs <number>           how often each attacks: 5
  --quick                   once, built as the tests are, and no time is judged: for a machine that is busy otherwise
  --only <texts>            attacks and environments with one of these in their names, with commas between them
  --window <milliseconds>   how long before, and at least during: 1000
";

pub(crate) const SOAK_HELP: &str = "\
usage: cargo xtask soak [--minutes <number>] [--only <texts>]

Twenty stubs are asked forty times a second at fixed times, while others next to them attack and are ended, one after the other at random, and a
message node goes and comes back. Each second it is looked what the process takes. Compared are the means of the first and the last third, after a
sixth of the time in which everything gets going: memory may have grown by a tenth or 16 MiB, file descriptors by a tenth or 8, threads by a tenth
or 4, tasks by a tenth or 16, whichever is more. Each request to a neighbour is answered, none after more than 5 s; the latencies of each minute are
reported, next to those of 5 s in which nobody attacked. It writes target/soak/report.json, and the last line begins with `flat` or `NOT FLAT`.

  --minutes <number>   how long: 20
  --only <texts>       attacks with one of these in their names, with commas between them: all of them at once, each again and again
";

pub(crate) fn torture(root: &Path, args: &[&str]) -> Result<ExitCode> {
    // Without it, one environment is skipped with the reason.
    if let Err(error) = debian::packages(debian::FAKETIME) {
        println!("{error:#}");
    }
    // Times are those of what strangers run.
    let profile: &[&str] = if args.contains(&"--quick") { &[] } else { &["--release"] };
    example(root, "torture", profile, args)
}

pub(crate) fn soak(root: &Path, args: &[&str]) -> Result<ExitCode> {
    example(root, "soak", &[], args)
}

/// Without a profile, runs it with the code that the tests run with: dependencies are compiled once.
fn example(root: &Path, name: &str, profile: &[&str], args: &[&str]) -> Result<ExitCode> {
    let mut command = cargo(root);
    command.args(["run", "--quiet", "--example", name]).args(profile).arg("--").args(args);
    let status = command.status().with_context(|| format!("starting {}", shown(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
