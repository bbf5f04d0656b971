//! `cargo xtask kills`: the runtime and its servers are killed again and again, while clients send
//! numbered messages.
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

mod campaign;
#[path = "../it/mosquitto.rs"]
mod mosquitto;

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::campaign::Campaign;

fn parse(args: impl IntoIterator<Item = String>) -> Result<Campaign> {
    let mut campaign = Campaign { seed: rand::random(), of_runtime: 50, of_each_server: 20 };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
        match arg.as_str() {
            "--quick" => campaign = Campaign::quick(campaign.seed),
            "--seed" => campaign.seed = value()?.parse().context("`--seed` needs a number")?,
            unknown => bail!("unknown argument `{unknown}`; see `cargo xtask kills --help`"),
        }
    }
    Ok(campaign)
}

fn main() -> ExitCode {
    let report = parse(env::args().skip(1)).and_then(|campaign| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(campaign::run(campaign, |line| println!("{line}")))
    });
    match report {
        Ok(report) => {
            println!("{report}");
            if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
