//! Kills of the runtime and of servers, while clients send numbered messages.

mod clients;
mod control;
mod ledger;
mod program;
mod releases;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use protostub_artifacts::component;
use protostub_domain::DomainServer;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    clients::{Addresses, Life, Load, Shared},
    ledger::{Counts, Lane, Ledger},
    program::Program,
    releases::{Accepted, Releases},
};
use crate::mosquitto::{HOST, Mosquitto};

/// Share of the kills that come at a random time from the start of the process, whether the runtime
/// is up or not.
const EARLY: f64 = 0.4;
/// Longest time from the start of the process to an early kill.
const START: Duration = Duration::from_millis(2_000);
/// Longest time under load before a kill, and longest absence of a server.
const LOAD: Duration = Duration::from_millis(1_000);
/// Time limit for the log of the broker after its end.
const LOG: Duration = Duration::from_secs(30);

/// A number of kills of each kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Campaign {
    /// The random times of the kills follow from the seed.
    pub(crate) seed: u64,
    pub(crate) of_runtime: u32,
    pub(crate) of_each_server: u32,
}

impl Campaign {
    /// Returns a campaign that takes some seconds.
    pub(crate) fn quick(seed: u64) -> Self {
        Self { seed, of_runtime: 4, of_each_server: 2 }
    }
}

/// The outcome of a campaign.
pub(crate) struct Report {
    /// Each kind of kills, and the times from a restart until each lane had an answer.
    kills: Vec<(&'static str, Vec<Duration>, u32)>,
    lanes: Vec<(Lane, Counts)>,
    accepted: Accepted,
    answered_twice: u64,
    pub(crate) faults: Vec<String>,
}

impl Report {
    /// Returns `true` if messages of each lane were answered, and clients of the control socket saw
    /// the kills.
    fn is_complete(&self) -> bool {
        let is_closed = |lane: Lane, counts: &Counts| lane == Lane::FromNode || counts.closed > 0;
        self.lanes.iter().all(|(lane, counts)| counts.answered > 0 && is_closed(*lane, counts))
            && self.accepted.compared > 0
            && self.accepted.refused > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times, kills) in &self.kills {
            let longest = times.iter().max().copied().unwrap_or_default().as_secs_f64();
            writeln!(f, "{kills} kills of {what}: answers on each way after {longest:.1} s at most")?;
        }
        for (lane, counts) in &self.lanes {
            let Counts { messages, answered, closed, repeated, .. } = counts;
            write!(f, "{lane}: {messages} messages, {answered} answered, {closed} ended by a closed connection")?;
            for (code, times) in &counts.refused {
                write!(f, ", {times} with error {code}")?;
            }
            writeln!(f, ", {repeated} arrived again")?;
        }
        let Accepted { last, compared, refused } = self.accepted;
        writeln!(f, "{last} versions; {compared} processes kept the accepted one, and {refused} refused an older one")?;
        self.faults.iter().take(20).try_for_each(|fault| writeln!(f, "FAULT {fault}"))?;
        let kills: u32 = self.kills.iter().map(|(_, _, kills)| kills).sum();
        let sum = |of: fn(&Counts) -> u64| self.lanes.iter().map(|(_, counts)| of(counts)).sum::<u64>();
        write!(
            f,
            "{kills} kills, {} messages, {} without an outcome, {} answered twice, {} faults",
            sum(|counts| counts.messages),
            sum(|counts| counts.without_outcome),
            self.answered_twice,
            self.faults.len()
        )
    }
}

/// The parties of a campaign.
struct Parties {
    campaign: Campaign,
    /// The built command.
    protostub: PathBuf,
    folder: TempDir,
    shared: Shared,
    life: watch::Sender<Life>,
    random: StdRng,
    runtime: Option<Program>,
    node: Option<Program>,
    broker: Mosquitto,
    /// The catalogues of the broker's domain and of the releases.
    _catalogues: [DomainServer; 2],
}

/// Runs a campaign. `tell` gets a line about each part.
///
/// # Errors
/// Fails if a party does not start, or does not work again after a kill.
pub(crate) async fn run(campaign: Campaign, tell: impl Fn(&str)) -> Result<Report> {
    tell(&format!("seed {}", campaign.seed));
    let (log, lines) = mpsc::unbounded_channel();
    let folder = tempfile::tempdir()?;
    let releases = Releases::begin(&folder.path().join("releases"))?;
    let mut parties = Parties::begin(campaign, folder, log).await?;
    let arrivals = read_broker_log(lines, Arc::clone(&parties.shared.ledger));
    let load = Load::begin(&parties.shared).await?;
    let accepting = tokio::spawn(releases.run(parties.shared.clone()));
    let kills = parties.kill_all(&tell).await;
    if kills.is_err() {
        tell(&format!("the logs are in {}", parties.keep().display()));
    }
    let kills = kills?;

    parties.shared.stop.cancel();
    let unawaited = load.end().await?;
    let accepted = accepting.await??;
    let ledger = Arc::clone(&parties.shared.ledger);
    let mut faults = parties.end().await?;
    timeout(LOG, arrivals).await.context("the log of the broker does not end")??;
    let lanes: Vec<_> = Lane::ALL.into_iter().map(|lane| (lane, ledger.counts(lane))).collect();
    // A late answer to a request that ended with 408 is not a second outcome for its sender.
    let late = lanes.iter().find(|(lane, _)| *lane == Lane::FromNode).and_then(|(_, counts)| counts.refused.get(&408));
    let answered_twice = ledger.answered_twice() + unawaited.saturating_sub(late.copied().unwrap_or_default());
    if answered_twice > 0 {
        faults.push(format!("{answered_twice} messages were answered twice, {unawaited} of them elsewhere"));
    }
    faults.extend(ledger.faults());
    let mut report = Report { kills, lanes, accepted, answered_twice, faults };
    if !report.is_complete() {
        report.faults.push("the campaign has shown too little: see the counts above".to_owned());
    }
    Ok(report)
}

impl Parties {
    async fn begin(campaign: Campaign, folder: TempDir, log: mpsc::UnboundedSender<String>) -> Result<Self> {
        let broker = Mosquitto::start_logging(log).await?;
        let place = folder.path();
        // The name of the stub for `mqtt` addresses of a domain on this machine.
        let stub = place.join("broker/mqtt.127.0.0.1");
        write_stub(&stub, "mqtt", include_str!("../../../stubs/mqtt/descriptor.json"))?;
        let of_broker = DomainServer::builder().folder(place.join("broker")).start().await?;
        let releases = DomainServer::builder().folder(place.join("releases")).start().await?;
        let descriptor = include_str!("../../../stubs/message-node/descriptor.json");
        write_stub(&place.join("node/message-node"), "message-node", descriptor)?;
        let protostub = built_command()?;
        let (node, domain) = serve(&protostub, place, "127.0.0.1:0").await?;
        let addresses = Addresses {
            socket: place.join("control.sock"),
            node: domain,
            broker: of_broker.domain().to_string(),
            releases: releases.domain().to_string(),
        };
        let broker_port = broker.tcp;
        fs::write(
            place.join("protostub.toml"),
            format!(
                "home = '{}'\nsocket = 'control.sock'\n[network]\nallow-loopback = true\n[cache]\ndir = 'cache'\n\
                 [lifecycle]\ncompile-timeout-seconds = 300\n\
                 [domains.'{domain}']\ngrants = ['{HOST}:{broker_port} plain']\n\
                 [domains.'{domain}'.configuration]\nurl = 'mqtt://{HOST}:{broker_port}'\n",
                addresses.node,
                domain = addresses.broker,
            ),
        )?;
        let (life, seen) = watch::channel(Life::default());
        let shared = Shared {
            addresses: Arc::new(addresses),
            ledger: Arc::new(Ledger::new()),
            life: seen,
            stop: CancellationToken::new(),
        };
        Ok(Self {
            random: StdRng::seed_from_u64(campaign.seed),
            campaign,
            protostub,
            folder,
            shared,
            life,
            runtime: None,
            node: Some(node),
            broker,
            _catalogues: [of_broker, releases],
        })
    }

    async fn kill_all(&mut self, tell: &impl Fn(&str)) -> Result<Vec<(&'static str, Vec<Duration>, u32)>> {
        let Campaign { of_runtime, of_each_server, .. } = self.campaign;
        let mut all = Vec::new();
        tell(&format!("{of_runtime} kills of the runtime"));
        all.push(("the runtime", self.kill_runtimes().await?, of_runtime));
        tell(&format!("{of_each_server} kills of the broker"));
        let mut times = Vec::new();
        for _ in 0..of_each_server {
            self.under_load().await;
            self.broker.kill().await?;
            self.under_load().await;
            self.broker.resume().await?;
            times.push(self.recovered().await.context("after a kill of the broker")?);
        }
        all.push(("the broker", times, of_each_server));
        tell(&format!("{of_each_server} kills of the message node"));
        let mut times = Vec::new();
        for _ in 0..of_each_server {
            self.under_load().await;
            self.node.take().context("the message node is not running")?.kill().await?;
            self.under_load().await;
            let place = self.folder.path();
            let (node, _) = serve(&self.protostub, place, &self.shared.addresses.node).await?;
            self.node = Some(node);
            times.push(self.recovered().await.context("after a kill of the message node")?);
        }
        all.push(("the message node", times, of_each_server));
        Ok(all)
    }

    /// Waits for a random time. After that, errors have a reason.
    async fn under_load(&mut self) {
        sleep(self.random.random_range(Duration::ZERO..LOAD)).await;
        self.shared.ledger.disturb();
    }

    /// Waits for an answer on each lane after a restart. Returns the time.
    async fn recovered(&self) -> Result<Duration> {
        self.shared.ledger.disturb();
        let begin = Instant::now();
        self.shared.ledger.recovered().await?;
        Ok(begin.elapsed())
    }

    /// Kills the runtime again and again, and leaves one running that works.
    async fn kill_runtimes(&mut self) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for number in 0..self.campaign.of_runtime {
            // The first process has a version to accept before its end.
            if number > 0 && self.random.random_bool(EARLY) {
                let end = Instant::now() + self.random.random_range(Duration::ZERO..START);
                self.start_runtime()?;
                if let Ok(started) = tokio::time::timeout_at(end, self.runtime_is_up()).await {
                    started?;
                }
                sleep_until(end).await;
            } else {
                times.push(self.start_and_recover().await?);
                sleep(self.random.random_range(Duration::ZERO..LOAD)).await;
            }
            self.life.send_modify(|life| life.is_up = false);
            self.shared.ledger.disturb();
            self.runtime.take().context("the runtime is not running")?.kill().await?;
        }
        times.push(self.start_and_recover().await?);
        Ok(times)
    }

    fn start_runtime(&mut self) -> Result<()> {
        self.shared.ledger.disturb();
        self.life.send_modify(|life| life.number += 1);
        let (place, ledger) = (self.folder.path(), Arc::clone(&self.shared.ledger));
        let alice = self.shared.addresses.alice(self.life.borrow().number);
        let settings = place.join("protostub.toml");
        let settings = settings.to_str().context("the folder is not UTF-8")?;
        let args = ["run", "--config", settings, "--hyperty", &alice, "--register", "--answer", "\"here\""];
        let arrived = move |message: &Value| {
            let number = message["body"]["n"].as_u64().and_then(|number| usize::try_from(number).ok());
            ledger.arrived(number.unwrap_or(usize::MAX));
        };
        self.runtime = Some(Program::start(&self.protostub, &args, &place.join("run.log"), arrived)?);
        Ok(())
    }

    async fn runtime_is_up(&mut self) -> Result<()> {
        self.runtime.as_mut().context("the runtime is not running")?.event("started").await?;
        self.life.send_modify(|life| life.is_up = true);
        Ok(())
    }

    /// Starts the runtime on the cache of the killed one. Returns the time until it works.
    async fn start_and_recover(&mut self) -> Result<Duration> {
        let (begin, started) = (Instant::now(), SystemTime::now());
        self.start_runtime()?;
        self.runtime_is_up().await?;
        self.shared.ledger.recovered().await.context("after a kill of the runtime")?;
        let time = begin.elapsed();
        for file in partial_files(&self.folder.path().join("cache"))? {
            if fs::metadata(&file).and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified < started) {
                self.shared.ledger.fault(format!("a killed process left {}", file.display()));
            }
        }
        Ok(time)
    }

    /// Stops all parties. Returns the faults that only show now.
    async fn end(mut self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let status = self.runtime.take().context("the runtime is not running")?.stop().await?;
        if status.code().is_none() {
            faults.push(format!("the runtime ended with {status} after SIGTERM"));
        }
        self.node.take().context("the message node is not running")?.kill().await?;
        self.broker.kill().await?;
        let partial = partial_files(&self.folder.path().join("cache"))?;
        faults.extend(partial.iter().map(|file| format!("the last process left {}", file.display())));
        for log in ["run.log", "node.log"] {
            let log = fs::read_to_string(self.folder.path().join(log))?;
            faults.extend(log.lines().filter(|line| line.contains("panicked")).map(str::to_owned));
        }
        if !faults.is_empty() {
            faults.push(format!("the logs are in {}", self.keep().display()));
        }
        Ok(faults)
    }

    /// Keeps the folder of the campaign.
    fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

/// Returns the path of the command, which cargo puts next to the folder of tests and examples.
fn built_command() -> Result<PathBuf> {
    let this = env::current_exe()?;
    let command = this.ancestors().nth(2).context("the program is in no folder")?.join("protostub");
    let hint = || format!("{} is missing; run: cargo build --bins --examples", command.display());
    fs::metadata(&command).with_context(hint)?;
    Ok(command)
}

/// Notes each publication that the broker got.
fn read_broker_log(mut lines: mpsc::UnboundedReceiver<String>, ledger: Arc<Ledger>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            let number = line
                .split_once("Received PUBLISH from ")
                .and_then(|(_, publication)| publication.split_once("'orders/")?.1.split_once('\''))
                .and_then(|(number, _)| number.parse().ok());
            if let Some(number) = number {
                ledger.arrived(number);
            }
        }
    })
}

/// Writes a stub of a catalogue into this folder.
fn write_stub(folder: &Path, name: &str, descriptor: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut descriptor: Map<String, Value> = serde_json::from_str(descriptor)?;
    // The server adds the URL that fits the name of the folder.
    descriptor.remove("sourcePackageURL");
    fs::write(folder.join("descriptor.json"), serde_json::to_string(&descriptor)?)?;
    fs::write(folder.join("component.wasm"), component(name))?;
    Ok(())
}

/// Starts `protostub serve` with the message node. Returns its domain too.
async fn serve(protostub: &Path, place: &Path, bind: &str) -> Result<(Program, String)> {
    let folder = place.join("node");
    let args = ["serve", folder.to_str().context("the folder is not UTF-8")?, "--bind", bind];
    let mut node = Program::start(protostub, &args, &place.join("node.log"), |_| {})?;
    let serving = node.event("serving").await?;
    Ok((node, serving["domain"].as_str().context("a domain")?.to_owned()))
}

/// Returns the files below a folder that a writer has not completed.
fn partial_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().contains("partial") {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
