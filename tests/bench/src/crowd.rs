//! A process with many stubs, or many bare stores, which makes their memory and computing time
//! measurable alone. The processes of one kind take turns: `bench --crowd stubs` reads one order
//! per line.

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    mem,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use protostub_artifacts::component;
use protostub_bus::DEFAULT_QUEUED_BYTES;
use protostub_runtime::{Address, Hyperty, Message, Protostub, Runtime};
use serde_json::json;

use crate::{
    bare::{Bare, Instance},
    herd,
    live::{Everywhere, Probe, builder, inside},
    samples::Samples,
    workload::{BODIES, FROM, Text, message},
};

/// Number of concurrent deployments.
const AT_A_TIME: usize = 16;

/// Content of a crowd.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Live stubs in a runtime.
    Stubs,
    /// Live stubs in a runtime that read no messages.
    Asleep,
    /// Stores of the same component, on the same engine, with nothing around them.
    Bare,
}

/// Follows orders until its input ends.
///
/// | order | answer |
/// | --- | --- |
/// | `grow <to>` | resident bytes with `to` members: `Rss`, and `Pss` (counts shared pages once) |
/// | `busy <of> <times>` | p99 and median of round trips of `of` concurrent listeners, in ns |
/// | `idle <ms>` | computing time of the process meanwhile, in ns |
/// | `deploy <times>` | median time of one more deployment, each undone again, in ns |
/// | `herd <of>` | p90 of requests alone and during `of` deployments, and their time, in ns |
/// | `flood` | resident bytes of as many messages as wait for the stubs, and their limit |
///
/// Each busy listener has its own stub.
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
    /// Listeners that exchange messages with the stubs.
    listeners: Vec<Hyperty>,
}

impl Crowd {
    async fn new(kind: Kind, most: usize) -> Result<Self> {
        let probe = Probe::default();
        // One more than `most`, for `deploy`.
        let source = match kind {
            Kind::Asleep => Everywhere::new(component("actor"), serde_json::Map::new())?,
            Kind::Stubs | Kind::Bare => Everywhere::echo()?,
        };
        let runtime = probe.install(builder(source))?.max_stubs(most + 1).build().await?;
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
            ["herd", of] => self.herd(of.parse()?).await,
            ["flood"] => self.flood().await,
            _ => bail!("unknown order; the orders are grow, busy, idle, deploy, herd, flood"),
        }
    }

    fn len(&self) -> usize {
        self.stubs.len().max(self.instances.len())
    }

    async fn grow(&mut self, to: usize) -> Result<()> {
        let (had, kind) = (self.len(), self.kind);
        match kind {
            Kind::Stubs | Kind::Asleep => {
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

    /// Runs `of` listeners, each with a stub of its own, spread over all stubs. Each listener waits
    /// for its echo before it posts again.
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

    async fn herd(&self, of: usize) -> Result<String> {
        let had = self.stubs.len();
        let domains: Vec<_> = (had..had + of).map(domain).collect();
        let [before, meanwhile, took] = herd::run(&self.runtime, &domain(0), &domains).await?;
        Ok(format!("{before:.0} {meanwhile:.0} {took:.0}"))
    }

    /// Fills the inboxes of all stubs, which pause first, until no sender may post another message.
    async fn flood(&self) -> Result<String> {
        const SENDERS: usize = 16;
        let mut senders = Vec::new();
        for nth in 0..SENDERS {
            senders.push(self.runtime.register_hyperty(format!("{FROM}/{nth}")).await?);
        }
        let alice = |nth| Address::parse(&format!("hyperty://{}/alice", domain(nth)));
        let to = (0..self.stubs.len()).map(alice).collect::<Result<Vec<_>, _>>()?;
        for to in &to {
            let pause = Message::read(to.clone()).with_body(json!({ "do": "pause" }));
            let response = senders[0].request(pause).await?;
            ensure!(response.code() == Some(200), "the stub answers {response:?}");
        }
        let (before, _) = resident()?;
        let text = Text::from(BODIES[2].0);
        let mut is_full = false;
        while !mem::replace(&mut is_full, true) {
            for (to, sender) in to.iter().flat_map(|to| senders.iter().map(move |sender| (to, sender))) {
                is_full &= sender.post(message(sender.address(), to, text.clone())).is_err();
            }
        }
        Ok(format!("{} {DEFAULT_QUEUED_BYTES}", resident()?.0.saturating_sub(before)))
    }
}

fn domain(nth: usize) -> String {
    format!("sp{nth}.example")
}

async fn idle(time: Duration) -> Result<String> {
    // Pending work ends before the measurement.
    tokio::time::sleep(time / 5).await;
    let before = computed()?;
    tokio::time::sleep(time).await;
    Ok((computed()? - before).to_string())
}

/// Returns the computing time of all threads of this process, in nanoseconds.
fn computed() -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task").context("reading /proc/self/task")? {
        let file = thread?.path().join("schedstat");
        // The thread may have exited meanwhile.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().with_context(|| format!("{} has {text:?}", file.display()))?;
    }
    Ok(sum)
}

/// Returns the resident memory of this process in bytes, as `Rss` and `Pss`. `Rss` counts a shared
/// page as often as it is mapped, `Pss` once.
fn resident() -> Result<(usize, usize)> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").context("reading /proc/self/smaps_rollup")?;
    let bytes = |name: &str| {
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("/proc/self/smaps_rollup has no `{name}`"))?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
    };
    Ok((bytes("Rss:")?, bytes("Pss:")?))
}
