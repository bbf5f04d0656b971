//! `cargo xtask torture`: every attack of `tests/hostile`, next to twenty well-behaved stubs under
//! steady load, and every hostile environment.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod report;
mod round;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use hostile::{Child, Environment, Outcome, Scale, Selection, Stage, StageConfig};

use self::{
    report::{EnvironmentRow, Row},
    round::Round,
};

/// Number of well-behaved stubs.
const NEIGHBOURS: usize = 20;
/// The number of domains in a hostile environment.
const DOMAINS: usize = 20;

struct Options {
    runs: usize,
    /// `true` if the neighbours' latency and the timers are judged. `false` on a machine with other
    /// load.
    timed: bool,
    window: Duration,
    only: Selection,
    report: PathBuf,
}

impl Options {
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runs: 5,
            timed: true,
            window: Duration::from_secs(1),
            only: Selection::default(),
            report: "target/torture/report.json".into(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--quick" => (options.runs, options.timed) = (1, false),
                "--runs" => options.runs = value()?.parse().context("`--runs` needs a number")?,
                "--window" => options.window = Duration::from_millis(value()?.parse().context("`--window` needs milliseconds")?),
                "--only" => options.only = Selection::parse(&value()?).map_err(anyhow::Error::msg)?,
                "--report" => options.report = value()?.into(),
                unknown => bail!("unknown argument `{unknown}`; see `cargo xtask torture --help`"),
            }
        }
        if options.runs == 0 {
            bail!("`--runs` must be at least 1");
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let tortured = Options::parse(env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        match Child::here() {
            Some(child) => runtime.block_on(child.act()).map(|()| 0),
            None => runtime.block_on(torture(&options)),
        }
    });
    match tortured {
        // The compiler cannot be interrupted. A compilation in progress ends with the process.
        Ok(escaped) => std::process::exit(i32::from(escaped > 0)),
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all attacks and environments, and returns the number of escapes.
async fn torture(options: &Options) -> Result<usize> {
    let rows = attacks(options).await?;
    let environments = environments(&options.only.environments()).await?;
    let escaped: Vec<_> = rows.iter().map(|row| (row.name, &row.escapes)).collect();
    let escaped = escaped.into_iter().chain(environments.iter().map(|row| (row.name, &row.escapes)));
    let escaped: Vec<_> = escaped.filter(|(_, escapes)| !escapes.is_empty()).collect();
    let judged = rows.len() + environments.iter().filter(|row| row.skipped.is_none()).count();
    if let Some(folder) = options.report.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let contained = judged - escaped.len();
    let json = report::json(&rows, &environments, (contained, escaped.len()), options.runs, options.timed);
    fs::write(&options.report, json).with_context(|| format!("writing {}", options.report.display()))?;
    println!();
    for (name, escapes) in &escaped {
        println!("{name}: {}", escapes.join("; "));
    }
    println!("{contained} contained, {} escaped", escaped.len());
    Ok(escaped.len())
}

async fn attacks(options: &Options) -> Result<Vec<Row>> {
    let attacks: Vec<_> = options.only.attacks().into_iter().map(|attack| attack.scaled(1_500)).collect();
    let mut rows = Vec::new();
    if attacks.is_empty() {
        return Ok(rows);
    }
    let config = StageConfig { neighbours: NEIGHBOURS, compile_timeout: Duration::from_secs(5), ..StageConfig::default() };
    let stage = Stage::new(config).await?;
    stage.keep_code().await?;
    println!(
        "{} attacks next to {NEIGHBOURS} stubs, {} runs each, {:?} before and {:?} during\n",
        attacks.len(),
        options.runs,
        options.window,
        options.window
    );
    println!("{}", Row::HEAD);
    for attack in &attacks {
        let mut rounds = Vec::new();
        for _ in 0..options.runs {
            rounds.push(Round::run(&stage, attack, options.window).await?);
        }
        let row = Row::of(attack.name, &rounds, options.timed);
        println!("{row}");
        rows.push(row);
    }
    Ok(rows)
}

/// Runs each environment once: their verdicts do not depend on timing.
async fn environments(environments: &[Environment]) -> Result<Vec<EnvironmentRow>> {
    let mut rows = Vec::new();
    if environments.is_empty() {
        return Ok(rows);
    }
    println!("\n{} hostile environments, with {DOMAINS} domains, next to {NEIGHBOURS} stubs\n", environments.len());
    println!("{}", EnvironmentRow::HEAD);
    // All environments share the compiled code.
    let code = tempfile::tempdir()?;
    let scale = Scale { domains: DOMAINS, neighbours: NEIGHBOURS, code_dir: Some(code.path().join("code")) };
    for environment in environments {
        let folder = tempfile::tempdir()?;
        let row = match environment.run(&[], &scale, folder.path()).await? {
            Outcome::Judged(verdict) => EnvironmentRow::judged(environment.name, verdict),
            Outcome::Skipped(reason) => EnvironmentRow::skipped(environment.name, reason),
        };
        println!("{row}");
        rows.push(row);
    }
    Ok(rows)
}
