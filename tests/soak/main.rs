//! `cargo xtask soak`: load on well-behaved stubs, while stubs next to them attack and are ended,
//! and a server goes down and comes back. Resource use must not grow.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod node;
mod samples;
mod served;

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use hostile::{Attack, Load, Selection, Stage, StageConfig};
use protostub_runtime::Runtime;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{node::Outages, samples::Samples, served::Served};

/// Number of well-behaved stubs.
const NEIGHBOURS: usize = 20;
/// The number of attackers at a time, without `--only`.
const ATTACKERS: usize = 2;
/// Period of the resource measurements.
const PERIOD: Duration = Duration::from_secs(1);
/// The time before the attacks in which the neighbours are measured.
const QUIET: Duration = Duration::from_secs(5);
/// Longer than the time limit of any request.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Attacks that take long and show nothing that the others do not.
const LEFT_OUT: [&str; 3] = ["server_dribbles_descriptor", "sleeps", "takes_minutes_to_compile"];

struct Options {
    time: Duration,
    /// The attacks that run all at once, instead of a few at random.
    together: Option<Selection>,
    report: PathBuf,
}

impl Options {
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Self { time: Duration::from_secs(20 * 60), together: None, report: "target/soak/report.json".into() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--minutes" => {
                    let minutes: f64 = value()?.parse().context("`--minutes` needs a number")?;
                    options.time =
                        Duration::try_from_secs_f64(minutes * 60.0).context("`--minutes` needs a time that is not negative")?;
                }
                "--only" => options.together = Some(Selection::parse(&value()?).map_err(anyhow::Error::msg)?),
                "--report" => options.report = value()?.into(),
                unknown => bail!("unknown argument `{unknown}`; see `cargo xtask soak --help`"),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let soaked = Options::parse(env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(soak(&options))
    });
    match soaked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the test. Returns `true` if no resource grew and no message was lost.
async fn soak(options: &Options) -> Result<bool> {
    let mut config = StageConfig { neighbours: NEIGHBOURS, ..StageConfig::default() };
    // A shorter limit lets more attacks end within the same time.
    config.limits.cpu_per_call = Duration::from_millis(500);
    let stage = Arc::new(Stage::new(config).await?);
    stage.keep_code().await?;
    let outages = Outages::begin(stage.runtime()).await?;
    let load = Load::begin(stage.runtime(), stage.neighbours()).await?;
    sleep(PERIOD).await;
    let _warm = load.take();
    sleep(QUIET).await;
    let mut served = Served::after(load.take());
    let stop = CancellationToken::new();
    let mut attackers = JoinSet::new();
    let groups = groups(options.together.as_ref())?;
    let names: Vec<_> = groups.iter().flatten().map(|attack| attack.name).collect();
    println!(
        "{NEIGHBOURS} stubs under load, {} attackers at a time, a server that goes down and comes back; for {:?}",
        groups.len(),
        options.time
    );
    let attacks_made = json!(names.iter().collect::<BTreeSet<_>>());
    for group in groups {
        attackers.spawn(attack_at_random(Arc::clone(&stage), group, stop.clone()));
    }

    let mut samples = Samples::default();
    let begin = Instant::now();
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    while begin.elapsed() < options.time {
        clock.tick().await;
        served.add(load.take());
        let sample = samples.take(stage.runtime()).await;
        if begin.elapsed().as_secs() / 60 > told {
            told = begin.elapsed().as_secs() / 60;
            println!("after {told} min: {sample}; neighbours' latency {}", served.end_minute());
        }
    }
    stop.cancel();
    let (mut attacks, mut escapes) = (0_u64, Vec::new());
    while let Some(ended) = attackers.join_next().await {
        let (times, escaped) = ended?;
        attacks += times;
        escapes.extend(escaped);
    }
    let outages = outages.end().await?;
    let mut sum = load.end().await;
    served.add(std::mem::take(&mut sum.answers));
    if let Err(harmed) = stage.neighbours().check() {
        escapes.push(harmed.to_string());
    }
    if sum.lost > 0 {
        escapes.push(format!("{} requests to neighbours were lost: {}", sum.lost, sum.fault.unwrap_or_default()));
    }
    if outages.without_outcome > 0 {
        escapes.push(format!("{} requests through the message node had no outcome", outages.without_outcome));
    }
    if !outages.recovered {
        escapes.push("no request through the message node was answered after the last outage".to_owned());
    }
    let open = outages.open + owed(stage.runtime()).await;
    if open > 0 {
        escapes.push(format!("{open} accepted requests have no outcome"));
    }
    escapes.extend(served.fault());
    let verdict = samples.verdict();
    escapes.extend(verdict.growing.iter().cloned());
    if let Some(folder) = options.report.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let report = json!({
        "minutes": options.time.as_secs_f64() / 60.0,
        "requests": sum.asked,
        "lost": sum.lost,
        "latencies": served.json(),
        "attacks": attacks,
        "attacksMade": attacks_made,
        "outages": { "times": outages.times, "answered": outages.answered, "toldOtherwise": outages.told, "recovered": outages.recovered },
        "withoutOutcome": outages.without_outcome + open,
        "resources": verdict.json,
        "faults": escapes,
    });
    fs::write(&options.report, format!("{report:#}\n")).with_context(|| format!("writing {}", options.report.display()))?;
    for escape in &escapes {
        println!("{escape}");
    }
    let told: String = outages.told.iter().map(|(code, times)| format!(", {times} with error {code}")).collect();
    println!("{} requests, {attacks} attacks; {} outages: {} answered{told}", sum.asked, outages.times, outages.answered);
    println!("neighbours' latency {served}");
    println!("{}: {}", if escapes.is_empty() { "flat" } else { "NOT FLAT" }, verdict.text);
    Ok(escapes.is_empty())
}

/// Returns the number of requests without an outcome. Waits, after the last request, for at most
/// the time limit of a request.
async fn owed(runtime: &Runtime) -> u64 {
    let end = Instant::now() + REQUEST_TIME;
    while runtime.counts().open > 0 && Instant::now() < end {
        sleep(PERIOD).await;
    }
    runtime.counts().open
}

/// Returns the attacks of each attacker: one each with `--only`, otherwise all.
fn groups(together: Option<&Selection>) -> Result<Vec<Vec<Attack>>> {
    let Some(together) = together else {
        let attacks: Vec<_> = hostile::all().into_iter().filter(|attack| !LEFT_OUT.contains(&attack.name)).collect();
        return Ok(vec![attacks; ATTACKERS]);
    };
    let attacks = together.attacks();
    ensure!(!attacks.is_empty(), "`--only` selects no attack; `cargo xtask soak` does not run environments");
    Ok(attacks.into_iter().map(|attack| vec![attack]).collect())
}

/// Runs attacks of this list at random, each in a domain of its own. Returns their number and the
/// escapes.
async fn attack_at_random(stage: Arc<Stage>, attacks: Vec<Attack>, stop: CancellationToken) -> (u64, Vec<String>) {
    let (mut times, mut escapes) = (0, Vec::new());
    while !stop.is_cancelled() {
        let attack = &attacks[rand::random_range(0..attacks.len())];
        if let Err(escaped) = stage.attack(attack).await {
            println!("{}: {escaped}", attack.name);
            // Reports repeated escapes once.
            let escape = format!("{}: {escaped}", attack.name);
            if !escapes.contains(&escape) {
                escapes.push(escape);
            }
        }
        times += 1;
    }
    (times, escapes)
}
