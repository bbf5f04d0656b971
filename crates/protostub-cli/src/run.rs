use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use protostub_runtime::{Hyperty, Message, Runtime, StubKey};
use protostub_types::Address;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    output::{Output, Stop},
    settings::{GrantFlags, RuntimeFlags, Settings},
};

/// How long stubs may take to say goodbye, all together.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How long a registration holds.
const REGISTERED: Duration = Duration::from_secs(24 * 3600);
/// How many messages may wait to be printed.
const QUEUED: usize = 64;

/// Run a runtime until Ctrl-C, and print what arrives
///
/// The hyperties that are named have addresses on its message bus. What comes for them is printed; requests are
/// answered with code 200. The exit code is 1 if a stub could not be deployed at the start, or had to be abandoned
/// at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub run --home home.example --hyperty hyperty://home.example/me
  protostub run --home 127.0.0.1:8080 --hyperty hyperty://127.0.0.1:8080/bob --register
  protostub run --config protostub.toml --json")]
pub(crate) struct Run {
    /// Settings in a TOML file; what flags say comes on top
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// An address that messages are printed for; can be repeated
    #[arg(long = "hyperty", value_name = "ADDRESS")]
    hyperties: Vec<Address>,

    /// Register the hyperties at their domains' registries, which deploys the domains' stubs: only then do the
    /// domains know where they are
    #[arg(long)]
    register: bool,

    /// Deploy the stub of this domain, or address, at the start; can be repeated
    #[arg(long, value_name = "DOMAIN")]
    deploy: Vec<String>,

    /// The value that requests are answered with, as JSON
    #[arg(long, value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    answer: Option<Value>,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

/// What is printed.
enum Event {
    /// Something came for a hyperty.
    Message { hyperty: Address, message: Message },
    /// A stub has another status.
    Status(Message),
    /// A hyperty's domain knows where it is.
    Registered { hyperty: Address },
    /// A stub that was asked for is live.
    Deployed { target: String, stub: Option<Address> },
    /// Something that was asked for could not be done.
    Problem { what: String, error: String },
}

impl Run {
    pub(crate) async fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        let settings = match &self.config {
            Some(file) => Settings::read(file)?,
            None => Settings::default(),
        };
        let mut settings = settings.overlay(self.runtime).grant(self.grants);
        settings.hyperties.extend(self.hyperties);
        settings.deploy.extend(self.deploy);
        let stop = Stop::listen()?;
        let runtime = settings.builder()?.build().await?;
        output.print(
            || format!("The runtime is {}. Ctrl-C stops it.", runtime.url()),
            || json!({ "event": "started", "runtime": runtime.url(), "home": runtime.home_domain() }),
        )?;

        let (events, printed) = mpsc::channel(QUEUED);
        let monitor = runtime.register_hyperty(runtime.url().join("monitor")?).await?;
        monitor.subscribe(runtime.url().join("status")?).await?;
        runtime.spawn_inside(watch(monitor, events.clone()));
        for address in &settings.hyperties {
            let hyperty = runtime.register_hyperty(address.clone()).await?;
            output.print(|| format!("Listening as {address}."), || json!({ "event": "listening", "hyperty": address }))?;
            runtime.spawn_inside(listen(hyperty, self.register, self.answer.clone(), events.clone()));
        }
        let in_order = print_until_stopped(output, stop, deploy(&runtime, &settings.deploy, &events), printed).await?;

        let outcome = runtime.shutdown(SHUTDOWN).await;
        let names = |keys: &[StubKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (stopped, abandoned) = (names(&outcome.stopped), names(&outcome.abandoned));
        output.print(
            || {
                let or_none = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                format!("Stopped. Stubs that ended: {}; that did not: {}.", or_none(&stopped), or_none(&abandoned))
            },
            || json!({ "event": "stopped", "stopped": stopped, "abandoned": abandoned }),
        )?;
        Ok(if in_order && abandoned.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Prints what happens, and tells in the end whether all went well.
async fn print_until_stopped(
    output: Output,
    mut stop: Stop,
    deployments: impl Future<Output = ()>,
    mut events: mpsc::Receiver<Event>,
) -> anyhow::Result<bool> {
    tokio::pin!(deployments);
    let (mut deploying, mut in_order) = (true, true);
    loop {
        tokio::select! {
            biased;
            outcome = stop.told() => {
                outcome?;
                return Ok(in_order);
            }
            Some(event) = events.recv() => {
                in_order &= !matches!(event, Event::Problem { .. });
                event.print(output)?;
            }
            () = &mut deployments, if deploying => deploying = false,
        }
    }
}

/// Deploys one after the other, each until it is live.
async fn deploy(runtime: &Runtime, targets: &[String], events: &mpsc::Sender<Event>) {
    for target in targets {
        let event = match runtime.deploy_protostub(target).await {
            Ok(stub) => Event::Deployed { target: target.clone(), stub: stub.url().cloned() },
            Err(error) => Event::problem(format!("deploying {target}"), error),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Tells of the statuses of all stubs.
async fn watch(mut monitor: Hyperty, events: mpsc::Sender<Event>) {
    while let Some(message) = monitor.recv().await {
        if events.send(Event::Status(message)).await.is_err() {
            return;
        }
    }
}

/// Tells of what comes for a hyperty, and answers it.
async fn listen(mut hyperty: Hyperty, register: bool, answer: Option<Value>, events: mpsc::Sender<Event>) {
    if register {
        let event = match announce(&hyperty).await {
            Ok(()) => Event::Registered { hyperty: hyperty.address().clone() },
            Err(error) => Event::problem(format!("registering {}", hyperty.address()), error),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
    while let Some(message) = hyperty.recv().await {
        let response = message.expects_response().then(|| message.response(200, answer.clone()));
        if events.send(Event::Message { hyperty: hyperty.address().clone(), message }).await.is_err() {
            return;
        }
        if let Some(response) = response
            && let Err(error) = hyperty.post(response)
        {
            tracing::warn!(hyperty = %hyperty.address(), "an answer was not accepted: {error}");
        }
    }
}

/// Registers a hyperty at its domain, which learns where it is.
async fn announce(hyperty: &Hyperty) -> anyhow::Result<()> {
    let address = hyperty.address();
    let domain = address.domain().context("the address has no domain")?;
    let registry = Address::parse(&format!("domain://registry.{domain}"))?;
    let value = json!({ "url": address, "status": "live", "expires": REGISTERED.as_secs() });
    let reply = hyperty.request(Message::create(registry).with_body(json!({ "value": value }))).await?;
    match reply.code() {
        Some(200..300) => Ok(()),
        code => {
            let body = reply.body.as_ref().and_then(|body| body.parse::<Value>().ok()).unwrap_or_default();
            bail!(
                "the registry of {domain} answers with code {}: {}",
                code.unwrap_or_default(),
                body["desc"].as_str().unwrap_or("no reason given")
            )
        }
    }
}

impl Event {
    fn problem(what: String, error: impl Into<anyhow::Error>) -> Self {
        Self::Problem { what, error: format!("{:#}", error.into()) }
    }

    fn print(self, output: Output) -> anyhow::Result<()> {
        match self {
            Self::Message { hyperty, message } => {
                let whole: Value = serde_json::from_str(&message.to_json()?)?;
                output.print(
                    || {
                        let body = whole.get("body").map_or_else(String::new, |body| format!(": {body}"));
                        format!("{hyperty} has {} {} from {}{body}", message.kind, message.id, message.from)
                    },
                    || json!({ "event": "message", "hyperty": hyperty, "message": whole }),
                )?;
            }
            Self::Status(message) => {
                let body: Value = message.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
                let text = |member: &str| body.get(member).and_then(Value::as_str).map(str::to_owned);
                let status = text("value").unwrap_or_default().to_ascii_lowercase();
                let (stub, reason) = (text("resource"), text("desc"));
                output.print(
                    || {
                        let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                        format!("{} is {status}{reason}", stub.as_deref().unwrap_or("a stub"))
                    },
                    || json!({ "event": "status", "stub": stub, "status": status, "reason": reason }),
                )?;
            }
            Self::Registered { hyperty } => {
                output.print(|| format!("{hyperty} is registered."), || json!({ "event": "registered", "hyperty": hyperty }))?;
            }
            Self::Deployed { target, stub } => output.print(
                || format!("The stub of {target} is live."),
                || json!({ "event": "deployed", "target": target, "stub": stub }),
            )?,
            Self::Problem { what, error } => {
                output.print(
                    || format!("Problem: {what}: {error}"),
                    || json!({ "event": "problem", "what": what, "error": error }),
                )?;
            }
        }
        Ok(())
    }
}
