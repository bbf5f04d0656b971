//! Eviction: the runtime retires an idle stub if another one needs its sandbox.

use std::{sync::Arc, time::Duration};

use protostub_sandbox::SandboxPermit;
use tokio::{sync::oneshot, time::timeout};

use crate::{command::Command, context::RuntimeContext, error::DeployErrorKind, record::StubRecord};

/// Minimum idle time of a stub before it is retired for another one. A stub that waits for its
/// server for a moment is not idle.
const IDLE_ENOUGH: Duration = Duration::from_secs(1);
/// Maximum number of stubs that are asked, one after another, before the idle stubs are listed
/// again.
const CANDIDATES: usize = 8;
/// Maximum number of lists of idle stubs, one every quarter of a second.
const ROOM_ATTEMPTS: usize = 20;

/// Returns a permit for one more sandbox. If no permit is left, retires the stub that has been idle
/// for longest. Never retires `own`, whose supervisor may be the caller.
pub(crate) async fn permit(context: &RuntimeContext, own: &StubRecord) -> Result<SandboxPermit, DeployErrorKind> {
    let engine = context.engine.get()?;
    let failed = |error| DeployErrorKind::Sandbox(Arc::new(error));
    let full = match engine.try_acquire_permit() {
        Ok(permit) => return Ok(permit),
        Err(full) => full,
    };
    // A busy stub may be idle in a moment.
    for _ in 0..ROOM_ATTEMPTS {
        for record in context.registry.longest_idle(IDLE_ENOUGH, CANDIDATES) {
            let may_retire = context.config.gives_way(record.key.domain());
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
                    permit = engine.acquire_permit() => permit.ok(),
                    // The sandbox is free now, unless another stub took it.
                    retired = retired => retired.ok().filter(|retired| *retired).and_then(|_| engine.try_acquire_permit().ok()),
                }
            };
            if let Ok(Some(permit)) = timeout(context.config.lifecycle.grace, made).await {
                return Ok(permit);
            }
        }
        if let Ok(permit) = timeout(IDLE_ENOUGH / 4, engine.acquire_permit()).await {
            return permit.map_err(failed);
        }
    }
    Err(failed(full))
}
