//! Round trips: bus, stub, bus.

use std::sync::Arc;

use anyhow::Result;
use protostub_artifacts::component;
use protostub_types::Address;
use tokio::sync::Mutex;

use super::{Bench, tell};
use crate::{
    bare::Bare,
    hops::Native,
    live::{Live, Shared, most_on_their_way},
    peers::Peer,
    processor::OneProcessor,
    report::Side,
    samples::{Samples, each},
    workload::{BODIES, Text},
};

/// Maximum number of messages of one call of a stub, as in the default limits.
const BATCH_EVENTS: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

const VS_BARE: &str = "trip_vs_bare";
const LOADED: &str = "trip_loaded_vs_bare";
const VS_EXTISM: &str = "trip_vs_extism";
const VS_NODE: &str = "trip_vs_node";
const CROSSING: &str = "crossing_us";

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.wants_any(&[VS_BARE, LOADED, VS_EXTISM, VS_NODE, CROSSING]) {
        return Ok(());
    }
    let live = Live::new().await?;
    let to = Address::parse("hyperty://sp1.example/alice")?;
    let bare: Shared = Arc::new(Mutex::new(Bare::new(&live.engine, &component("batched-echo"))?.live().await?));
    if bench.wants(VS_BARE) {
        unloaded(bench, &live, &bare, &to).await?;
    }
    if bench.wants(LOADED) {
        loaded(bench, &live, &bare, &to).await?;
    }
    if bench.wants(VS_EXTISM) {
        let peer = bench.extism();
        let _held = peer.as_ref().ok().and_then(OneProcessor::with);
        against(bench, &live, None, &to, VS_EXTISM, "Extism", peer).await?;
    }
    if bench.wants(VS_NODE) {
        against(bench, &live, Some(&bare), &to, VS_NODE, "Node.js", Peer::node()).await?;
    }
    if bench.wants(CROSSING) {
        crossing(bench, &live, &to).await?;
    }
    Ok(())
}

/// Reports the worst of the bodies.
async fn unloaded(bench: &mut Bench, live: &Live, bare: &Shared, to: &Address) -> Result<()> {
    let mut native = Native::new(&bench.threads)?;
    let (mut worst, mut sides) = (Samples::default(), Vec::new());
    for (bytes, name) in BODIES {
        tell(&format!("round trips of {name}"));
        let count = bench.effort.count(|count| live.trips(to, bytes, count)).await?;
        let (mut ours, mut limit, mut without) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            let [trip, call] = live.trips_and_calls(bare, to, bytes, count).await?;
            ours.push(trip);
            limit.push(call);
            without.push(each(native.trips(bytes, count).await?, count));
        }
        let ratio = ours.over(&limit);
        if worst.len() == 0 || ratio.median() > worst.median() {
            worst = ratio;
        }
        sides.push(Side::new(format!("trip, {name}"), "ns", &ours));
        sides.push(Side::new(format!("bare call, {name}"), "ns", &limit));
        sides.push(Side::new(format!("native task, {name}"), "ns", &without));
    }
    sides.extend(in_greek(bench, live, bare, to).await?);
    bench.report.add(VS_BARE, &worst, sides);
    Ok(())
}

/// Measures bodies that are not ASCII. The host reads the bodies that stubs post with its own code
/// (`contract::json` of the sandbox). With the bare call, wasmtime does so.
async fn in_greek(bench: &Bench, live: &Live, bare: &Shared, to: &Address) -> Result<[Side; 2]> {
    let [.., (bytes, name)] = BODIES;
    tell(&format!("round trips of {name} in Greek"));
    let text = || Text::in_greek(bytes);
    let count = bench.effort.count(|count| live.trips(to, text(), count)).await?;
    let (mut ours, mut limit) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.slow_rounds {
        let [trip, call] = live.trips_and_calls(bare, to, text(), count).await?;
        ours.push(trip);
        limit.push(call);
    }
    Ok([Side::new(format!("trip, {name} in Greek"), "ns", &ours), Side::new(format!("bare call, {name} in Greek"), "ns", &limit)])
}

async fn loaded(bench: &mut Bench, live: &Live, bare: &Shared, to: &Address) -> Result<()> {
    let (mut worst, mut sides) = (Samples::default(), Vec::new());
    for (bytes, name) in BODIES {
        tell(&format!("round trips of {name} under load"));
        let batch = BATCH_EVENTS.min(BATCH_BYTES / bytes);
        let count = bench.effort.count(|count| live.load(to, bytes, count)).await?;
        let (mut ours, mut limit) = (Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            let [message, call] = live.load_and_calls(bare, to, bytes, batch, count).await?;
            ours.push(message);
            limit.push(call);
        }
        let ratio = ours.over(&limit);
        if worst.len() == 0 || ratio.median() > worst.median() {
            worst = ratio;
        }
        sides.push(Side::new(format!("a message under load, {name}"), "ns", &ours));
        sides.push(Side::new(format!("bare, in batches of {batch}, {name}"), "ns", &limit));
    }
    bench.report.add(LOADED, &worst, sides);
    for (bytes, name) in BODIES {
        let mut curve = Vec::new();
        for window in [1, 2, 4, 8, 16, 32, 64, 128, 256].into_iter().filter(|window| *window <= most_on_their_way(bytes)) {
            let count = if bench.effort.turn.is_zero() { 2 } else { 20_000 / u32::try_from(bytes / 100)?.max(4) };
            let mut rates = Samples::default();
            for _ in 0..bench.effort.slow_rounds {
                rates.push(1e9 / each(live.windows(to, bytes, window, count).await?, count));
            }
            curve.push((window, rates.median()));
        }
        bench.curves.throughput.push((name, curve));
    }
    Ok(())
}

/// Compares with a process that does the same work: its time, divided by ours. Next to it, if
/// `bare` is given, reports the limit: the process's time divided by that of the bare call alone.
/// No runtime around the call can exceed this ratio.
async fn against(
    bench: &mut Bench,
    live: &Live,
    limit: Option<&Shared>,
    to: &Address,
    id: &'static str,
    who: &str,
    peer: Result<Peer>,
) -> Result<()> {
    let mut peer = match peer {
        Ok(peer) => peer,
        Err(error) => {
            bench.report.without(id, &format!("{error:#}"));
            return Ok(());
        }
    };
    let (mut worst, mut sides) = (Samples::default(), Vec::new());
    for (bytes, name) in BODIES {
        tell(&format!("round trips of {name}, compared with {who}"));
        let count = bench.effort.count(|count| live.trips(to, bytes, count)).await?;
        // The peer can be much slower, so it has its own number of trips per turn.
        let tried = if bench.effort.turn.is_zero() { 2 } else { 200 };
        peer.number(&format!("trip {bytes} {tried}"))?;
        let took = peer.number(&format!("trip {bytes} {tried}"))? / f64::from(tried);
        let turns = (bench.effort.turn.as_secs_f64() * 1e9 / took.max(1.0)).clamp(2.0, f64::from(count.max(2)));
        let turns = format!("{turns:.0}").parse::<u32>()?;
        let (mut ours, mut theirs, mut bare) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            if let Some(limit) = limit {
                let [trip, call] = live.trips_and_calls(limit, to, bytes, count).await?;
                ours.push(trip);
                bare.push(call);
            } else {
                ours.push(each(live.trips(to, bytes, count).await?, count));
            }
            theirs.push(each(peer.time(&format!("trip {bytes} {turns}"))?, turns));
        }
        let ratio = theirs.over(&ours);
        if worst.len() == 0 || ratio.median() < worst.median() {
            worst = ratio;
        }
        sides.push(Side::new(format!("{who}, {name}"), "ns", &theirs));
        sides.push(Side::new(format!("trip, {name}"), "ns", &ours));
        if limit.is_some() {
            sides.push(Side::new(format!("with the bare call alone it would be, {name}"), "ratio", &theirs.over(&bare)));
        }
    }
    bench.report.add(id, &worst, sides);
    Ok(())
}

async fn crossing(bench: &mut Bench, live: &Live, to: &Address) -> Result<()> {
    tell("requests from the program's own runtime");
    const BYTES: usize = BODIES[0].0;
    let count = bench.effort.count(|count| live.requests(to, BYTES, count, true)).await?;
    let (mut inside, mut crossing) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.rounds {
        inside.push(each(live.requests(to, BYTES, count, false).await?, count));
        crossing.push(each(live.requests(to, BYTES, count, true).await?, count));
    }
    let sides = vec![
        Side::new("request from the program's runtime", "ns", &crossing),
        Side::new("request from the library's runtime", "ns", &inside),
    ];
    bench.report.add(CROSSING, &crossing.minus(&inside).times(1e-3), sides);
    Ok(())
}
