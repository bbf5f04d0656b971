//! "Deploy Protocol Stub": the 22 steps, from a domain that nobody serves to a stub that is connected to the bus.
//!
//! [`deploy`] is one line of steps, each consuming what the one before it returned. What was done is undone by dropping it: routes detach, a
//! sandbox goes with its store.

use std::sync::Arc;

use protostub_bus::{Inbox, Origin, Route};
use protostub_catalogue::{Committed, Discovered, TrustStateError, trust::Authenticity};
use protostub_sandbox::{CompiledStub, Sandbox, SandboxConfig, SandboxServices, Session, StubHandle, StubTask};
use protostub_types::{Message, SafeText, Sha256Digest, StubKey, StubStatus, Version};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::{
    core::{Core, SHUTTING_DOWN},
    error::{DeployError, DeployErrorKind, Phase, in_full},
    hook::Progress,
    identity::StubCredentials,
    presence::StubPresence,
    registry::{Discovery, Published, Record, Reservation, stopped},
    supervise::{Command, Supervision},
    triggers,
};

/// How long a configuration may be, in bytes of JSON text: what the contract promises of `configuration.get`.
const MAX_CONFIGURATION_BYTES: usize = 64 * 1024;

/// A stub after step 20. Dropped, it is gone from the bus.
pub(crate) struct Deployed {
    pub(crate) record: Arc<Record>,
    pub(crate) presence: Arc<StubPresence>,
    pub(crate) artifact: Artifact,
    pub(crate) handle: StubHandle,
    pub(crate) task: StubTask,
    pub(crate) commands: mpsc::Receiver<Box<Command>>,
    /// The domain's route, the stub's own, and the registry's listener on its status.
    pub(crate) routes: [Route; 3],
}

/// What a stub's instances are made of: what steps 4 to 7 found, verified and compiled.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) discovered: Discovered,
    pub(crate) digest: Sha256Digest,
    pub(crate) compiled: CompiledStub,
    /// The version that was accepted before.
    pub(crate) before: Option<Committed>,
}

impl Artifact {
    pub(crate) fn published(&self) -> Published {
        Published { digest: Some(self.digest), ..published(&self.discovered) }
    }

    /// What is accepted with this. None if the same was accepted before.
    pub(crate) fn to_commit(&self) -> Option<Committed> {
        let signed = self.discovered.authenticity.signed().is_some();
        let now = Committed { version: self.discovered.descriptor.version.clone(), digest: self.digest, signed };
        (self.before.as_ref() != Some(&now)).then_some(now)
    }
}

fn published(discovered: &Discovered) -> Published {
    let descriptor = &discovered.descriptor;
    Published {
        descriptor_url: discovered.url.clone(),
        version: descriptor.version.clone(),
        digest: descriptor.digest(),
        signed: discovered.authenticity.signed().is_some(),
    }
}

/// Steps 1 to 3: the record of the stub for `key`; if there is none, its deployment begins in a task of its own, so that nobody's dropped
/// future ends it for others. `origin` is who triggers that. A failure of a moment ago is held against it, unless it is `patient`.
pub(crate) fn load_stub(core: &Arc<Core>, key: &StubKey, origin: &Origin, patient: bool) -> Result<Arc<Record>, DeployError> {
    let reserving = |kind| DeployError { key: key.clone(), phase: Phase::Reserving, kind };
    triggers::authorise(&core.config, origin, key).map_err(reserving)?;
    let open = || {
        core.triggers.count(origin)?;
        let inbox = core.bus.inbox(core.config.inbox_of(key.domain()));
        let route = core.bus.attach_key(key, &inbox.mailbox()).map_err(|error| DeployErrorKind::Bus(Arc::new(error)))?;
        Ok((inbox, route))
    };
    let reservation = match core.registry.discover(key, patient, open)? {
        Discovery::Available(record) => return Ok(record),
        Discovery::Reserved(reservation) => reservation,
    };
    let record = Arc::clone(&reservation.record);
    record.steps.mark(1, "");
    record.steps.mark(2, "");
    record.steps.mark(3, "");
    core.spawn(run(Arc::clone(core), reservation));
    Ok(record)
}

/// A stub's whole life: its deployment, and its supervision until it ends.
async fn run(core: Arc<Core>, reservation: Reservation) {
    // In a box that goes with it: the task stays as small as what a stub needs that has nothing to do.
    let supervision = Box::pin(begin(core, reservation)).await;
    if let Some(supervision) = supervision {
        unboxed(supervision).run().await;
    }
}

/// What is in the box, without the box: taken out in an `async` function, it would be kept for as long as that runs.
#[expect(clippy::boxed_local, reason = "taking it out of its box is all that this does")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

/// Deploys the stub, and begins to supervise it. None: it could not be deployed, which is told to everybody.
async fn begin(core: Arc<Core>, reservation: Reservation) -> Option<Box<Supervision>> {
    let Reservation { record, inbox, commands, key_route } = reservation;
    core.announce(&record);
    let outcome = tokio::select! {
        biased;
        // The deployment's inbox is dropped with it, and that answers what waits.
        () = core.stop.cancelled() => Err((None, stopped(&record.key, SHUTTING_DOWN))),
        outcome = deploy(&core, &record, inbox, commands, key_route) => outcome,
    };
    match outcome {
        Ok(deployed) => Some(Supervision::begin(core, deployed)),
        Err((inbox, error)) => {
            fail(&core, &record, inbox, error);
            None
        }
    }
}

/// Everything that is undone already stays undone; what is left is to tell everybody.
fn fail(core: &Core, record: &Arc<Record>, inbox: Option<Inbox>, error: DeployError) {
    let reason = in_full(&error);
    tracing::warn!(target: "protostub", domain = %record.key, error = %reason, "the protocol stub could not be deployed");
    let _ = record.status.advance(StubStatus::DeploymentFailed, Some(reason.clone()));
    core.announce(record);
    core.registry.remove(record, error);
    if let Some(inbox) = inbox {
        inbox.close(503, &reason);
    }
}

type Failed = (Option<Inbox>, DeployError);

/// Steps 4 to 20. The inbox comes back with an error, since it may hold messages.
async fn deploy(
    core: &Arc<Core>,
    record: &Arc<Record>,
    inbox: Inbox,
    commands: mpsc::Receiver<Box<Command>>,
    key_route: Route,
) -> Result<Deployed, Failed> {
    let prepared = match prepare(core, record).await {
        Ok(prepared) => prepared,
        Err(error) => return Err((Some(inbox), error)),
    };
    let Prepared { presence, artifact, sandbox, status_route, stub_route } = prepared;
    let steps = &record.steps;

    let deploying = steps.open(16, "");
    let deployed = sandbox.deploy_component(inbox).instrument(deploying).await;
    let (handle, task) = deployed.map_err(|error| {
        core.report(record, error.crash);
        let kind = DeployErrorKind::Start(Arc::new(error.kind));
        (Some(error.inbox), DeployError { key: record.key.clone(), phase: Phase::Starting, kind })
    })?;
    steps.mark(18, "");

    let _ = record.status.advance(StubStatus::Deployed, None);
    record.deployed();
    steps.mark(20, "");
    let routes = [key_route, stub_route, status_route];
    Ok(Deployed { record: Arc::clone(record), presence, artifact, handle, task, commands, routes })
}

/// What steps 4 to 15 and 19 leave behind.
struct Prepared {
    presence: Arc<StubPresence>,
    artifact: Artifact,
    sandbox: Sandbox,
    status_route: Route,
    stub_route: Route,
}

async fn prepare(core: &Arc<Core>, record: &Arc<Record>) -> Result<Prepared, DeployError> {
    let (key, steps) = (&record.key, &record.steps);
    let during = |phase| move |kind| DeployError { key: key.clone(), phase, kind };

    let asking = steps.open(4, &key.descriptor_name());
    let (discovered, before) = tokio::join!(core.catalogue.discover(key).instrument(asking), core.catalogue.committed(key));
    let discovered = discovered.map_err(catalogue).map_err(during(Phase::Discovering))?;
    record.publish(published(&discovered));
    steps.mark(5, discovered.url.as_str());
    let before = before.map_err(trust_state).map_err(during(Phase::Discovering))?;
    refuse_downgrade(core, &discovered, before.as_ref()).map_err(during(Phase::Discovering))?;
    if before.is_none() {
        // Before anything is fetched for a stub that could not be live.
        core.catalogue.check_commit(key).await.map_err(trust_state).map_err(during(Phase::Discovering))?;
    }
    let artifact = Artifact { before, ..obtain(core, record, discovered).await? };
    record.publish(artifact.published());

    let registering = during(Phase::Registering);
    steps.mark(8, "");
    let url = core.registry.generate_stub_url(record).map_err(DeployErrorKind::Address).map_err(&registering)?;
    steps.stub_is(&url);
    steps.mark(9, url.as_str());
    let topic = url.join("status").map_err(DeployErrorKind::Address).map_err(&registering)?;
    let listening = steps.open(10, topic.as_str());
    let attached = |route: Result<Route, _>| route.map_err(|error| DeployErrorKind::Bus(Arc::new(error)));
    let status_route = attached(core.bus.attach(&topic, &core.registry_mailbox)).map_err(&registering)?;
    drop(listening);
    steps.mark(11, url.as_str());

    let presence = Arc::new(StubPresence::new(core, record, url.clone(), topic));
    presence.set_admission(artifact.to_commit().is_none());
    let making = steps.open(12, "");
    let sandbox = sandbox(core, record, &presence, &artifact, record.session.clone()).await.map_err(&registering)?;
    drop(making);
    steps.mark(13, "");
    steps.mark(14, "");
    let sandbox_url = core.registry.register_sandbox(record).map_err(DeployErrorKind::Address).map_err(&registering)?;
    steps.mark(15, sandbox_url.as_str());

    let attaching = steps.open(19, "");
    record.mailbox.set_owner(&url);
    let stub_route = attached(core.bus.attach(&url, &record.mailbox)).map_err(&registering)?;
    drop(attaching);
    Ok(Prepared { presence, artifact, sandbox, status_route, stub_route })
}

/// Whoever can make a domain publish an old version, with its old faults, cannot make a runtime that has had a newer one take it; nor one that is not
/// signed, after one that was.
pub(crate) fn refuse_downgrade(core: &Core, discovered: &Discovered, before: Option<&Committed>) -> Result<(), DeployErrorKind> {
    if core.config.settings(discovered.key.domain()).allow_older {
        return Ok(());
    }
    let Some(Committed { version: committed, signed, .. }) = before else { return Ok(()) };
    let published = &discovered.descriptor.version;
    if published < committed {
        return Err(DeployErrorKind::Older { published: published.clone(), committed: committed.clone() });
    }
    if *signed { refuse_unsigned(discovered, committed) } else { Ok(()) }
}

/// A version that is to follow this one, which was signed, has to be signed itself.
pub(crate) fn refuse_unsigned(discovered: &Discovered, before: &Version) -> Result<(), DeployErrorKind> {
    let problem = match &discovered.authenticity {
        Authenticity::Unsigned => "it has no signature".into(),
        Authenticity::Unverified { reason } => reason.clone(),
        _ => return Ok(()),
    };
    Err(DeployErrorKind::NoLongerSigned { committed: before.clone(), problem })
}

/// Steps 6 and 7, and the compilation, of the first version or of an update.
pub(crate) async fn obtain(core: &Core, record: &Record, discovered: Discovered) -> Result<Artifact, DeployError> {
    let (key, steps) = (&record.key, &record.steps);
    let during = |phase| move |kind| DeployError { key: key.clone(), phase, kind };

    let granted = &core.config.settings(key.domain()).imports;
    let fetching = steps.open(6, "");
    // What other domains publish too, or what ran a moment ago, is verified and compiled already.
    if let Some(digest) = discovered.descriptor.digest()
        && let Ok(Some(compiled)) = core.engine.compiled(digest, granted).await
        && core.catalogue.admits(&discovered, compiled.component_bytes())
    {
        drop(fetching);
        steps.mark(7, &format!("{} bytes, sha256 {digest}, as compiled before", compiled.component_bytes()));
        check_contract(&discovered, &compiled).map_err(during(Phase::Compiling))?;
        return Ok(Artifact { discovered, digest, compiled, before: None });
    }
    let component =
        core.catalogue.fetch(&discovered).instrument(fetching).await.map_err(catalogue).map_err(during(Phase::Fetching))?;
    steps.mark(7, &format!("{} bytes, sha256 {}", component.bytes().len(), component.digest()));

    let compiling = tracing::info_span!(target: "protostub", "compile", domain = %key);
    core.config.progress.tell(key, &Progress::Compiling);
    let bytes = component.bytes().clone();
    let compilation = core.engine.compile_with_imports(bytes, component.digest(), granted).instrument(compiling);
    let after = core.config.compile_timeout;
    let compiled = tokio::time::timeout(after, compilation).await;
    core.config.progress.tell(key, &Progress::CompilingEnded);
    let compiled = compiled.map_err(|_| during(Phase::Compiling)(DeployErrorKind::CompileTimeout { after }))?;
    let compiled = compiled.map_err(|error| DeployErrorKind::Compile(Arc::new(error))).map_err(during(Phase::Compiling))?;
    check_contract(&discovered, &compiled).map_err(during(Phase::Compiling))?;
    Ok(Artifact { discovered, digest: component.digest(), compiled, before: None })
}

/// Whether the component is for the contract that its signer says it is for.
fn check_contract(discovered: &Discovered, compiled: &CompiledStub) -> Result<(), DeployErrorKind> {
    let signed = discovered.authenticity.signed().and_then(|signed| signed.statement.contract.as_deref());
    match signed.filter(|signed| *signed != compiled.track()) {
        Some(signed) => Err(DeployErrorKind::OtherContract { signed: SafeText::quote(signed), is: compiled.track().to_owned() }),
        None => Ok(()),
    }
}

/// A sandbox for one instance of a stub that has its URL. Waits if another stub has to make room for it first.
pub(crate) async fn sandbox(
    core: &Core,
    record: &Record,
    presence: &Arc<StubPresence>,
    artifact: &Artifact,
    session: Session,
) -> Result<Sandbox, DeployErrorKind> {
    let (domain, discovered) = (record.key.domain(), &artifact.discovered);
    let settings = core.config.settings(domain);
    let config = SandboxConfig {
        url: presence.stub.clone(),
        domain: domain.clone(),
        configuration: configuration(core, discovered, &settings.configuration)?,
        limits: settings.limits.clone().unwrap_or_else(|| core.config.limits.clone()),
        grants: core.grants(domain, &discovered.descriptor.ports, settings),
        relays: settings.relays.clone(),
        credential_origins: settings.credential_origins.clone(),
    };
    let services = SandboxServices {
        bus: core.bus.clone(),
        egress: core.egress.clone(),
        quota: record.quota.get_or_init(|| core.egress.quota(config.limits.quota())).clone(),
        presence: Arc::clone(presence) as Arc<_>,
        credentials: Arc::new(StubCredentials { module: Arc::clone(&core.identity), login: Arc::clone(&record.login) }),
        session,
    };
    let sandbox = core.room(record).await.and_then(|room| Sandbox::in_room(room, &artifact.compiled, services, config));
    sandbox.map_err(|error| DeployErrorKind::Sandbox(Arc::new(error)))
}

pub(crate) fn trust_state(error: TrustStateError) -> DeployErrorKind {
    DeployErrorKind::TrustState(Arc::new(error))
}

fn catalogue(error: protostub_catalogue::CatalogueError) -> DeployErrorKind {
    DeployErrorKind::Catalogue(Arc::new(error))
}

/// The descriptor's configuration, overridden key by key by the operator's, with the runtime's URL.
fn configuration(core: &Core, discovered: &Discovered, overrides: &Map<String, Value>) -> Result<Arc<str>, DeployErrorKind> {
    let mut configuration = discovered.descriptor.configuration.clone();
    configuration.extend(overrides.clone());
    configuration.insert("runtimeURL".to_owned(), Value::from(core.runtime_url.as_str()));
    let text = Value::Object(configuration).to_string();
    if text.len() > MAX_CONFIGURATION_BYTES {
        return Err(DeployErrorKind::Configuration { bytes: text.len(), limit: MAX_CONFIGURATION_BYTES });
    }
    Ok(text.into())
}

impl Core {
    /// Tells `<runtime>/status` about a stub that cannot speak for itself: before it runs, or when it never did.
    fn announce(&self, record: &Record) {
        let report = record.status.current();
        let mut body = self.config.status_form.body(&report, record.url.get());
        body["domain"] = Value::from(record.key.domain().as_str());
        self.publish_status(body);
    }

    /// The second half of step 22: `<runtime>/status` tells what `<stub>/status` told.
    pub(crate) fn publish_status(&self, body: Value) {
        let mut message = Message::update(self.status_url.clone()).with_body(body);
        message.from = self.runtime_url.clone();
        if let Err(error) = self.bus.publish(message) {
            tracing::debug!(target: "protostub", %error, "a status could not be told to the runtime's subscribers");
        }
    }
}
