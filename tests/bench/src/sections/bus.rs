//! The bus alone.

use anyhow::Result;

use super::{Bench, tell};
use crate::{
    hops::Hops,
    report::Side,
    samples::{Samples, each},
    workload::BODIES,
};

const VS_MPSC: &str = "bus_vs_mpsc";
const GROWTH: &str = "message_growth";

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    const BYTES: usize = BODIES[0].0;
    if bench.wants(VS_MPSC) {
        tell("the bus beside a channel");
        let mut hops = Hops::new(&bench.threads, 1, BYTES)?;
        let count = count(bench, &mut hops).await?;
        let (mut bus, mut channel) = (Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            bus.push(rate(each(hops.bus(count).await?, count)));
            channel.push(rate(each(hops.channel(count).await?, count)));
        }
        let sides = vec![Side::new("bus", "messages/s", &bus), Side::new("channel", "messages/s", &channel)];
        bench.report.add(VS_MPSC, &bus.over(&channel), sides);
    }
    if bench.wants(GROWTH) {
        let crowd = bench.effort.crowd;
        tell(&format!("the bus with {crowd} addresses"));
        let (mut alone, mut crowded) = (Hops::new(&bench.threads, 1, BYTES)?, Hops::new(&bench.threads, crowd, BYTES)?);
        let count = count(bench, &mut alone).await?;
        crowded.bus(count).await?;
        let (mut few, mut many) = (Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            few.push(each(alone.bus(count).await?, count));
            many.push(each(crowded.bus(count).await?, count));
        }
        let sides =
            vec![Side::new(format!("a message, {crowd} addresses"), "ns", &many), Side::new("a message, 1 address", "ns", &few)];
        bench.report.add(GROWTH, &many.over(&few), sides);
    }
    Ok(())
}

/// Returns the number of messages of one turn.
async fn count(bench: &Bench, hops: &mut Hops) -> Result<u32> {
    if bench.effort.turn.is_zero() {
        return Ok(2);
    }
    const TRIED: u32 = 20_000;
    hops.bus(TRIED).await?;
    let took = each(hops.bus(TRIED).await?, TRIED);
    let count = (bench.effort.turn.as_secs_f64() * 1e9 / took).clamp(1_000.0, 10_000_000.0);
    Ok(format!("{count:.0}").parse()?)
}

/// Converts nanoseconds per message to messages per second.
fn rate(nanoseconds: f64) -> f64 {
    1e9 / nanoseconds
}
