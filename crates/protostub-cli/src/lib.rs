//! The `protostub` command: a domain server, and runtimes to run and to try out.
//!
//! * `serve`: a domain on this machine
//! * `inspect`: a description of a component, or of a domain's stub
//! * `keygen`, `sign`, `verify`: signatures on stubs
//! * `explain_egress`: the destinations that a stub may connect to
//! * `conformance`: tests of a component against the specification
//! * `run`: a runtime, until a signal stops it
//! * `deploy`, `undeploy`, `update`, `accepted`, `list`, `send`, `reload`, `status`: requests to a
//!   runtime
//! * `reach`: the choice of the runtime for a request; `control`: the protocol of a running runtime
//! * `compile_worker`: the process in which a runtime compiles a component
//! * `settings`: settings of runtimes, from flags and from a file
//! * `engine`: the compiler of `inspect` and `sign`
//! * `output`: output for people and for programs, with `text` and `failure`; `bars`: progress
//!   bars; `signals`: Ctrl-C and similar signals
//! * `platform`: the systems that lack a part of the command
//! * `event`: the events of `run` and `status --follow`; `printer`: the threads that print and log
//! * `consumers`: entry points of the fuzzers
//!
//! The README documents the interface for scripts: JSON output, exit codes and the control socket.
//! This library belongs to the command. Embedders use `protostub-runtime`.

mod accepted;
mod bars;
mod compile_worker;
#[cfg(feature = "conformance")]
mod conformance;
#[doc(hidden)]
pub mod consumers;
mod control;
mod credentials;
mod deploy;
mod descriptors;
mod engine;
mod event;
mod explain_egress;
mod failure;
mod inspect;
mod keygen;
mod list;
mod output;
mod platform;
mod printer;
mod reach;
mod reload;
mod run;
mod send;
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod sign;
mod signals;
mod status;
mod text;
mod undeploy;
mod update;
mod verify;

use std::{env, io, io::IsTerminal as _, process::ExitCode, thread, time::Duration};

use clap::{ArgAction, Parser, Subcommand};
use protostub_runtime::probe_threads;
use tokio::time::timeout;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    fmt::{self, MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    bars::Bars,
    failure::Failure,
    output::{LogLine, Output},
    printer::Printer,
    text::OutputFormat,
};

/// Time limit at the end to write the rest of the log.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Protocol stubs in WebAssembly sandboxes: serve, inspect, run and use them
#[derive(Debug, Parser)]
#[command(name = "protostub", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print JSON, one object per line, instead of text
    #[arg(long, global = true, display_order = 1000)]
    json: bool,

    /// Show no progress bars, and log only errors
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 1001)]
    quiet: bool,

    /// Log to stderr: -v events (each of the 22 steps), -vv also reasons, -vvv everything.
    /// PROTOSTUB_LOG takes tracing filters, such as `protostub_bus=trace`
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1002)]
    verbose: u8,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  success
  1  failure or refusal
  2  invalid command line, or invalid file that it names
  3  no runtime is running
  4  the stub is not deployed

Examples:
  protostub serve target/catalogue --default echo
  protostub run --home 127.0.0.1:8080
  protostub deploy 127.0.0.1:8080
  protostub send --to hyperty://127.0.0.1:8080/alice --body '\"hello\"'
  protostub status --follow";

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
    Inspect(inspect::Inspect),
    Keygen(keygen::Keygen),
    Sign(sign::Sign),
    Verify(verify::Verify),
    ExplainEgress(Box<explain_egress::ExplainEgress>),
    #[cfg(feature = "conformance")]
    Conformance(Box<conformance::Conformance>),
    Run(Box<run::Run>),
    Deploy(Box<deploy::Deploy>),
    Undeploy(undeploy::Undeploy),
    Update(update::UpdateStub),
    List(list::List),
    Send(Box<send::Send>),
    Accepted(accepted::AcceptedVersion),
    Status(status::ShowStatus),
    Reload(reload::Reload),
    #[command(hide = true)]
    CompileWorker(compile_worker::CompileWorker),
}

pub use settings::{builder_from_settings, check_settings};

/// Runs the command that the arguments of this process name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && env::args_os().any(|arg| arg == "--json") => {
            return report(&Failure::wrong(error.to_string().trim_end()), OutputFormat::Json);
        }
        Err(error) => error.exit(),
    };
    if let Command::CompileWorker(worker) = &cli.command {
        // The worker starts before any other thread, because a process that limits itself must be
        // as small as possible.
        return worker.run();
    }
    descriptors::raise_limit();
    let format = if cli.json { OutputFormat::Json } else { OutputFormat::Text };
    // The number of workers that tokio starts by itself.
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let threads = probe_threads(workers).and_then(|()| tokio::runtime::Builder::new_multi_thread().enable_all().build());
    let bars = if cli.json || cli.quiet { Bars::hidden() } else { Bars::on_terminal() };
    let output = Output::new(format, bars);
    match threads.and_then(|threads| Ok((threads, output?))) {
        Ok((threads, output)) => threads.block_on(run(cli, output)),
        Err(error) => report(&Failure::failed(format_args!("failed to start the threads of the command: {error}")), format),
    }
}

/// Reports why no command can run.
fn report(failure: &Failure, format: OutputFormat) -> ExitCode {
    // An error of stderr leaves no other place to report to.
    let _ = io::Write::write_all(&mut io::stderr(), failure.line(format).as_bytes());
    failure.exit_code()
}

async fn run(cli: Cli, output: Output) -> ExitCode {
    log(if cli.quiet { None } else { Some(cli.verbose) }, output.log.clone());
    let outcome = match cli.command {
        #[cfg(feature = "serve")]
        Command::Serve(serve) => serve.run(&output).await,
        Command::Inspect(inspect) => inspect.run(&output).await,
        Command::Keygen(keygen) => keygen.run(&output).await,
        Command::Sign(sign) => sign.run(&output).await,
        Command::Verify(verify) => verify.run(&output).await,
        Command::ExplainEgress(explain) => explain.run(&output).await,
        #[cfg(feature = "conformance")]
        Command::Conformance(conformance) => conformance.run(&output).await,
        Command::Run(run) => run.run(&output).await,
        Command::Deploy(deploy) => deploy.run(&output).await,
        Command::Undeploy(undeploy) => undeploy.run(&output).await,
        Command::Update(update) => update.run(&output).await,
        Command::List(list) => list.run(&output).await,
        Command::Send(send) => send.run(&output).await,
        Command::Accepted(accepted) => accepted.run(&output).await,
        Command::Status(status) => status.run(&output).await,
        Command::Reload(reload) => reload.run(&output).await,
        Command::CompileWorker(worker) => return worker.run(),
    };
    output.bars.clear();
    let code = match outcome {
        Ok(code) => code,
        // The reader has closed the output: this is no failure.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            output.error(&failure);
            failure.exit_code()
        }
    };
    // An unread log must not delay the end.
    let _ = timeout(LOG_FLUSH, output.log.flush()).await;
    code
}

/// Sends logs to stderr, because stdout belongs to the command. `None` logs only errors.
fn log(verbose: Option<u8>, printer: Printer<LogLine>) {
    let (level, spans) = match verbose {
        None => ("error", FmtSpan::NONE),
        Some(0) => ("warn", FmtSpan::NONE),
        Some(1) => ("warn,protostub=info", FmtSpan::CLOSE),
        Some(2) => ("info,protostub=debug", FmtSpan::CLOSE),
        Some(_) => ("trace", FmtSpan::NEW | FmtSpan::CLOSE),
    };
    let filter = EnvFilter::try_from_env("PROTOSTUB_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // At `trace`, tungstenite logs the headers of its requests, which include credentials.
    let without_headers = filter_fn(|event| !(event.target().starts_with("tungstenite") && *event.level() == Level::TRACE));
    let lines = fmt::layer().with_writer(Log(printer)).with_ansi(io::stderr().is_terminal()).with_span_events(spans);
    tracing_subscriber::registry().with(filter).with(without_headers).with(lines).init();
}

/// The log. A reader of stderr that stops reading blocks no task.
struct Log(Printer<LogLine>);

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &Log {
    /// The layer writes each event with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.print(LogLine(String::from_utf8_lossy(line).into_owned()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
