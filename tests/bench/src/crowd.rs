//! A process with many stubs, or many bare stores, so that its memory and its computing time are theirs. It takes turns with the others of its
//! kind: `bench --crowd stubs`, and an order a line.

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use protostub_artifacts::component;
use protostub_runtime::{Address, Hyperty, Protostub, Runtime};

use crate::{
    bare::{Bare, Instance},
    live::{Everywhere, Probe, builder, inside},
    samples::Samples,
    workload::{BODIES, FROM, message},
};

/// How many deployments go on at a time.
const AT_A_TIME: usize = 16;

/// What a crowd is of.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Live stubs in a runtime.
    Stubs,
    /// Stores of the same component, on the same engine, with nothing around them.
    Bare,
}

/// Follows orders until there are no more.
///
/// | order | answer |
/// | --- | --- |
/// | `grow <to>` | bytes of resident memory of the process, with so many; and with each page counted once that several of them share |
/// | `busy <of> <times>` | the 99th percentile and the median of the round trips of as many listeners at once, each with a stub of its own, in ns |
/// | `idle <ms>` | computing time of the process meanwhile, in ns |
/// | `deploy <times>` | the median time of one more deployment, each undone again, in ns |
pub(crate) async fn run(kind: Kind, most: usize) -> Result<()> {
    let mut crowd = Crowd::new(kind, most).await?;
    say("ready")?;
    for line in io::stdin().lock().lines() {
        match crowd.follow(&line?).await {
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

struct Crowd {
    kind: Kind,
    runtime: Runtime,
    bare: Bare,
    stubs: Vec<Protostub>,
    instances: Vec<Instance>,
    /// Who talks to the stubs.
    listeners: Vec<Hyperty>,
}

impl Crowd {
    async fn new(kind: Kind, most: usize) -> Result<Self> {
        let probe = Probe::default();
        // One more than there will be: see `deploy`.
        let runtime = probe.install(builder(Everywhere::echo()?))?.max_stubs(most + 1).build().await?;
        let bare = Bare::new(&probe.engine()?, &component("batched-echo"))?;
        Ok(Self { kind, runtime, bare, stubs: Vec::new(), instances: Vec::new(), listeners: Vec::new() })
    }

    async fn follow(&mut self, order: &str) -> Result<String> {
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            ["grow", to] => {
                self.grow(to.parse()?).await?;
                let (resident, proportional) = resident()?;
                Ok(format!("{resident} {proportional}"))
            }
            ["busy", of, times] => self.busy(of.parse()?, times.parse()?).await,
            ["idle", milliseconds] => idle(Duration::from_millis(milliseconds.parse()?)).await,
            ["deploy", times] => self.deploy(times.parse()?).await,
            _ => bail!("it is none of grow, busy, idle, deploy"),
        }
    }

    fn len(&self) -> usize {
        self.stubs.len().max(self.instances.len())
    }

    async fn grow(&mut self, to: usize) -> Result<()> {
        let (had, kind) = (self.len(), self.kind);
        match kind {
            Kind::Stubs => {
                let deployments = (had..to).map(|nth| {
                    let runtime = &self.runtime;
                    async move { runtime.deploy_protostub(&domain(nth)).await.with_context(|| format!("stub {nth}")) }
                });
                let deployed: Vec<_> = stream::iter(deployments).buffered(AT_A_TIME).try_collect().await?;
                self.stubs.extend(deployed);
            }
            Kind::Bare => {
                for nth in had..to {
                    self.instances.push(self.bare.live().await.with_context(|| format!("store {nth}"))?);
                }
            }
        }
        Ok(())
    }

    /// As many listeners as stubs that are to be busy, spread over all that there are; each waits for its echo before it posts again.
    async fn busy(&mut self, of: usize, times: usize) -> Result<String> {
        while self.listeners.len() < of {
            let address = format!("{FROM}/{}", self.listeners.len());
            self.listeners.push(self.runtime.register_hyperty(address).await?);
        }
        let step = self.stubs.len() / of.max(1);
        let mut running = Vec::new();
        for (nth, mut listener) in self.listeners.drain(..).enumerate() {
            let to = Address::parse(&format!("hyperty://{}/alice", domain(nth * step)))?;
            running.push(inside(&self.runtime, async move {
                let message = message(listener.address(), &to, BODIES[0].0);
                let mut took = Vec::with_capacity(times);
                for _ in 0..times {
                    let begun = Instant::now();
                    listener.post(message.clone())?;
                    listener.recv().await.context("the runtime ended")?;
                    took.push(begun.elapsed().as_secs_f64() * 1e9);
                }
                Ok((listener, took))
            }));
        }
        let mut all = Vec::new();
        for ended in futures_util::future::join_all(running).await {
            let (listener, took) = ended?;
            self.listeners.push(listener);
            all.extend(took);
        }
        let all: Samples = all.into_iter().collect();
        Ok(format!("{:.0} {:.0}", all.quantile(0.99), all.median()))
    }

    async fn deploy(&mut self, times: usize) -> Result<String> {
        let mut took = Samples::default();
        for _ in 0..times {
            let begun = Instant::now();
            let stub = self.runtime.deploy_protostub(&domain(usize::MAX)).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e9);
            stub.undeploy().await?;
        }
        Ok(format!("{:.0}", took.median()))
    }
}

fn domain(nth: usize) -> String {
    format!("sp{nth}.example")
}

async fn idle(time: Duration) -> Result<String> {
    // What was begun ends first.
    tokio::time::sleep(time / 5).await;
    let before = computed()?;
    tokio::time::sleep(time).await;
    Ok((computed()? - before).to_string())
}

/// The computing time of all threads of this process, in nanoseconds.
fn computed() -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task").context("reading /proc/self/task")? {
        let file = thread?.path().join("schedstat");
        // A thread may have ended meanwhile.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().with_context(|| format!("{} has {text:?}", file.display()))?;
    }
    Ok(sum)
}

/// The memory of this process that is there, in bytes: as often as it is mapped (`Rss`), and once (`Pss`).
fn resident() -> Result<(usize, usize)> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").context("reading /proc/self/smaps_rollup")?;
    let bytes = |name: &str| {
        let line =
            rollup.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("there is no `{name}` in it"))?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
    };
    Ok((bytes("Rss:")?, bytes("Pss:")?))
}
