//! Many stubs in a process.

use anyhow::{Context as _, Result};

use super::{Bench, tell};
use crate::{peers::Peer, report::Side, samples::Samples};

const MEMORY: &str = "idle_stub_kib";
const VS_BARE: &str = "idle_stub_vs_bare";
const VS_EXTISM: &str = "idle_vs_extism";
const P99: &str = "p99_10000_vs_100";
const CPU: &str = "idle_cpu_10000";
const DEPLOY: &str = "deploy_growth";
const HERD: &str = "herd_p90_ms";
const QUEUED: &str = "queued_vs_limit";

/// Number of busy stubs.
const BUSY: usize = 100;
/// Number of stubs that are deployed at once.
const AT_ONCE: usize = 2_000;

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if bench.wants(HERD) {
        herd(bench)?;
    }
    if bench.wants(QUEUED) {
        flood(bench)?;
    }
    if !bench.wants_any(&[MEMORY, VS_BARE, VS_EXTISM, P99, CPU, DEPLOY]) {
        return Ok(());
    }
    let most = bench.effort.crowd;
    tell(&format!("a process with {most} stubs"));
    let (mut crowd, grown_by) = match growing(bench, most) {
        Ok(grown) => grown,
        Err(error) => {
            for id in [MEMORY, VS_BARE, VS_EXTISM, P99, CPU, DEPLOY] {
                if bench.wants(id) {
                    bench.report.without(id, &format!("{most} stubs: {error:#}"));
                }
            }
            return Ok(());
        }
    };
    memory(bench, most, &grown_by);
    if bench.wants(CPU) {
        idle(bench, &mut crowd)?;
    }
    if bench.wants_any(&[P99, DEPLOY]) {
        let few = BUSY.min(most / 2);
        let (mut few_stubs, _) = grown("stubs", few)?;
        if bench.wants(P99) {
            busy(bench, &mut crowd, &mut few_stubs, few)?;
        }
        if bench.wants(DEPLOY) {
            drop(few_stubs);
            deploy(bench, &mut crowd, &mut grown("stubs", 1)?.0)?;
        }
    }
    Ok(())
}

/// Measures the memory of messages that no stub reads, in a process of its own.
fn flood(bench: &mut Bench) -> Result<()> {
    /// Number of stubs.
    const ASLEEP: usize = 60;
    let stubs = ASLEEP.min(bench.effort.crowd);
    tell(&format!("{stubs} flooded stubs"));
    let mut peer = Peer::own(&["--crowd", "asleep", "--most", &stubs.to_string()])?;
    peer.ask(&format!("grow {stubs}"))?;
    let (grown, limit) = two(&peer.ask("flood")?)?;
    let mib = |bytes: f64| -> Samples { [bytes / f64::from(1 << 20)].into_iter().collect() };
    let (grown, limit) = (mib(grown), mib(limit));
    let sides = vec![Side::new("memory of all waiting messages", "MiB", &grown), Side::new("`max-queued-bytes`", "MiB", &limit)];
    bench.report.add(QUEUED, &grown.over(&limit), sides);
    Ok(())
}

/// Number of stubs before memory is measured. Their shared memory is resident then.
const BEFORE: usize = 8;

/// Memory of each member, in KiB. A process is measured once: its memory varies less than times.
struct Grown {
    /// Counts a shared page as often as it is mapped.
    resident: Samples,
    /// Counts a shared page once, such as the component's data as long as it is only read.
    proportional: Samples,
}

impl Grown {
    fn between((first, first_once): (f64, f64), (last, last_once): (f64, f64), count: usize) -> Self {
        let each = |bytes: f64| [of_each(bytes, count) / 1024.0].into_iter().collect();
        Self { resident: each(last - first), proportional: each(last_once - first_once) }
    }
}

/// Measures a process with `most` members.
fn grown(kind: &str, most: usize) -> Result<(Peer, Grown)> {
    let mut peer = Peer::own(&["--crowd", kind, "--most", &most.to_string()])?;
    let before = BEFORE.min(most - 1);
    let first = two(&peer.ask(&format!("grow {before}"))?)?;
    let last = two(&peer.ask(&format!("grow {most}"))?)?;
    Ok((peer, Grown::between(first, last, most - before)))
}

/// Measures a process with stubs in steps, for the plots.
fn growing(bench: &mut Bench, most: usize) -> Result<(Peer, Grown)> {
    let mut peer = Peer::own(&["--crowd", "stubs", "--most", &most.to_string()])?;
    let first = two(&peer.ask(&format!("grow {BEFORE}"))?)?;
    let (mut last, times) = (first, if bench.effort.turn.is_zero() { 2 } else { 2_000 });
    let tenths = std::iter::successors(Some(most), |stubs| Some(stubs / 10)).take_while(|stubs| *stubs > BEFORE);
    let steps: Vec<usize> = tenths.collect();
    for stubs in steps.into_iter().rev() {
        last = two(&peer.ask(&format!("grow {stubs}"))?)?;
        let (p99, median) = two(&peer.ask(&format!("busy 1 {times}"))?)?;
        bench.curves.memory.push((stubs, last.0));
        bench.curves.latency.push((stubs, median, p99));
    }
    Ok((peer, Grown::between(first, last, most - BEFORE)))
}

#[expect(clippy::cast_precision_loss, reason = "they are few")]
fn of_each(bytes: f64, count: usize) -> f64 {
    bytes / count as f64
}

/// Parses an answer with two numbers.
fn two(answer: &str) -> Result<(f64, f64)> {
    let (one, other) = answer.split_once(' ').context("the answer does not have two numbers")?;
    Ok((one.parse()?, other.parse()?))
}

fn memory(bench: &mut Bench, most: usize, ours: &Grown) {
    let side = Side::new(format!("a stub of {most}"), "KiB", &ours.resident);
    if bench.wants(MEMORY) {
        let once = Side::new("the same, what several stubs share counted once", "KiB", &ours.proportional);
        bench.report.add(MEMORY, &ours.resident, vec![side.clone(), once]);
    }
    if bench.wants(VS_BARE) {
        tell(&format!("a process with {most} bare stores"));
        match grown("bare", most) {
            Ok((_, bare)) => {
                let sides = vec![side.clone(), Side::new(format!("a bare store of {most}"), "KiB", &bare.resident)];
                bench.report.add(VS_BARE, &ours.resident.over(&bare.resident), sides);
            }
            Err(error) => bench.report.without(VS_BARE, &format!("{most} bare stores: {error:#}")),
        }
    }
    if bench.wants(VS_EXTISM) {
        const INSTANCES: usize = 500;
        tell("a process with Extism's instances");
        let instances = INSTANCES.min(most);
        let measured = bench.extism().and_then(|mut peer| peer.number(&format!("idle {instances}")));
        match measured {
            Ok(bytes) => {
                let theirs: Samples = [bytes / 1024.0].into_iter().collect();
                let sides = vec![Side::new(format!("an instance of Extism of {instances}"), "KiB", &theirs), side];
                bench.report.add(VS_EXTISM, &theirs.over(&ours.resident), sides);
            }
            Err(error) => bench.report.without(VS_EXTISM, &format!("{error:#}")),
        }
    }
}

fn idle(bench: &mut Bench, crowd: &mut Peer) -> Result<()> {
    const PARTS: u32 = 5;
    tell("what idle stubs compute");
    let part = bench.effort.idle / PARTS;
    let mut cores = Samples::default();
    for _ in 0..PARTS {
        let computed = crowd.number(&format!("idle {}", part.as_millis()))?;
        cores.push(computed / 1e9 / part.as_secs_f64());
    }
    let side = Side::new("computing time a second", "cores", &cores);
    bench.report.add(CPU, &cores, vec![side]);
    Ok(())
}

fn busy(bench: &mut Bench, crowd: &mut Peer, few_stubs: &mut Peer, few: usize) -> Result<()> {
    tell(&format!("{few} busy stubs of many"));
    let times = if bench.effort.turn.is_zero() { 2 } else { 60 };
    let measure = |peer: &mut Peer| two(&peer.ask(&format!("busy {few} {times}"))?);
    measure(crowd)?;
    measure(few_stubs)?;
    let (mut many, mut alone) = (Samples::default(), Samples::default());
    let (mut many_median, mut alone_median) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.rounds {
        let (p99, median) = measure(crowd)?;
        many.push(p99);
        many_median.push(median);
        let (p99, median) = measure(few_stubs)?;
        alone.push(p99);
        alone_median.push(median);
    }
    let most = bench.effort.crowd;
    let sides = vec![
        Side::new(format!("p99, {few} busy of {most}"), "ns", &many),
        Side::new(format!("p99, {few} busy of {few}"), "ns", &alone),
        Side::new(format!("median, {few} busy of {most}"), "ns", &many_median),
        Side::new(format!("median, {few} busy of {few}"), "ns", &alone_median),
    ];
    bench.report.add(P99, &many.over(&alone), sides);
    Ok(())
}

fn deploy(bench: &mut Bench, crowd: &mut Peer, first: &mut Peer) -> Result<()> {
    tell("deployments among many");
    let times = if bench.effort.turn.is_zero() { 1 } else { 20 };
    let order = format!("deploy {times}");
    crowd.number(&order)?;
    first.number(&order)?;
    let (mut many, mut few) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.rounds {
        many.push(crowd.number(&order)?);
        few.push(first.number(&order)?);
    }
    let most = bench.effort.crowd;
    let sides = vec![
        Side::new(format!("a deployment next to {most} stubs"), "ns", &many),
        Side::new("a deployment beside one stub", "ns", &few),
    ];
    bench.report.add(DEPLOY, &many.over(&few), sides);
    Ok(())
}

/// Measures both sides in each run of one process: the neighbour alone, and during the herd.
fn herd(bench: &mut Bench) -> Result<()> {
    tell("a neighbour of a herd");
    let of = AT_ONCE.min(bench.effort.crowd);
    let mut peer = Peer::own(&["--crowd", "stubs", "--most", &(of + 1).to_string()])?;
    peer.ask("grow 1")?;
    let (mut alone, mut meanwhile, mut took) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..bench.effort.slow_rounds {
        let answer = peer.ask(&format!("herd {of}"))?;
        let (before, rest) = answer.split_once(' ').context("the answer does not have three numbers")?;
        let (during, all) = two(rest)?;
        alone.push(before.parse::<f64>()? / 1e6);
        meanwhile.push(during / 1e6);
        took.push(all / 1e6);
    }
    let sides = vec![
        Side::new(format!("p90 while {of} stubs are deployed"), "ms", &meanwhile),
        Side::new("p90 of the same requests before", "ms", &alone),
        Side::new(format!("{of} deployments"), "ms", &took),
    ];
    bench.report.add(HERD, &meanwhile, sides);
    Ok(())
}
