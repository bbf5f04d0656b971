//! Deployments, from an unserved domain to a live stub: all 22 steps, with a real catalogue on
//! loopback.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use protostub_artifacts::component;
use protostub_runtime::Runtime;
use protostub_sandbox::wasmtime::component::Component;

use super::{Bench, tell};
use crate::{
    bare::plain,
    domain::{Connection, Domain},
    live::{inside, limits},
    report::Side,
    samples::Samples,
    sandboxes::Stage,
};

const WARM: &str = "deploy_warm_ms";
const PARTS: &str = "deploy_warm_vs_parts";
const COLD: &str = "deploy_cold_vs_compile";

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.wants_any(&[WARM, PARTS, COLD]) {
        return Ok(());
    }
    let domain = Domain::serve(&bench.threads).await?;
    if bench.wants_any(&[WARM, PARTS]) {
        warm(bench, &domain).await?;
    }
    if bench.wants(COLD) {
        cold(bench, &domain).await?;
    }
    Ok(())
}

async fn runtime(cache: &Path) -> Result<Runtime> {
    let builder = Runtime::builder().home_domain("home.example").allow_loopback(true).limits(limits()).cache_dir(cache);
    Ok(builder.build().await?)
}

/// Measures the time until a stub is live, and undeploys it.
async fn deployed(runtime: &Runtime, target: &str) -> Result<Duration> {
    let begun = Instant::now();
    let stub = runtime.deploy_protostub(target).await?;
    let took = begun.elapsed();
    stub.undeploy().await?;
    Ok(took)
}

/// The parts of a deployment.
struct Parts {
    stage: Stage,
    connection: Connection,
}

/// Measures a deployment like a round trip, on the library's threads, where messages trigger
/// deployments. Waking these threads, and then the program's own, is not one of the 22 steps. The
/// parts follow in the same task: the descriptor, its code, a sandbox.
async fn whole_and_parts(runtime: &Arc<Runtime>, target: &str, mut parts: Parts) -> Result<(Parts, [Duration; 4])> {
    let (deploying, target) = (Arc::clone(runtime), target.to_owned());
    let work = async move {
        let whole = deployed(&deploying, &target).await?;
        let asked = parts.connection.descriptor().await?;
        let (stage, loaded) = parts.stage.load().await?;
        parts.stage = stage;
        let connected = parts.stage.connected().await?;
        Ok((parts, [whole, asked, loaded, connected]))
    };
    inside(runtime, work).await
}

/// Requests the descriptor each time. The compiled code is in memory, like all recently used code,
/// so the component is not read from the store.
async fn warm(bench: &mut Bench, domain: &Domain) -> Result<()> {
    tell("warm deployments");
    let folder = tempfile::tempdir()?;
    let runtime = Arc::new(runtime(folder.path()).await?);
    let target = domain.server.domain().as_str();
    let code = tempfile::tempdir()?;
    let stage = Stage::new(component("batched-echo"), Some(&code.path().join("compiled"))).await?;
    let connecting = domain.connect();
    let mut parts = inside(&runtime, async move { Ok(Parts { stage, connection: connecting.await? }) }).await?;
    let (mut whole, mut crossing) = (Samples::default(), Samples::default());
    let (mut descriptor, mut load, mut start) = (Samples::default(), Samples::default(), Samples::default());
    let rounds = bench.effort.rounds * if bench.effort.turn.is_zero() { 1 } else { 5 };
    // The first deployment is cold.
    for round in 0..=rounds {
        // The first of both measurements runs with colder caches, because the parts ran before. So
        // they take turns.
        let (took, crossed);
        if round % 2 == 0 {
            (parts, took) = whole_and_parts(&runtime, target, parts).await?;
            crossed = deployed(&runtime, target).await?;
        } else {
            crossed = deployed(&runtime, target).await?;
            (parts, took) = whole_and_parts(&runtime, target, parts).await?;
        }
        let [took, asked, loaded, connected] = took;
        if round > 0 {
            for (samples, took) in [
                (&mut whole, took),
                (&mut crossing, crossed),
                (&mut descriptor, asked),
                (&mut load, loaded),
                (&mut start, connected),
            ] {
                samples.push(milliseconds(took));
            }
        }
    }
    let parts = descriptor.plus(&load).plus(&start);
    let sides = vec![
        Side::new("22 steps", "ms", &whole),
        Side::new("the same, asked for from the program's own runtime", "ms", &crossing),
    ];
    if bench.wants(WARM) {
        bench.report.add(WARM, &whole, sides.clone());
    }
    if bench.wants(PARTS) {
        let parts_of_it = [
            Side::new("all parts", "ms", &parts),
            Side::new("the descriptor over HTTP", "ms", &descriptor),
            Side::new("its code from memory", "ms", &load),
            Side::new("a sandbox, started and connected", "ms", &start),
        ];
        bench.report.add(PARTS, &whole.over(&parts), sides.into_iter().chain(parts_of_it).collect());
    }
    Ok(())
}

async fn cold(bench: &mut Bench, domain: &Domain) -> Result<()> {
    tell("cold deployments");
    let component = component("batched-echo");
    let engine = Stage::new(component.clone(), None).await?.engine;
    let (mut whole, mut compile) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.slow_rounds {
        let folder = tempfile::tempdir()?;
        let runtime = runtime(folder.path()).await?;
        let begun = Instant::now();
        runtime.deploy_protostub(domain.server.domain().as_str()).await?;
        whole.push(milliseconds(begun.elapsed()));
        runtime.shutdown(Duration::from_secs(5)).await;
        let begun = Instant::now();
        drop(std::hint::black_box(Component::new(&engine, &component).map_err(plain)?));
        compile.push(milliseconds(begun.elapsed()));
    }
    let sides = vec![Side::new("22 steps, nothing cached", "ms", &whole), Side::new("`Component::new`", "ms", &compile)];
    bench.report.add(COLD, &whole.over(&compile), sides);
    Ok(())
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
