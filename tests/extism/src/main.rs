//! Extism's side of the benchmarks. It takes turns with the others, and reads orders. `trip <bytes
//! of body> <times>` and `instantiate <times>` answer with nanoseconds, `idle <instances>` with the
//! bytes of memory per instance, and `version` with Extism's version.

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm};
use mimalloc::MiMalloc;

/// The same allocator as the other side.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<()> {
    let plugin = std::env::args().nth(1).context("usage: extism-side <plugin.wasm>")?;
    let manifest = Manifest::new([Wasm::data(fs::read(&plugin).with_context(|| format!("reading {plugin}"))?)]);
    let compiled = CompiledPlugin::new(PluginBuilder::new(manifest).with_wasi(true))?;
    let mut live = Plugin::new_from_compiled(&compiled)?;
    say("ready")?;
    for line in io::stdin().lock().lines() {
        match follow(&line?, &compiled, &mut live) {
            Ok(answer) => say(&answer)?,
            Err(error) => say(&format!("error: {error:#}").replace('\n', " "))?,
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn follow(order: &str, compiled: &CompiledPlugin, live: &mut Plugin) -> Result<String> {
    let words: Vec<&str> = order.split(' ').collect();
    match words[..] {
        ["version"] => Ok("1.30.0".to_owned()),
        ["trip", bytes, times] => nanoseconds(trips(live, bytes.parse()?, times.parse()?)?),
        ["instantiate", times] => nanoseconds(instances(compiled, times.parse()?)?),
        ["idle", instances] => idle(compiled, instances.parse()?),
        _ => bail!("unknown order; the orders are trip, instantiate, idle, version"),
    }
}

fn nanoseconds(took: Duration) -> Result<String> {
    Ok(took.as_nanos().to_string())
}

fn message(from: &str, to: &str, bytes: usize) -> String {
    let around = r#"{"text":""}"#.len();
    let text: String = (b'a'..=b'z').cycle().map(char::from).take(bytes.saturating_sub(around)).collect();
    format!(r#"{{"id":7,"type":"update","from":"{from}","to":"{to}","body":{{"text":"{text}"}}}}"#)
}

fn trips(live: &mut Plugin, bytes: usize, times: u32) -> Result<Duration> {
    let (from, to) = ("hyperty://home.example/bench", "hyperty://sp1.example/alice");
    let (there, back) = (message(from, to, bytes), message(to, from, bytes));
    ensure!(live.call::<&str, &str>("echo", &there)? == back, "the reply is not an echo");
    let begun = Instant::now();
    for _ in 0..times {
        let answer: &str = live.call("echo", there.as_str())?;
        ensure!(answer.len() == back.len(), "the reply is not an echo");
    }
    Ok(begun.elapsed())
}

/// Measures the time to make `times` instances. Their end is not counted.
fn instances(compiled: &CompiledPlugin, times: u32) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for _ in 0..times {
        let begun = Instant::now();
        let plugin = Plugin::new_from_compiled(compiled)?;
        took += begun.elapsed();
        drop(plugin);
    }
    Ok(took)
}

/// Measures the memory of idle instances. Each was called once, as a stub is before it is idle.
fn idle(compiled: &CompiledPlugin, instances: usize) -> Result<String> {
    let there = message("hyperty://home.example/bench", "hyperty://sp1.example/alice", 100);
    let before = resident()?;
    let mut plugins = Vec::with_capacity(instances);
    for _ in 0..instances {
        let mut plugin = Plugin::new_from_compiled(compiled)?;
        plugin.call::<&str, &str>("echo", &there)?;
        plugins.push(plugin);
    }
    let grown = resident()?.saturating_sub(before);
    Ok((grown / instances.max(1)).to_string())
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> Result<usize> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").context("reading /proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("there is no `Rss` in it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}
