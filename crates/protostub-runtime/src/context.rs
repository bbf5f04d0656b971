//! The context that all parts of a running runtime share.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use protostub_bus::{Bus, Mailbox};
use protostub_catalogue::Catalogue;
use protostub_egress::{Egress, Grants};
use protostub_sandbox::{CrashReport, Engine};
use protostub_types::{Address, Allowances, Domain, Message};
use serde_json::Value;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config, crash_reports::CrashReports, domain_settings::DomainSettings, error::DeployErrorKind,
    identity::IdentityModule, record::StubRecord, registry::Registry, status::ChangeFeed, turns::Turns,
};

pub(crate) struct RuntimeContext {
    pub(crate) config: Config,
    pub(crate) home: Domain,
    /// `runtime://<home>/<id>`
    pub(crate) runtime_url: Address,
    /// `<runtime>/status`
    pub(crate) status_url: Address,
    pub(crate) bus: Bus,
    pub(crate) catalogue: Catalogue,
    pub(crate) egress: Egress,
    pub(crate) engine: EngineSlot,
    /// The log lines of all stubs in a day.
    pub(crate) log: Arc<Allowances>,
    pub(crate) crashes: CrashReports,
    pub(crate) registry: Registry,
    /// The status changes of all stubs.
    pub(crate) changes: ChangeFeed,
    /// Receiver of statuses and of requests to the Registry.
    pub(crate) registry_mailbox: Mailbox,
    pub(crate) identity: Arc<IdentityModule>,
    pub(crate) threads: Handle,
    pub(crate) turns: Turns,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when everything has to end.
    pub(crate) stop: CancellationToken,
    /// Cancelled when no stub is left and no further status comes.
    pub(crate) stubs_ended: CancellationToken,
}

/// The engine of a running runtime. The slot is empty after the runtime's end: the handles of the
/// host program keep the context, and an engine reserves address space for all its sandboxes.
#[derive(Debug)]
pub(crate) struct EngineSlot(Mutex<Option<Engine>>);

impl EngineSlot {
    pub(crate) fn new(engine: Engine) -> Self {
        Self(Mutex::new(Some(engine)))
    }

    /// Returns the engine.
    ///
    /// # Errors
    /// If the runtime has ended.
    pub(crate) fn get(&self) -> Result<Engine, DeployErrorKind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(DeployErrorKind::ShutDown)
    }

    /// Drops the engine. Instances that still run keep their own reference until they end.
    pub(crate) fn clear(&self) {
        let engine = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Dropped without the lock: returning the memory takes time.
        drop(engine);
    }
}

impl RuntimeContext {
    /// Runs a task on the library's own threads. The shutdown waits for it.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn_on(task, &self.threads)
    }

    /// Ends the bus and the hyperties. No message is posted after this call, and hyperties receive
    /// only the messages that they have.
    pub(crate) fn end(&self, reason: &str) {
        self.bus.shut_down(reason);
        self.registry.end_hyperties(reason);
    }

    /// Returns the hosts that a stub of `domain` may connect to: its own domain, on the usual ports
    /// and those of its descriptor, and the operator's grants.
    pub(crate) fn grants(&self, domain: &Domain, ports: &[u16], settings: &DomainSettings) -> Grants {
        let own = Grants::same_domain(domain, ports).allow_loopback(self.config.reaches_loopback(domain));
        settings.grants.iter().cloned().fold(own.allow_private(settings.allow_private), Grants::allow)
    }

    /// Publishes at `<runtime>/status` the status of a stub that does not run yet, or never ran.
    pub(crate) fn announce(&self, record: &StubRecord) {
        let report = record.status.current();
        let mut body = self.config.status_form.body(&report, record.url.get());
        let domain = record.key.domain().as_str();
        body["domain"] = Value::from(domain);
        self.publish_status(body, record.url.get().map_or(domain, Address::as_str));
    }

    /// Performs the second half of step 22: publishes at `<runtime>/status` the status from
    /// `<stub>/status`. `stub` is the URL of the stub, or its domain: a subscriber that does not
    /// read keeps the newest status of each stub.
    pub(crate) fn publish_status(&self, body: Value, stub: &str) {
        let mut message = Message::update(self.status_url.clone()).with_body(body);
        message.from = self.runtime_url.clone();
        if let Err(error) = self.bus.publish(message, stub) {
            tracing::debug!(target: "protostub", %error, "failed to publish a status to the runtime's subscribers");
        }
    }

    /// Records and reports a crash, or a limit that was exceeded, if there is a report of it.
    pub(crate) fn report(&self, record: &Arc<StubRecord>, crash: Option<Arc<CrashReport>>) {
        if let Some(crash) = crash {
            let limits = self.config.limits_of(record.key.domain());
            self.crashes.report(record, crash, limits.crash_reports_per_hour);
        }
    }
}

impl std::fmt::Debug for RuntimeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeContext").field("runtime_url", &self.runtime_url).finish_non_exhaustive()
    }
}
