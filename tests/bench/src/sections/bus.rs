//! The bus alone.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, tell};
use crate::{
    hops::Hops,
    report::Side,
    samples::{Samples, each},
    subscribers::Subscribers,
    workload::BODIES,
};

const VS_MPSC: &str = "bus_vs_mpsc";
const GROWTH: &str = "message_growth";
const SUBSCRIBE: &str = "subscribe_growth";

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
    if bench.wants(SUBSCRIBE) {
        subscribe(bench).await?;
    }
    Ok(())
}

async fn subscribe(bench: &mut Bench) -> Result<()> {
    /// Number of times that the few subscribe while the many do once.
    const TIMES: u32 = 20;
    let many = bench.effort.crowd * 5;
    let few = many / 100;
    tell(&format!("{many} subscribers of one topic"));
    let (few_subscribers, many_subscribers) = (Subscribers::new(few).await?, Subscribers::new(many).await?);
    let (mut of_few, mut of_many) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.slow_rounds {
        let mut took = Duration::ZERO;
        for _ in 0..TIMES {
            took += few_subscribers.subscribe().await?;
        }
        of_few.push(each(took, u32::try_from(few)? * TIMES));
        of_many.push(each(many_subscribers.subscribe().await?, u32::try_from(many)?));
    }
    let sides = vec![
        Side::new(format!("a subscription, {many} subscribers"), "ns", &of_many),
        Side::new(format!("a subscription, {few} subscribers"), "ns", &of_few),
    ];
    bench.report.add(SUBSCRIBE, &of_many.over(&of_few), sides);
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
