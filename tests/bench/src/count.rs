//! Repeats one operation and does nothing else, for a tool that counts instructions. `cargo xtask
//! bench count` runs this with two numbers of repetitions. The difference of the counts belongs to
//! the additional repetitions.

use anyhow::Result;
use protostub_artifacts::component;
use protostub_types::Address;
use tokio::runtime::Handle;

use crate::{
    bare::Bare,
    hops::{Hops, Native},
    live::Live,
    sandboxes::Stage,
};

/// The operation to count.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum What {
    /// Bus, stub, bus, one at a time.
    Trip,
    /// Bus, stub, bus, with many messages in flight.
    Load,
    /// The bare call.
    Bare,
    /// The bare call, with a batch of messages. The number of repetitions counts messages.
    BareBatch,
    /// Bus, native task, bus.
    Native,
    /// From one listener to another, over the bus.
    Hop,
    /// A sandbox with a started instance.
    Instance,
    /// A bare store with a started instance.
    BareInstance,
}

pub(crate) async fn run(what: What, times: u32, bytes: usize, threads: &Handle) -> Result<()> {
    const BATCH: u32 = 64;
    let to = Address::parse("hyperty://sp1.example/alice")?;
    let bare = async || -> Result<Bare> { Bare::new(&Stage::small().await?.engine, &component("batched-echo")) };
    match what {
        What::Trip => drop(Live::small().await?.trips(&to, bytes, times).await?),
        What::Load => drop(Live::small().await?.load(&to, bytes, times).await?),
        What::Bare => drop(bare().await?.live().await?.calls(bytes, 1, times).await?),
        What::BareBatch => drop(bare().await?.live().await?.calls(bytes, BATCH as usize, times / BATCH).await?),
        What::Native => drop(Native::new(threads)?.trips(bytes, times).await?),
        What::Hop => drop(Hops::new(threads, 1, bytes)?.bus(times).await?),
        What::Instance => drop(Stage::small().await?.instances(times).await?),
        What::BareInstance => {
            let bare = bare().await?;
            for _ in 0..times {
                drop(bare.started().await?);
            }
        }
    }
    Ok(())
}
