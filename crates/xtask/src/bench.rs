//! Builds and runs the benchmarks: the host's, and those of Extism in a workspace of its own.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cargo, debian, guests, must, toolchain};

pub(crate) const HELP: &str = "\
usage: cargo xtask bench [--quick] [--only <id>,<id>...] [--record]

Measures Protostub against the limit (bare wasmtime), a native task, Extism and a Node.js worker, in turn. BENCHMARKS.md explains the figures.

  --quick   fewer runs: under five minutes, but the first build takes longer
  --only    measures only these figures
  --record  writes the table and the description of the machine to BENCHMARKS.md

Writes to target/bench: report.json, table.md, and the plots. The last line is `N met, N short`. The exit code is 0, regardless of the figures.

  cargo xtask bench count   counts instructions and first-level cache misses instead, independent of the machine's load; needs valgrind
";

/// Target of Extism's plugin.
const PLUGIN_TARGET: &str = "wasm32-wasip1";

pub(crate) fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    toolchain::require_target(guests::TARGET)?;
    must(cargo(root).args(["build", "--release", "--package", "protostub-bench"]))?;
    if args == ["count"] {
        return count(root);
    }
    let record = args.contains(&"--record");
    let mut bench = Command::new(root.join("target/release/protostub-bench"));
    bench.current_dir(root).args(args.iter().filter(|arg| **arg != "--record"));
    match extism(root) {
        Ok((program, plugin)) => drop(bench.arg("--extism").arg(program).arg("--plugin").arg(plugin)),
        // The figures that compare with Extism report the missing build too.
        Err(error) => println!("building Extism's side failed: {error:#}"),
    }
    must(&mut bench)?;
    if record {
        put_down(root)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Replaces the table in BENCHMARKS.md by the last run's.
fn put_down(root: &Path) -> Result<()> {
    const BEGIN: &str = "<!-- the last run -->\n";
    const END: &str = "<!-- end -->\n";
    let read = |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
    let report: Value = serde_json::from_str(&read(&root.join("target/bench/report.json"))?).context("reading the report")?;
    let machine = &report["machine"];
    let of = |name: &str| match &machine[name] {
        Value::Null => "not there".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let machine = format!(
        "{}, {} cores, {} GiB, Linux {}, `vm.max_map_count` {}; load before: {}; wasmtime {}, Extism {}, Node.js {}; a {} run.",
        of("cpu"),
        of("cores"),
        of("memory_gib"),
        of("kernel"),
        of("max_map_count"),
        of("load"),
        of("wasmtime"),
        of("extism"),
        of("node"),
        of("mode")
    );
    let table = read(&root.join("target/bench/table.md"))?;
    let file = root.join("BENCHMARKS.md");
    let text = read(&file)?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("BENCHMARKS.md has no line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("BENCHMARKS.md has no line {END:?}"))?;
    fs::write(&file, format!("{before}{BEGIN}\n{machine}\n\n{table}\n{END}{after}")).context("writing BENCHMARKS.md")
}

/// Builds Extism's side: a program and its plugin. They have a build folder of their own, because
/// builds of the stubs would wait for a shared one.
fn extism(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let target = root.join("target/extism");
    let build = |args: &[&str]| {
        let mut command = cargo(&root.join("tests/extism"));
        must(command.args(["build", "--release", "--target-dir"]).arg(&target).args(args))
    };
    toolchain::require_target(PLUGIN_TARGET)?;
    build(&["--package", "plugin", "--target", PLUGIN_TARGET])?;
    build(&["--package", "extism-side"])?;
    Ok((target.join("release/extism-side"), target.join(PLUGIN_TARGET).join("release/plugin.wasm")))
}

/// Counts the instructions and the first-level cache misses of one repetition, under callgrind. It
/// runs the program twice, with different numbers of repetitions, and divides the difference.
fn count(root: &Path) -> Result<ExitCode> {
    const FEW: u64 = 1_000;
    const MANY: u64 = 11_000;
    debian::packages(&[("valgrind", "valgrind")])?;
    println!("{:<16}{:>14}{:>10}", "", "instructions", "misses");
    for what in ["trip", "load", "bare", "bare-batch", "native", "hop", "instance", "bare-instance"] {
        let (few, many) = (counted(root, what, FEW)?, counted(root, what, MANY)?);
        let each = |of: fn(&Counted) -> u64| of(&many).saturating_sub(of(&few)) / (MANY - FEW);
        println!("{what:<16}{:>14}{:>10}", each(|counted| counted.instructions), each(|counted| counted.misses));
    }
    println!("\n`callgrind_annotate target/bench/callgrind.<name>` shows where.");
    Ok(ExitCode::SUCCESS)
}

/// Callgrind's counts for a whole run.
struct Counted {
    instructions: u64,
    /// Instruction fetches that missed the first-level cache.
    misses: u64,
}

fn counted(root: &Path, what: &str, times: u64) -> Result<Counted> {
    // Fixed sizes make the counts the same on every machine. They are those of AMD's and Intel's
    // server processors, except the newest.
    const CACHES: [&str; 4] = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64"];
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder).context("making target/bench")?;
    let profile = folder.join(format!("callgrind.{what}"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--fair-sched=yes"]).args(CACHES);
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    // Callgrind logs warnings that this machine's caches differ.
    command.arg(format!("--log-file={}.log", profile.display()));
    command.arg(root.join("target/release/protostub-bench")).args(["--count", what, "--times", &times.to_string()]);
    must(&mut command)?;
    let text = fs::read_to_string(&profile).with_context(|| format!("reading {}", profile.display()))?;
    let line = |start: &str| text.lines().rev().find_map(|line| line.strip_prefix(start));
    let events = line("events: ").context("callgrind's output has no line `events`")?.split_whitespace();
    let totals = line("totals: ").context("callgrind's output has no line `totals`")?.split_whitespace();
    let all: HashMap<_, _> = events.zip(totals).collect();
    let of = |event: &str| {
        let total = all.get(event).with_context(|| format!("callgrind did not count {event}"))?;
        total.parse().with_context(|| format!("callgrind counted {total:?} of {event}"))
    };
    Ok(Counted { instructions: of("Ir")?, misses: of("I1mr")? })
}
