//! The `protostub` command: a domain server, and runtimes for trying things out.
//!
//! * [`serve`]: a domain, on this machine
//! * [`inspect`]: what a component, or a domain's stub, is
//! * [`send`]: one message, and its reply
//! * [`run`]: a runtime, until it is told to stop
//! * [`settings`]: what the runtimes of the last two are told, in flags and in a file
//! * [`output`]: how all of them talk to people and programs

mod inspect;
mod output;
mod run;
mod send;
mod serve;
mod settings;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::output::{Output, Usage};

/// Protocol stubs in WebAssembly sandboxes: serve them, look at them, talk through them
#[derive(Debug, Parser)]
#[command(name = "protostub", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print JSON, one object a line, in place of text
    #[arg(long, global = true, display_order = 1000)]
    json: bool,

    /// Log to stderr: -v what happens (each of the 22 steps), -vv why, -vvv everything. PROTOSTUB_LOG takes
    /// tracing filters, such as `protostub_bus=trace`
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1001)]
    verbose: u8,
}

const EXIT_CODES: &str = "Exit codes: 0 it worked; 1 it did not; 2 the command line, or a file that it names, is wrong";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Inspect(inspect::Inspect),
    Send(Box<send::Send>),
    Run(Box<run::Run>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose);
    let output = Output::new(cli.json);
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(output).await,
        Command::Inspect(inspect) => inspect.run(output).await,
        Command::Send(send) => send.run(output).await,
        Command::Run(run) => run.run(output).await,
    };
    match outcome {
        Ok(code) => code,
        // Whoever reads has read enough.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// Logs go to stderr, so that stdout is the command's alone.
fn log(verbose: u8) {
    let (level, spans) = match verbose {
        0 => ("warn", FmtSpan::NONE),
        1 => ("warn,protostub=info", FmtSpan::CLOSE),
        2 => ("info,protostub=debug", FmtSpan::CLOSE),
        _ => ("trace", FmtSpan::NEW | FmtSpan::CLOSE),
    };
    let filter = EnvFilter::try_from_env("PROTOSTUB_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_span_events(spans)
        .init();
}
