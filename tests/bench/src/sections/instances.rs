//! The time to make an instance.

use std::time::{Duration, Instant};

use anyhow::Result;
use protostub_artifacts::component;

use super::{Bench, tell};
use crate::{
    bare::Bare,
    processor::OneProcessor,
    report::Side,
    samples::{Samples, each},
    sandboxes::Stage,
};

const VS_BARE: &str = "instantiate_vs_bare";
const VS_EXTISM: &str = "instantiate_vs_extism";

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.wants_any(&[VS_BARE, VS_EXTISM]) {
        return Ok(());
    }
    let component = component("batched-echo");
    let stage = Stage::new(component.clone(), None).await?;
    let bare = Bare::new(&stage.engine, &component)?;
    let count = bench.effort.count(|count| stage.instances(count)).await?;
    if bench.wants(VS_BARE) {
        tell("instances beside bare ones");
        let (mut ours, mut limit, mut made) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            ours.push(each(stage.instances(count).await?, count));
            limit.push(each(instances(&bare, count, true).await?, count));
            made.push(each(instances(&bare, count, false).await?, count));
        }
        let sides = vec![
            Side::new("sandbox with a started instance", "ns", &ours),
            Side::new("bare store with a started instance", "ns", &limit),
            Side::new("of that, without the call of `start`", "ns", &made),
        ];
        bench.report.add(VS_BARE, &ours.over(&limit), sides);
    }
    if bench.wants(VS_EXTISM) {
        tell("instances beside Extism's");
        match bench.extism() {
            Ok(mut peer) => {
                let _held = OneProcessor::with(&peer);
                let theirs_count = (count / 8).max(2);
                let (mut ours, mut theirs) = (Samples::default(), Samples::default());
                for _ in 0..bench.effort.rounds {
                    ours.push(each(stage.instances(count).await?, count));
                    theirs.push(each(peer.time(&format!("instantiate {theirs_count}"))?, theirs_count));
                }
                let sides = vec![
                    Side::new("Extism, `Plugin::new_from_compiled`", "ns", &theirs),
                    Side::new("sandbox with a started instance", "ns", &ours),
                ];
                bench.report.add(VS_EXTISM, &theirs.over(&ours), sides);
            }
            Err(error) => bench.report.without(VS_EXTISM, &format!("{error:#}")),
        }
    }
    Ok(())
}

/// Measures the time to make `count` bare instances. Their end is not counted.
async fn instances(bare: &Bare, count: u32, start: bool) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for _ in 0..count {
        let begun = Instant::now();
        let instance = if start { bare.started().await? } else { bare.instantiate().await? };
        took += begun.elapsed();
        drop(instance);
    }
    Ok(took)
}
