//! `cargo xtask torture`: every attack of `tests/hostile`, beside twenty well-behaved stubs under steady load.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod report;
mod round;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use hostile::{Attack, Stage, StageConfig};

use self::{report::Row, round::Round};

/// How many well-behaved stubs there are.
const NEIGHBOURS: usize = 20;

struct Options {
    runs: usize,
    /// Whether the neighbours' latency and the timers are judged: not on a machine that is busy otherwise.
    timed: bool,
    window: Duration,
    only: Option<String>,
    report: PathBuf,
}

impl Options {
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runs: 5,
            timed: true,
            window: Duration::from_secs(1),
            only: None,
            report: "target/torture/report.json".into(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` wants a value"));
            match arg.as_str() {
                "--quick" => (options.runs, options.timed) = (1, false),
                "--runs" => options.runs = value()?.parse().context("`--runs` wants a number")?,
                "--window" => options.window = Duration::from_millis(value()?.parse().context("`--window` wants milliseconds")?),
                "--only" => options.only = Some(value()?),
                "--report" => options.report = value()?.into(),
                unknown => bail!("`{unknown}` means nothing here"),
            }
        }
        if options.runs == 0 {
            bail!("`--runs` has to be one at least");
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let tortured = Options::parse(env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(torture(&options))
    });
    match tortured {
        // The compiler cannot be interrupted: what it is busy with ends with the process.
        Ok(escaped) => std::process::exit(i32::from(escaped > 0)),
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all of it; how many attacks escaped.
async fn torture(options: &Options) -> Result<usize> {
    let attacks: Vec<Attack> = hostile::all()
        .into_iter()
        .filter(|attack| options.only.as_ref().is_none_or(|only| attack.name.contains(only.as_str())))
        .map(|attack| attack.scaled(1_500))
        .collect();
    if attacks.is_empty() {
        bail!(
            "there is no such attack; there are {}",
            hostile::all().iter().map(|attack| attack.name).collect::<Vec<_>>().join(", ")
        );
    }
    let config = StageConfig { neighbours: NEIGHBOURS, compile_timeout: Duration::from_secs(5), ..StageConfig::default() };
    let stage = Stage::new(config).await?;
    stage.keep_code().await?;
    println!(
        "{} attacks beside {NEIGHBOURS} stubs, {} runs each, {:?} before and {:?} during\n",
        attacks.len(),
        options.runs,
        options.window,
        options.window
    );
    println!("{}", Row::HEAD);
    let mut rows = Vec::new();
    for attack in &attacks {
        let mut rounds = Vec::new();
        for _ in 0..options.runs {
            rounds.push(Round::run(&stage, attack, options.window).await?);
        }
        let row = Row::of(attack.name, &rounds, options.timed);
        println!("{row}");
        rows.push(row);
    }
    let escaped = rows.iter().filter(|row| !row.escapes.is_empty()).count();
    if let Some(folder) = options.report.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let json = report::json(&rows, options.runs, options.timed);
    fs::write(&options.report, json).with_context(|| format!("writing {}", options.report.display()))?;
    println!();
    for row in rows.iter().filter(|row| !row.escapes.is_empty()) {
        println!("{}: {}", row.name, row.escapes.join("; "));
    }
    println!("{} contained, {escaped} escaped", rows.len() - escaped);
    Ok(escaped)
}
