//! "Deploy Protocol Stub": the 22 steps, from a domain without a stub to a stub on the bus.
//!
//! [`deploy`] is one line of steps. Each consumes the result of the step before it. Dropping a
//! result undoes its step: routes detach, and a sandbox is freed with its store.

pub(crate) mod downgrade;
mod obtain;
mod sandbox;
pub(crate) mod update;

use std::{future::Future, sync::Arc};

use protostub_bus::{Inbox, Route};
use protostub_sandbox::{Sandbox, SandboxPermit, StubHandle, StubTask};
use protostub_types::StubStatus;
use tokio::sync::mpsc;
use tracing::Instrument as _;

pub(crate) use self::sandbox::sandbox;
use self::{
    downgrade::{refuse_downgrade, trust_state},
    obtain::{catalogue, obtain},
};
use crate::{
    artifact::{Artifact, published},
    command::Command,
    context::RuntimeContext,
    error::{DeployError, DeployErrorKind, Phase},
    record::StubRecord,
    registry::Reservation,
    status::{StatusPublisher, StubPresence},
    steps::Step,
};

/// A stub after step 20. Dropping it removes the stub from the bus.
pub(crate) struct Deployed {
    pub(crate) record: Arc<StubRecord>,
    pub(crate) presence: Arc<StubPresence>,
    pub(crate) artifact: Artifact,
    pub(crate) handle: StubHandle,
    pub(crate) task: StubTask,
    pub(crate) commands: mpsc::Receiver<Box<Command>>,
    /// The domain's route, the stub's own, and the registry's listener on its status.
    pub(crate) routes: [Route; 3],
}

/// A deployment that failed. The inbox may hold messages. It is lost with an instance that crashed.
pub(crate) type FailedDeployment = (Option<Inbox>, DeployError);

/// Performs steps 4 to 20. It awaits the permit for the sandbox at step 12.
pub(crate) async fn deploy(
    context: &Arc<RuntimeContext>,
    reservation: Reservation,
    permit: impl Future<Output = Result<SandboxPermit, DeployErrorKind>> + Send,
) -> Result<Deployed, FailedDeployment> {
    let Reservation { record, inbox, commands, key_route } = reservation;
    let prepared = match prepare(context, &record, permit).await {
        Ok(prepared) => prepared,
        Err(error) => return Err((Some(inbox), error)),
    };
    let Prepared { presence, artifact, sandbox, status_route, stub_route } = prepared;
    let steps = &record.steps;

    let deploying = steps.open(Step::DeployComponent, "");
    let deployed = sandbox.deploy_component(inbox).instrument(deploying).await;
    let (handle, task) = deployed.map_err(|error| {
        context.report(&record, error.crash);
        let kind = DeployErrorKind::Start(Arc::new(error.kind));
        (Some(error.inbox), DeployError { key: record.key.clone(), phase: Phase::Starting, kind })
    })?;
    steps.mark(Step::ComponentDeployed, "");

    let _ = record.status.advance(StubStatus::Deployed, None);
    record.deployed();
    steps.mark(Step::Successful, "");
    let routes = [key_route, stub_route, status_route];
    Ok(Deployed { record, presence, artifact, handle, task, commands, routes })
}

/// The results of steps 4 to 15 and 19.
struct Prepared {
    presence: Arc<StubPresence>,
    artifact: Artifact,
    sandbox: Sandbox,
    status_route: Route,
    stub_route: Route,
}

async fn prepare(
    context: &Arc<RuntimeContext>,
    record: &Arc<StubRecord>,
    permit: impl Future<Output = Result<SandboxPermit, DeployErrorKind>> + Send,
) -> Result<Prepared, DeployError> {
    let (key, steps) = (&record.key, &record.steps);
    let during = |phase| move |kind| DeployError { key: key.clone(), phase, kind };

    let asking = steps.open(Step::GetDescriptor, &key.descriptor_name());
    let (discovered, before) = tokio::join!(context.catalogue.discover(key).instrument(asking), context.catalogue.committed(key));
    let discovered = discovered.map_err(|error| catalogue(record, error)).map_err(during(Phase::Discovering))?;
    record.publish(published(&discovered));
    steps.mark(Step::Descriptor, discovered.url.as_str());
    let before = before.map_err(trust_state).map_err(during(Phase::Discovering))?;
    refuse_downgrade(context, &discovered, before.as_ref()).map_err(during(Phase::Discovering))?;
    if before.is_none() {
        // This check comes first, so that nothing is fetched for a stub that could not be live.
        context.catalogue.check_commit(key).await.map_err(trust_state).map_err(during(Phase::Discovering))?;
    }
    let artifact = Artifact { before, ..obtain(context, record, discovered).await? };
    record.publish(artifact.published());

    let registering = during(Phase::Registering);
    steps.mark(Step::RegisterStub, "");
    let url = context.registry.generate_stub_url(record).map_err(DeployErrorKind::Address).map_err(&registering)?;
    steps.stub_is(&url);
    steps.mark(Step::GenerateStubUrl, url.as_str());
    let topic = url.join("status").map_err(DeployErrorKind::Address).map_err(&registering)?;
    let listening = steps.open(Step::ListenForStatus, topic.as_str());
    let attached = |route: Result<Route, _>| route.map_err(|error| DeployErrorKind::Bus(Arc::new(error)));
    let status_route = attached(context.bus.attach(&topic, &context.registry_mailbox)).map_err(&registering)?;
    drop(listening);
    steps.mark(Step::StubUrl, url.as_str());

    let publisher = StatusPublisher {
        stub: url.clone(),
        topic,
        bus: context.bus.clone(),
        form: context.config.status_form,
        steps: Arc::clone(&record.steps),
    };
    let presence = Arc::new(StubPresence::new(publisher, &record.status, &record.limit_counters));
    presence.set_admission(artifact.admission());
    let making = steps.open(Step::NewSandbox, "");
    let sandbox = sandbox(permit, context, record, &presence, &artifact, record.session.clone()).await.map_err(&registering)?;
    drop(making);
    steps.mark(Step::Sandbox, "");
    steps.mark(Step::RegisterSandbox, "");
    let sandbox_url = context.registry.register_sandbox(record).map_err(DeployErrorKind::Address).map_err(&registering)?;
    steps.mark(Step::SandboxUrl, sandbox_url.as_str());

    let attaching = steps.open(Step::ListenForMessages, "");
    record.mailbox.set_owner(&url);
    let stub_route = attached(context.bus.attach(&url, &record.mailbox)).map_err(&registering)?;
    drop(attaching);
    Ok(Prepared { presence, artifact, sandbox, status_route, stub_route })
}
