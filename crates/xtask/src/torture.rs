use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{cargo, shown};

pub(crate) const TORTURE_HELP: &str = "\
usage: cargo xtask torture [--runs <number>] [--quick] [--only <text>] [--window <milliseconds>]

Runs every hostile program and server of tests/hostile beside twenty well-behaved stubs, each of which is asked forty times a second, and prints a
table: how each was contained and after how long, the neighbours' latency (99 of 100) before and during, how late the host program's timers were,
messages lost, and memory that was not given back. It writes target/torture/report.json, and ends with `N contained, N escaped`.

All is built as it ships, optimised, which takes a while the first time; not so with --quick.

An attack escapes if it is not contained as it has to be; if a neighbour is ended, restarted or not answered; if memory is not given back; or if,
in the median of all runs, neighbours wait longer than three times as long as before and than 5 ms, or timers are more than 20 ms late.

  --runs <number>           how often each attacks: 5
  --quick                   once, built as the tests are, and no time is judged: for a machine that is busy otherwise
  --only <text>             those with this in their names
  --window <milliseconds>   how long before, and at least during: 1000
";

pub(crate) const SOAK_HELP: &str = "\
usage: cargo xtask soak [--minutes <number>]

Twenty stubs are asked forty times a second, while others beside them attack and are ended, one after the other at random, and a message node goes and
comes back. Each second it is looked what the process takes. Compared are the means of the first and the last third, after a sixth of the time
in which everything gets going: memory may have grown by a tenth or 16 MiB, file descriptors by a tenth or 8, threads by a tenth or 4, tasks by a
tenth or 16, whichever is more. It writes target/soak/report.json, and the last line begins with `flat` or `NOT FLAT`.

  --minutes <number>   how long: 20
";

pub(crate) fn torture(root: &Path, args: &[&str]) -> Result<ExitCode> {
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
