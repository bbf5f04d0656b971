use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use protostub_conformance::{
    Case, Outcome, Report, node, runtime,
    stub::{self, Request, Server, StubSubject},
};
use protostub_types::Domain;
use serde_json::{Map, Value};
use url::Url;

use crate::{failure::Failure, output::Output, settings::Settings, text::OutputFormat};

/// Test a stub, a message node or the runtime against the specification
///
/// The stub runs in a sandbox, as in a runtime. A scripted host surrounds it, and the link to its
/// server forwards, delays or replaces bytes. Each case passes, fails (with the expected and the
/// observed behaviour), or is skipped if it does not apply. The exit code is 1 if a case fails.
#[derive(Debug, Args)]
#[command(after_help = "\
--list prints the requirement of each case. stubs/README.md explains how to act on a verdict.

In the texts of the configuration, ${authority}, ${domain}, ${http-url}, ${ws-url} and
${nomatrix-url} are replaced by the values of the link to the server.

Examples:
  protostub conformance target/catalogue/echo/component.wasm
  protostub conformance mine.wasm --descriptor descriptor.json --server localhost:9000
  protostub conformance mine.wasm --format junit > conformance.xml
  protostub conformance --message-node ws://127.0.0.1:8080/ws
  protostub conformance --runtime target/stubs/wasm32-wasip2/release/actor.wasm")]
pub(crate) struct Conformance {
    /// The file of the component
    #[arg(value_name = "FILE", required_unless_present_any = ["list", "message_node"])]
    stub: Option<PathBuf>,

    /// Test the message node at this ws:// URL instead of a stub, such as the one of
    /// `protostub serve`
    #[arg(long, value_name = "URL", conflicts_with_all = ["stub", "descriptor", "configuration", "server", "request"])]
    message_node: Option<Url>,

    /// Test the runtime in this command instead of a stub. FILE is then the actor, a stub that
    /// follows instructions: tests/programs/actor
    #[arg(long, conflicts_with_all = ["message_node", "descriptor", "configuration", "server", "request"])]
    runtime: bool,

    /// The domain of the message node's addresses [default: the URL's host and port]
    #[arg(long, value_name = "DOMAIN", requires = "message_node")]
    domain: Option<Domain>,

    /// The descriptor that holds the `configuration` [default: the descriptor.json next to the
    /// component, if it exists]
    #[arg(long, value_name = "FILE")]
    descriptor: Option<PathBuf>,

    /// Configuration that overrides the one of the descriptor, key by key
    #[arg(long, value_name = "JSON", value_parser = object)]
    configuration: Option<Map<String, Value>>,

    /// The server of the stub: `none`, `message-node` (built into this command), or the host:port
    /// of a running server [default: derived from the placeholders in the configuration]
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,

    /// A request that a peer behind the stub answers: JSON with `type`, `to` and `body`
    #[arg(long, value_name = "JSON", value_parser = object)]
    request: Option<Map<String, Value>>,

    /// Run only the cases whose ids begin with this text; can be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,

    /// Format of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,

    /// Print the requirement of each case, and run none
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// One line for each case
    Text,
    /// One object, as with --json
    Json,
    /// XML for CI systems
    Junit,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

impl Conformance {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        if self.list {
            list(output)?;
            return Ok(ExitCode::SUCCESS);
        }
        let format = self.format;
        let output = &if format == ReportFormat::Json { output.in_json() } else { output.clone() };
        let only = self.only.clone();
        if let Some(unknown) = only.iter().find(|beginning| !cases().any(|case| case.id.starts_with(beginning.as_str()))) {
            return Err(Failure::usage(format_args!("--only: no case begins with `{unknown}`; --list shows all cases")));
        }
        let in_text = format == ReportFormat::Text && output.format() == OutputFormat::Text;
        let begin = |suite: &str, subject: &str| match in_text {
            true => output.print(|| format!("suite {suite}: {subject}\n"), || Value::Null),
            false => Ok(()),
        };
        let mut closed = Ok(());
        let seen = |outcome: &Outcome| {
            if in_text && closed.is_ok() {
                closed = output.print(|| outcome.to_text(), || Value::Null);
            }
        };
        let report = if let Some(url) = &self.message_node {
            begin("node", url.as_str())?;
            let node = node::Node::new(url.as_str(), self.domain.as_ref().map(ToString::to_string));
            node::NodeSuite::new().only(only).run_with(&node, seen).await
        } else if self.runtime {
            let path = self.stub.clone().unwrap_or_default();
            let actor = tokio::fs::read(&path).await.map_err(|error| Failure::file(&path, error))?;
            let name = concat!("protostub-runtime ", env!("CARGO_PKG_VERSION"));
            begin("runtime", name)?;
            let code = tempfile::tempdir().context("failed to create a folder for compiled code")?;
            let mut this = runtime::ThisRuntime::default();
            this.code_dir = Some(code.path().join("code"));
            this.compile_worker = Settings::default().compile_worker()?.map(|worker| worker.program);
            runtime::RuntimeSuite::new(&actor).only(only).run_with(name, Arc::new(this), seen).await
        } else {
            let subject = self.subject().await?;
            let worker = Settings::default().compile_worker()?;
            let suite = stub::StubSuite::new(None, worker).context("failed to prepare the WebAssembly engine")?.only(only);
            begin("stub", &subject.name)?;
            suite.run_with(&subject, seen).await
        };
        closed?;
        finish(output, format, &report)
    }

    async fn subject(self) -> anyhow::Result<StubSubject> {
        let path = self.stub.unwrap_or_default();
        let component = tokio::fs::read(&path).await.map_err(|error| Failure::file(&path, error))?;
        let mut configuration = match &self.descriptor {
            Some(descriptor) => configuration_of(descriptor).await?,
            None => {
                let beside = path.with_file_name("descriptor.json");
                if beside.is_file() { configuration_of(&beside).await? } else { Map::new() }
            }
        };
        configuration.extend(self.configuration.unwrap_or_default());
        let mut subject = StubSubject::new(path.to_string_lossy(), component, configuration);
        if let Some(server) = self.server {
            subject.server = match server.as_str() {
                "none" => Server::None,
                "message-node" => Server::MessageNode,
                _ if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => Server::At(server),
                _ => {
                    return Err(Failure::usage(format_args!(
                        "--server {server}: unknown kind of server; write `none`, `message-node` or host:port"
                    )));
                }
            };
        }
        if let Some(request) = self.request {
            let request = Request::from_json(&Value::Object(request));
            subject.request =
                Some(request.map_err(|error| Failure::usage(format_args!("--request: {:#}", anyhow::Error::new(error))))?);
        }
        Ok(subject)
    }
}

/// Reads the `configuration` of a descriptor. Ignores its other members.
async fn configuration_of(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = tokio::fs::read(path).await.map_err(|error| Failure::file(path, error))?;
    let descriptor: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| Failure::file(path, error))?;
    match descriptor.get("configuration") {
        None => Ok(Map::new()),
        Some(Value::Object(configuration)) => Ok(configuration.clone()),
        Some(_) => Err(Failure::file(path, "`configuration` is not a JSON object")),
    }
}

/// Returns the cases of all suites.
fn cases() -> impl Iterator<Item = Case> {
    stub::StubSuite::cases().chain(node::NodeSuite::cases()).chain(runtime::RuntimeSuite::cases())
}

fn list(output: &Output) -> anyhow::Result<()> {
    let cases: Vec<Case> = cases().collect();
    let text = || {
        let lines = cases.iter().map(|Case { id, holds, source, .. }| format!("{id}\n    {holds}\n    ({source})"));
        lines.collect::<Vec<_>>().join("\n")
    };
    output.print_each(&cases, text)
}

fn finish(output: &Output, format: ReportFormat, report: &Report) -> anyhow::Result<ExitCode> {
    let text = || match format {
        ReportFormat::Junit => report.to_junit().trim_end().to_owned(),
        _ => format!("\n{}", report.tally()),
    };
    output.print(text, || report.to_json())?;
    Ok(if report.tally().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
