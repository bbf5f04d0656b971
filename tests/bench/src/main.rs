//! Measures Protostub against the limit and the alternatives. `cargo xtask bench` builds and runs
//! it; `BENCHMARKS.md` explains the figures.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal, and for the processes that it starts")]

mod bare;
mod count;
mod crowd;
mod domain;
mod gateway;
mod herd;
mod hops;
mod live;
mod machine;
mod peers;
mod plots;
mod processor;
mod report;
mod samples;
mod sandboxes;
mod sections;
mod subscribers;
mod workload;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use mimalloc::MiMalloc;

use crate::{
    machine::Machine,
    peers::Peer,
    plots::Curves,
    report::{FIGURES, Report, shown},
    samples::Effort,
    sections::Bench,
};

/// The allocator of the `protostub` command.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures Protostub against the limit and the alternatives.
#[derive(Debug, Parser)]
struct Args {
    /// Takes a few minutes, with fewer runs.
    #[arg(long)]
    quick: bool,
    /// Does everything once, to show that it works. The figures mean nothing.
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Measures these figures only.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    only: Vec<String>,
    /// Folder for `report.json`, the table and the plots.
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    out: PathBuf,
    /// The program of `tests/extism`.
    #[arg(long, value_name = "PROGRAM", requires = "plugin")]
    extism: Option<PathBuf>,
    /// The plugin of the Extism program.
    #[arg(long, value_name = "FILE", requires = "extism")]
    plugin: Option<PathBuf>,
    /// Runs as a process with many of these, and takes orders.
    #[arg(long, value_name = "KIND", hide = true)]
    crowd: Option<crowd::Kind>,
    /// Maximum number of members of the crowd.
    #[arg(long, default_value_t = 10_000, hide = true)]
    most: usize,
    /// Repeats this operation, and does nothing else: see `cargo xtask bench count`.
    #[arg(long, value_name = "WHAT", hide = true)]
    count: Option<count::What>,
    /// Number of repetitions.
    #[arg(long, default_value_t = 1_000, hide = true)]
    times: u32,
    /// Size of the bodies, in bytes.
    #[arg(long, default_value_t = 100, hide = true)]
    bytes: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Two threads, or one to count instructions without threads that look for work. They live as
    // long as the program.
    let workers = if args.count.is_some() { 1 } else { 2 };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    // The program's own runtime, from which it uses the library.
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    own.block_on(async {
        match (args.crowd, args.count) {
            (Some(kind), _) => crowd::run(kind, args.most).await,
            (_, Some(what)) => count::run(what, args.times, args.bytes, threads.handle()).await,
            _ => bench(args, threads.handle()).await,
        }
    })
}

async fn bench(args: Args, threads: &tokio::runtime::Handle) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|id| FIGURES.iter().all(|goal| goal.id != **id)) {
        bail!("unknown figure `{unknown}`; the figures are: {}", FIGURES.map(|goal| goal.id).join(", "));
    }
    let (effort, mode) = match (args.quick, args.smoke) {
        (true, _) => (Effort::QUICK, "quick"),
        (_, true) => (Effort::SMOKE, "smoke"),
        _ => (Effort::FULL, "full"),
    };
    let extism = args.extism.zip(args.plugin);
    let version = |peer: Result<Peer>| peer.and_then(|mut peer| peer.ask("version")).ok();
    let machine = Machine::here(mode, version(Peer::node()), version(Peer::extism(extism.as_ref())));
    let mut bench = Bench {
        effort,
        only: args.only.into_iter().collect(),
        extism,
        threads: threads.clone(),
        report: Report::new(machine),
        curves: Curves::default(),
    };
    bench.run().await?;
    bench.report.write(&args.out)?;
    bench.curves.draw(&args.out)?;
    for goal in FIGURES {
        let Some(figure) = bench.report.figures.get(goal.id) else { continue };
        let value = figure.value.map_or_else(|| "—".to_owned(), |value| shown(value, figure.unit));
        let met = if figure.met { "met  " } else { "short" };
        println!("{met} {:<24}{value:>12}   {:<9} {}", goal.id, goal.target, figure.note.as_deref().unwrap_or(goal.what));
    }
    let (met, short) = bench.report.verdict();
    println!("{met} met, {short} short");
    Ok(())
}
