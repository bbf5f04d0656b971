//! A stub's whole life: its reservation, its deployment, its supervision and its end.

use std::sync::{Arc, Weak};

use protostub_bus::{Inbox, Mailbox, Origin, PostError, Unroutable};
use protostub_types::{Address, AddressError, Domain, Message, StubKey, StubStatus};
use tokio::sync::mpsc;

use crate::{
    context::RuntimeContext,
    deploy::deploy,
    error::{DeployError, DeployErrorKind, Phase, SHUTTING_DOWN, in_full},
    record::StubRecord,
    registry::{Reservation, Reserved, Retry},
    steps::Step,
    supervise::{self, Supervisor},
    triggers,
};

/// Performs steps 1 to 3: returns the record of the stub for `key`. If the stub is not there,
/// starts its deployment, triggered by `origin`. The deployment runs in a task of its own, so that
/// a caller that drops its future does not end it for others.
///
/// # Errors
/// If the stub is not deployed and cannot be deployed now.
pub(crate) fn load_stub(
    context: &Arc<RuntimeContext>,
    key: &StubKey,
    origin: &Origin,
    retry: Retry,
) -> Result<Arc<StubRecord>, DeployError> {
    let reserving = |kind| DeployError { key: key.clone(), phase: Phase::Reserving, kind };
    triggers::authorise(&context.config, origin, key).map_err(reserving)?;
    if let Some(record) = context.registry.discover(key, retry)? {
        return Ok(record);
    }
    let inbox = context.bus.inbox(context.config.inbox_of(key.domain()));
    let (sender, commands) = mpsc::channel(8);
    let record = Arc::new(StubRecord::new(key.clone(), inbox.mailbox(), sender, &context.changes));
    let _loading = record.steps.open(Step::LoadStub, "").entered();
    let reserved = {
        let _discovering = record.steps.open(Step::DiscoverStub, "").entered();
        context.registry.reserve(&record, origin, retry)?
    };
    if let Reserved::Available(record) = reserved {
        return Ok(record);
    }
    let _none_available = record.steps.open(Step::NoneAvailable, "").entered();
    let key_route = match context.bus.attach_key(key, &record.mailbox) {
        Ok(route) => route,
        Err(error) => {
            let error = reserving(DeployErrorKind::Bus(Arc::new(error)));
            context.registry.remove(&record, error.clone().into());
            return Err(error);
        }
    };
    let reservation = Reservation { record: Arc::clone(&record), inbox, commands, key_route };
    context.spawn(run(Owner { context: Arc::clone(context), record: Arc::clone(&record) }, reservation));
    Ok(record)
}

/// Runs a stub's whole life: its deployment, and its supervision until it ends.
async fn run(owner: Owner, reservation: Reservation) {
    // The box is freed after the deployment, so that the task of an idle stub stays small
    // (`idle_stub_kib`).
    if let Some(supervisor) = Box::pin(begin(Arc::clone(&owner.context), reservation)).await {
        supervisor.run().await;
    }
}

/// The owner of a record that was reserved. However its task ends, the key becomes free, and all
/// waiting callers get an error.
struct Owner {
    context: Arc<RuntimeContext>,
    record: Arc<StubRecord>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Self { context, record } = self;
        if record.gone().is_some() {
            return;
        }
        // The task panicked, or the threads are gone.
        let phase = if record.is_deployed() { Phase::Running } else { Phase::Registering };
        let kind = DeployErrorKind::Failed { reason: "the stub's task ended unexpectedly; see the program's output".into() };
        let status = if record.is_deployed() { StubStatus::Failed } else { StubStatus::DeploymentFailed };
        let error = DeployError { key: record.key.clone(), phase, kind };
        tracing::error!(target: "protostub", domain = %record.key, error = %in_full(&error), "the task of a protocol stub was lost");
        let _ = record.status.advance(status, Some(in_full(&error)));
        context.announce(record);
        context.registry.remove(record, error.into());
    }
}

/// Deploys the stub, and starts its supervision. If the deployment failed, returns `None` after all
/// waiting callers have the failure.
async fn begin(context: Arc<RuntimeContext>, reservation: Reservation) -> Option<Box<Supervisor>> {
    let record = Arc::clone(&reservation.record);
    record.status.begin();
    context.announce(&record);
    let outcome = tokio::select! {
        biased;
        // The deployment's inbox is dropped with it, which answers the waiting messages.
        () = context.stop.cancelled() => Err((None, DeployError::shut_down(&record.key))),
        outcome = context.turns.run(deploy(&context, reservation, supervise::permit(&context, &record))) => outcome,
    };
    match outcome {
        Ok(deployed) => Some(Supervisor::begin(context, deployed)),
        Err((inbox, error)) => {
            fail(&context, &record, inbox, error);
            None
        }
    }
}

/// Publishes the failure, and answers all waiting messages and callers. The deployment has undone
/// itself.
fn fail(context: &RuntimeContext, record: &Arc<StubRecord>, inbox: Option<Inbox>, error: DeployError) {
    let reason = in_full(&error);
    tracing::warn!(target: "protostub", domain = %record.key, error = %reason, "failed to deploy the protocol stub");
    let _ = record.status.advance(StubStatus::DeploymentFailed, Some(reason.clone()));
    context.announce(record);
    context.registry.remove(record, error.into());
    if let Some(inbox) = inbox {
        inbox.close(503, &reason);
    }
}

/// Step 1, triggered by a message to a domain without a stub.
#[derive(Debug)]
pub(crate) struct DeployOnDemand {
    pub(crate) context: Weak<RuntimeContext>,
}

impl Unroutable for DeployOnDemand {
    fn unroutable(&self, origin: &Origin, key: &StubKey, message: &Message) -> Result<Mailbox, PostError> {
        let Some(context) = self.context.upgrade() else {
            return Err(PostError::new(503, &message.to, SHUTTING_DOWN));
        };
        let loaded = load_stub(&context, key, origin, Retry::AfterPause);
        let record = loaded.map_err(|error| match error.kind {
            // For a stub that may not deploy, an address of the home domain is on this bus or does
            // not exist.
            DeployErrorKind::NotGranted { .. } if *key.domain() == context.home => {
                PostError::new(404, &message.to, format!("the address has no listener, and {}", error.kind))
            }
            _ => PostError::new(error.kind.code(), &message.to, in_full(&error).to_string()),
        })?;
        Ok(record.mailbox.clone())
    }
}

/// Returns the key of a domain, an address, or the URL of a stub in a catalogue.
pub(crate) fn key_of(target: &str, home: &Domain) -> Result<StubKey, AddressError> {
    if let Some(key) = StubKey::of_catalogue_url(target) {
        return Ok(key);
    }
    let address = Address::parse(target)?;
    StubKey::of(&address, home).ok_or_else(|| AddressError::without_domain(&address))
}
