use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use clap::Args;
use protostub_runtime::{Hyperty, Message, Runtime, StatusForm, StubKey};
use protostub_types::Address;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{
        actions,
        protocol::{Change, Doing, Reloaded, utc},
        server::{self, Served},
        socket::Socket,
    },
    output::{Hangup, Output, Stop},
    settings::{GrantFlags, RuntimeFlags, Settings},
};

/// How long stubs may take to say goodbye, all together.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How long a registration holds.
const REGISTERED: Duration = Duration::from_secs(24 * 3600);
/// How many messages may wait to be printed.
const QUEUED: usize = 64;
/// How many changes, and how much progress, a client of the control socket may be behind.
const REMEMBERED: usize = 256;

/// Run a runtime until Ctrl-C, and print what arrives
///
/// The hyperties that are named have addresses on its message bus. What comes for them is printed; requests are
/// answered with code 200. `protostub deploy`, `undeploy`, `list`, `send`, `status`, `update` and `reload` talk
/// to it through its control socket. The exit code is 1 if a stub could not be deployed at the start, or had to be abandoned
/// at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub run --home home.example --hyperty hyperty://home.example/me
  protostub run --home 127.0.0.1:8080 --hyperty hyperty://127.0.0.1:8080/bob --register
  protostub run --config protostub.toml --socket /run/protostub/control.sock --json")]
pub(crate) struct Run {
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

    /// Listen for `protostub deploy`, `list`, `send` and the like at this socket [default: one in
    /// $XDG_RUNTIME_DIR/protostub]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,

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
    Status(Change),
    /// A hyperty's domain knows where it is.
    Registered { hyperty: Address },
    /// A stub that was asked for is live.
    Deployed { target: String, stub: Option<Address> },
    /// The policies were read anew.
    Reloaded { policy: Option<PathBuf>, error: Option<String> },
    /// Something that was asked for could not be done.
    Problem { what: String, error: String },
}

impl Run {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut settings = Settings::load(self.runtime)?.grant(self.grants)?;
        settings.hyperties.extend(self.hyperties);
        settings.deploy.extend(self.deploy);
        let stop = Stop::listen()?;
        let hangup = Hangup::listen(settings.policy.is_some())?;
        let socket = listen_for_commands(self.socket.or_else(|| settings.socket.clone())).await?;
        let (changes, progress) = (broadcast::Sender::new(REMEMBERED), broadcast::Sender::new(REMEMBERED));
        let (bars, told) = (output.bars.clone(), progress.clone());
        let show = move |key: &StubKey, progress| {
            if let Some(doing) = Doing::of(key, progress) {
                bars.show(&doing);
                // Without a client there is nobody to tell.
                let _ = told.send(doing);
            }
        };
        let since = SystemTime::now();
        let runtime = settings.builder()?.progress(show).status_form(StatusForm::Phase2).build().await?;
        let runtime = Arc::new(runtime);

        let (events, printed) = mpsc::channel(QUEUED);
        let monitor = runtime.register_hyperty(runtime.url().join("monitor")?).await?;
        monitor.subscribe(runtime.url().join("status")?).await?;
        runtime.spawn_inside(watch(monitor, events.clone(), changes.clone()));
        let path = socket.as_ref().map(|socket| socket.path.clone());
        let (stop_serving, served) = (
            CancellationToken::new(),
            Served { runtime: Arc::clone(&runtime), since, policy: settings.policy.clone(), changes, progress },
        );
        let serving = socket.map(|socket| tokio::spawn(server::serve(socket, served, stop_serving.clone())));
        output.print(
            || {
                let socket = path.as_ref().map_or_else(String::new, |path| format!(" Its control socket is {}.", path.display()));
                format!("The runtime is {}. Ctrl-C stops it.{socket}", runtime.url())
            },
            || json!({ "event": "started", "runtime": runtime.url(), "home": runtime.home_domain(), "socket": path }),
        )?;
        for address in &settings.hyperties {
            let hyperty = runtime.register_hyperty(address.clone()).await?;
            output.print(|| format!("Listening as {address}."), || json!({ "event": "listening", "hyperty": address }))?;
            runtime.spawn_inside(listen(hyperty, self.register, self.answer.clone(), events.clone()));
        }
        let reload = || Event::reloaded(actions::reload(&runtime, settings.policy.as_deref()));
        let deploying = deploy(&runtime, &settings.deploy, &events);
        let outcome = print_until_stopped(output, stop, (hangup, reload), deploying, printed).await;

        stop_serving.cancel();
        if let Some(serving) = serving {
            serving.await?;
        }
        let in_order = outcome?;
        // Whoever had it has ended.
        let Some(runtime) = Arc::into_inner(runtime) else { bail!("the runtime is still in use") };
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

/// Listens where it was told, or else where it can: a runtime is of use without a control socket too.
async fn listen_for_commands(path: Option<PathBuf>) -> anyhow::Result<Option<Socket>> {
    match path {
        Some(path) => Ok(Some(Socket::listen(&path).await?)),
        None => {
            let socket = Socket::listen_by_default().await;
            Ok(socket.inspect_err(|error| tracing::warn!("there is no control socket: {error:#}")).ok())
        }
    }
}

/// Prints what happens, and tells in the end whether all went well.
async fn print_until_stopped(
    output: &Output,
    mut stop: Stop,
    (mut hangup, reload): (Hangup, impl Fn() -> Event),
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
            () = hangup.told() => reload().print(output)?,
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
async fn watch(mut monitor: Hyperty, events: mpsc::Sender<Event>, changes: broadcast::Sender<Change>) {
    while let Some(message) = monitor.recv().await {
        let Some(change) = read_change(&message) else { continue };
        // Without a client there is nobody to tell.
        let _ = changes.send(change.clone());
        if events.send(Event::Status(change)).await.is_err() {
            return;
        }
    }
}

/// What the Registry tells of a stub: `{"value": "live", "resource": <stub>, "desc": <reason>}`, with the domain in place of the resource
/// where the stub has no address yet.
fn read_change(message: &Message) -> Option<Change> {
    let body: Value = message.body.as_ref()?.parse().ok()?;
    let text = |member: &str| body.get(member).and_then(Value::as_str);
    let stub = text("resource").and_then(|stub| Address::parse(stub).ok());
    let domain = match text("domain") {
        Some(domain) => domain.parse().ok()?,
        None => stub.as_ref()?.domain()?,
    };
    let (status, reason) = (text("value")?.parse().ok()?, text("desc").map(str::to_owned));
    Some(Change { domain, stub, status, reason, at: utc(SystemTime::now()) })
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

    fn reloaded(outcome: anyhow::Result<Reloaded>) -> Self {
        match outcome {
            Ok(Reloaded { policy }) => Self::Reloaded { policy: Some(policy), error: None },
            Err(error) => Self::Reloaded { policy: None, error: Some(format!("{error:#}")) },
        }
    }

    fn print(self, output: &Output) -> anyhow::Result<()> {
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
            Self::Status(change) => output.print(|| change.text(), || change.event())?,
            Self::Registered { hyperty } => {
                output.print(|| format!("{hyperty} is registered."), || json!({ "event": "registered", "hyperty": hyperty }))?;
            }
            Self::Deployed { target, stub } => output.print(
                || format!("The stub of {target} is live."),
                || json!({ "event": "deployed", "target": target, "stub": stub }),
            )?,
            Self::Reloaded { policy, error } => output.print(
                || match (&policy, &error) {
                    (Some(policy), _) => format!("The policies in {} are in force.", policy.display()),
                    (None, error) => format!("Problem: reading the policies anew: {}", error.as_deref().unwrap_or_default()),
                },
                || json!({ "event": "reloaded", "policy": policy, "error": error }),
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
