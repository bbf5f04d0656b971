//! What every part of a running runtime shares.

use std::{future::Future, sync::Arc, time::Duration};

use protostub_bus::{Bus, Mailbox, Origin, PostError, Unroutable};
use protostub_catalogue::Catalogue;
use protostub_egress::{Egress, Grants};
use protostub_sandbox::{Engine, SandboxError, SandboxPermit};
use protostub_types::{Address, Domain, Message, StubKey};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, DomainSettings},
    deploy::load_stub,
    error::in_full,
    identity::IdentityModule,
    registry::{Record, Registry},
    supervise::Command,
    triggers::Triggers,
};

/// How long a stub has had nothing to do if it is to make room for another one: one that waits for its server for a moment is not idle.
const IDLE_ENOUGH: Duration = Duration::from_secs(1);
/// How many are asked, one after the other, before it is looked anew who is idle.
const CANDIDATES: usize = 8;
/// How often it is looked, every quarter of a second.
const ROOM_ATTEMPTS: usize = 20;

/// Why things end that nobody has ended.
pub(crate) const SHUTTING_DOWN: &str = "the runtime is shutting down";

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) home: Domain,
    /// `runtime://<home>/<id>`
    pub(crate) runtime_url: Address,
    /// `<runtime>/status`
    pub(crate) status_url: Address,
    pub(crate) bus: Bus,
    pub(crate) catalogue: Catalogue,
    pub(crate) egress: Egress,
    pub(crate) engine: Engine,
    pub(crate) registry: Registry,
    pub(crate) triggers: Triggers,
    /// Where statuses, and requests to the registry, go.
    pub(crate) registry_mailbox: Mailbox,
    pub(crate) identity: Arc<IdentityModule>,
    pub(crate) threads: Handle,
    pub(crate) tasks: TaskTracker,
    /// Everything is to end.
    pub(crate) stop: CancellationToken,
    /// No stub is left: what the Registry has not heard by then, it never will.
    pub(crate) stubs_ended: CancellationToken,
}

impl Core {
    /// Runs a task on the library's own threads; shutdown waits for it.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn_on(task, &self.threads)
    }

    /// Everything has ended: nothing is posted any more, and hyperties have what they have.
    pub(crate) fn end(&self, reason: &str) {
        self.bus.shut_down(reason);
        self.registry.end_hyperties(reason);
    }

    /// Room for one more sandbox. If there is none, the stub that has been idle for longest makes it, but for `own`, whose supervisor may be who asks.
    pub(crate) async fn room(&self, own: &Record) -> Result<SandboxPermit, SandboxError> {
        let full = match self.engine.try_acquire_permit() {
            Ok(room) => return Ok(room),
            Err(full) => full,
        };
        // Those that were busy may be idle in a moment.
        for _ in 0..ROOM_ATTEMPTS {
            for record in self.registry.longest_idle(IDLE_ENOUGH, CANDIDATES) {
                let may_retire = self.config.settings(record.key.domain()).retire_after != Some(Duration::ZERO);
                if std::ptr::eq(&*record, own) || !may_retire {
                    continue;
                }
                let (done, retired) = oneshot::channel();
                if record.commands.try_send(Box::new(Command::Retire { idle: IDLE_ENOUGH, done })).is_err() {
                    continue;
                }
                let made = async {
                    tokio::select! {
                        biased;
                        room = self.engine.acquire_permit() => room.ok(),
                        // Its room is free by now, if nobody was quicker.
                        retired = retired => retired.ok().filter(|retired| *retired).and_then(|_| self.engine.try_acquire_permit().ok()),
                    }
                };
                if let Ok(Some(room)) = timeout(self.config.grace, made).await {
                    return Ok(room);
                }
            }
            if let Ok(room) = timeout(IDLE_ENOUGH / 4, self.engine.acquire_permit()).await {
                return room;
            }
        }
        Err(full)
    }

    /// Where a stub of `domain` may connect to: its own domain, on the usual ports and those of its descriptor, and what the operator grants.
    pub(crate) fn grants(&self, domain: &Domain, ports: &[u16], settings: &DomainSettings) -> Grants {
        let own = Grants::same_domain(domain, ports).allow_loopback(self.config.reaches_loopback(domain));
        settings.grants.iter().cloned().fold(own.allow_private(settings.allow_private), Grants::allow)
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("runtime_url", &self.runtime_url).finish_non_exhaustive()
    }
}

/// Step 1, triggered by a message to a domain that nobody serves.
#[derive(Debug)]
pub(crate) struct DeployOnDemand {
    pub(crate) core: std::sync::Weak<Core>,
}

impl Unroutable for DeployOnDemand {
    fn unroutable(&self, origin: &Origin, key: &StubKey, message: &Message) -> Result<Mailbox, PostError> {
        let Some(core) = self.core.upgrade() else {
            return Err(PostError::new(503, &message.to, SHUTTING_DOWN));
        };
        let loaded = load_stub(&core, key, origin, false);
        let record = loaded.map_err(|error| PostError::new(error.kind.code(), &message.to, in_full(&error).to_string()))?;
        Ok(record.mailbox.clone())
    }
}
