use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use clap::Args;
use protostub_runtime::{
    Hyperty, HypertyDescriptor, RegisterError, Registration, Runtime, StatusChanges, StatusForm, StatusUpdate, StubKey,
    StubStatus,
};
use protostub_types::Address;
use serde_json::Value;
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{actions, context::ServerContext, protocol::DeploymentProgress, server, socket::Socket},
    event::{Event, FormattedEvent},
    output::Output,
    platform,
    printer::Printer,
    settings::{GrantFlags, RuntimeFlags, Settings},
    signals::{HangupSignal, StopSignal},
    text::OutputFormat,
};

/// Time limit for the graceful shutdown of all stubs together.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Lifetime of a registration.
const REGISTERED: Duration = Duration::from_secs(24 * 3600);
/// Time limit at the end to print the rest of the output.
const FLUSH: Duration = Duration::from_secs(1);
/// Maximum number of progress updates that a client of the control socket may lag behind.
const REMEMBERED: usize = 256;

/// Run a runtime until Ctrl-C, and print what arrives
///
/// The hyperties have addresses on the runtime's message bus. The command prints the messages that
/// arrive for them, and answers requests with code 200. `protostub deploy`, `undeploy`, `list`,
/// `send`, `status`, `update` and `reload` reach the runtime through its control socket. The exit
/// code is 1 if a stub could not be deployed at the start, or had to be abandoned at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub run --home home.example --hyperty hyperty://home.example/me
  protostub run --home 127.0.0.1:8080 --hyperty hyperty://127.0.0.1:8080/bob --register
  protostub run --config protostub.toml --socket /run/protostub/control.sock --json")]
pub(crate) struct Run {
    /// Address of a hyperty whose messages are printed; can be repeated
    #[arg(long = "hyperty", value_name = "ADDRESS")]
    hyperties: Vec<Address>,

    /// Register the hyperties at their domains' registries, which deploys the domains' stubs.
    /// Without it, the domains do not know where the hyperties are
    #[arg(long)]
    register: bool,

    /// Deploy the stub of this domain, or address, at the start; can be repeated
    #[arg(long, value_name = "DOMAIN")]
    deploy: Vec<String>,

    /// Value of the answer to each request, as JSON
    #[arg(long, value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    answer: Option<Value>,

    /// Listen for `protostub deploy`, `list`, `send` and other commands at this socket [default: a
    /// socket in $XDG_RUNTIME_DIR/protostub]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

impl Run {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        platform::warn();
        let mut settings = Settings::load(self.runtime)?.grant(self.grants)?;
        let of_file = settings.hyperties.len();
        settings.hyperties.extend(self.hyperties);
        settings.deploy.extend(self.deploy);
        let stop = StopSignal::listen()?;
        let hangup = HangupSignal::listen()?;
        let socket = match self.socket {
            Some(path) => listen_for_commands(Some(path)).await?,
            None => settings.at_key(&["socket"], listen_for_commands(settings.socket.clone()).await)?,
        };
        let progress = broadcast::Sender::new(REMEMBERED);
        let (bars, published) = (output.bars.clone(), progress.clone());
        let show = move |key: &StubKey, progress| {
            if let Some(progress) = DeploymentProgress::of(key, progress) {
                bars.show(&progress);
                // Fails if no client is connected.
                let _ = published.send(progress);
            }
        };
        let since = SystemTime::now();
        let runtime = settings.builder()?.progress(show).status_form(StatusForm::Phase2).build().await;
        let runtime = runtime.map_err(|error| settings.explain(error))?;
        let runtime = Arc::new(runtime);

        let printed = Reports::start(output)?;
        let watching = tokio::spawn(watch(runtime.status_changes(), printed.clone()));
        let path = socket.as_ref().map(|socket| socket.path.clone());
        let dropped = (printed.printer.counts(), output.log.counts());
        let (stop_serving, context) = (
            CancellationToken::new(),
            ServerContext { runtime: Arc::clone(&runtime), since, policy: settings.policy.clone(), progress, dropped },
        );
        printed.tell(Event::Started { runtime: runtime.url().clone(), home: runtime.home_domain().clone(), socket: path });
        for (index, address) in settings.hyperties.iter().enumerate() {
            let changes = runtime.status_changes();
            let hyperty = listen_at(&runtime, address, self.register, &printed).await.map_err(Into::into);
            let hyperty = if index < of_file { settings.at_key(&["hyperties"], hyperty)? } else { hyperty? };
            printed.tell(Event::Listening { hyperty: address.clone() });
            let (answer, printed) = (self.answer.clone(), printed.clone());
            runtime.spawn_inside(async move {
                report_registration(&hyperty, changes, &printed).await;
                listen(hyperty, answer, printed).await;
            });
        }
        // The hyperties have their addresses before the first command can arrive.
        let serving = socket.map(|socket| tokio::spawn(server::serve(socket, context, stop_serving.clone())));
        let reload = || printed.tell(Event::reloaded(actions::reload(&runtime, settings.policy.as_deref())));
        let deploying = deploy(&runtime, &settings.deploy, &printed);
        let outcome = until_stopped(stop, (hangup, reload), deploying).await;

        stop_serving.cancel();
        if let Some(serving) = serving {
            serving.await?;
        }
        outcome?;
        // All other owners of the runtime have ended.
        let Some(runtime) = Arc::into_inner(runtime) else {
            bail!("failed to shut down the runtime: another task still uses it")
        };
        let outcome = runtime.shutdown(SHUTDOWN).await;
        // The changes end with the runtime.
        watching.await?;
        let names = |keys: &[StubKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (stopped, abandoned) = (names(&outcome.stopped), names(&outcome.abandoned));
        let in_order = printed.in_order.load(Relaxed) && abandoned.is_empty();
        printed.tell(Event::Stopped { stopped, abandoned });
        // A missing reader does not turn an orderly stop into a failure.
        let _ = timeout(FLUSH, printed.printer.flush()).await;
        Ok(if in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Collects the reports of the tasks of `run`. Reporting never waits.
#[derive(Clone)]
struct Reports {
    printer: Printer<FormattedEvent>,
    format: OutputFormat,
    /// `false` after the first problem.
    in_order: Arc<AtomicBool>,
}

impl Reports {
    fn start(output: &Output) -> anyhow::Result<Self> {
        let printer = output.printer().context("failed to start the thread that prints")?;
        Ok(Self { printer, format: output.format(), in_order: Arc::new(AtomicBool::new(true)) })
    }

    fn tell(&self, event: Event) {
        if matches!(event, Event::Problem { .. }) {
            self.in_order.store(false, Relaxed);
        }
        self.printer.print(FormattedEvent { event, format: self.format });
    }
}

/// Listens at `path`, or at the default place if there is no path. A failure at the default place
/// is only logged, because a runtime is useful without a control socket too.
async fn listen_for_commands(path: Option<PathBuf>) -> anyhow::Result<Option<Socket>> {
    match path {
        Some(path) => Ok(Some(Socket::listen(&path).await?)),
        None => {
            let socket = Socket::listen_by_default().await;
            Ok(socket.inspect_err(|error| tracing::warn!("the runtime runs without a control socket: {error:#}")).ok())
        }
    }
}

/// Reloads the policies at each SIGHUP, and drives the deployments, until a signal stops the
/// runtime. No step waits for a reader.
async fn until_stopped(
    mut stop: StopSignal,
    (mut hangup, reload): (HangupSignal, impl Fn()),
    deployments: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::pin!(deployments);
    let mut deploying = true;
    loop {
        tokio::select! {
            biased;
            outcome = stop.received() => return Ok(outcome?),
            () = hangup.received() => reload(),
            () = &mut deployments, if deploying => deploying = false,
        }
    }
}

/// Deploys the targets one after the other, each until it is live.
async fn deploy(runtime: &Runtime, targets: &[String], printed: &Reports) {
    for target in targets {
        printed.tell(match runtime.deploy_protostub(target).await {
            Ok(stub) => Event::Deployed { target: target.clone(), stub: stub.url().cloned() },
            Err(error) => Event::problem(format!("deploying {target}"), error),
        });
    }
}

/// Reports the status changes of all stubs, until the runtime has ended.
async fn watch(mut changes: StatusChanges, printed: Reports) {
    while let Some(update) = changes.recv().await {
        match update {
            StatusUpdate::Changed(change) => printed.tell(Event::Status(change.into())),
            StatusUpdate::Missed { changes } => printed.tell(Event::Missed { changes }),
            _ => {}
        }
    }
}

/// Answers the messages for a hyperty, and prints each message.
async fn listen(mut hyperty: Hyperty, answer: Option<Value>, printed: Reports) {
    while let Some(message) = hyperty.recv().await {
        if message.expects_response()
            && let Err(error) = hyperty.post(message.response(200, answer.clone()))
        {
            tracing::warn!(hyperty = %hyperty.address(), "the bus refused an answer: {error}");
        }
        printed.tell(Event::Message { hyperty: hyperty.address().clone(), message });
    }
}

/// Registers a hyperty on the bus, and at its domain's Registry if wanted. The runtime renews the
/// registration after each new connection, because the Registry may have lost it.
async fn listen_at(runtime: &Runtime, address: &Address, register: bool, printed: &Reports) -> Result<Hyperty, RegisterError> {
    if register {
        let mut descriptor = HypertyDescriptor::default();
        descriptor.expires = REGISTERED;
        match runtime.register_hyperty_with(address.clone(), descriptor).await {
            // The hyperty can listen without its domain.
            Err(error @ (RegisterError::Address(_) | RegisterError::Deploy { .. })) => {
                printed.tell(Event::problem(registering(address), error));
            }
            registered => return registered,
        }
    }
    runtime.register_hyperty(address.clone()).await
}

/// Prints the outcome of a hyperty's first registration at its domain. The runtime logs later
/// failures.
async fn report_registration(hyperty: &Hyperty, mut changes: StatusChanges, printed: &Reports) {
    let domain = hyperty.address().domain();
    let deployment_failed = async {
        while let Some(update) = changes.recv().await {
            if let StatusUpdate::Changed(change) = update
                && change.report.status == StubStatus::DeploymentFailed
                && Some(change.key.domain()) == domain.as_ref()
            {
                return change.report.reason;
            }
        }
        None
    };
    let reason = tokio::select! {
        biased;
        registration = hyperty.until_registered() => match registration {
            None => return,
            Some(Registration::Registered) => {
                return printed.tell(Event::Registered { hyperty: hyperty.address().clone() });
            }
            Some(Registration::Failed { reason }) => Some(reason),
            // The runtime ends.
            Some(_) => return,
        },
        reason = deployment_failed => reason,
    };
    let Some(reason) = reason else { return };
    printed.tell(Event::problem(registering(hyperty.address()), anyhow::Error::msg(reason)));
}

fn registering(address: &Address) -> String {
    format!("registering {address}")
}
