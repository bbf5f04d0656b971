//! Steps 4 to 7 of an update, and the handover to the stub's supervisor.

use std::{cmp::Ordering, sync::Arc};

use protostub_catalogue::Discovered;

use super::{downgrade, obtain};
use crate::{
    artifact::{Artifact, Release},
    command::Command,
    context::RuntimeContext,
    error::{DeployError, DeployErrorKind},
    record::StubRecord,
    update::{AvailableUpdate, UpdateError, UpdateErrorKind, Updated},
};

/// Returns the published version if it differs from the running one.
pub(crate) async fn check(context: &RuntimeContext, record: &StubRecord) -> Result<Option<AvailableUpdate>, UpdateError> {
    let (available, _) = ask(context, record).await.map_err(|kind| UpdateError { key: record.key.clone(), kind })?;
    Ok(available)
}

/// Fetches the published version, and lets the stub's supervisor replace the running one.
pub(crate) async fn update(context: &RuntimeContext, record: &StubRecord) -> Result<Updated, UpdateError> {
    obtain_and_replace(context, record).await.map_err(|kind| UpdateError { key: record.key.clone(), kind })
}

async fn obtain_and_replace(context: &RuntimeContext, record: &StubRecord) -> Result<Updated, UpdateErrorKind> {
    let (available, discovered) = ask(context, record).await?;
    let running = running(record)?;
    let up_to_date = || Ok(Updated::UpToDate { version: running.version.clone() });
    let Some(available) = available else { return up_to_date() };
    if available.is_older() && !context.config.settings(record.key.domain()).allow_older {
        return Err(UpdateErrorKind::Older { published: available.version, running: running.version });
    }
    if running.signed && !context.config.settings(record.key.domain()).allow_older {
        downgrade::refuse_unsigned(&discovered, &running.version).map_err(|error| UpdateErrorKind::Obtain(Box::new(error)))?;
    }
    let refused = |kind| UpdateErrorKind::Obtain(Box::new(kind));
    let before = context.catalogue.committed(&record.key).await.map_err(downgrade::trust_state).map_err(refused)?;
    downgrade::refuse_downgrade(context, &discovered, before.as_ref()).map_err(refused)?;
    // The running version continues meanwhile.
    let obtained = obtain::obtain(context, record, discovered).await;
    let artifact = Artifact { before, ..obtained.map_err(|error: DeployError| refused(error.kind))? };
    // A new signature alone is not a reason for another instance.
    if (Release { signed: running.signed, ..artifact.published() }) == running {
        return up_to_date();
    }
    if artifact.to_commit().is_some() {
        context.catalogue.check_commit(&record.key).await.map_err(downgrade::trust_state).map_err(refused)?;
    }
    let artifact = Arc::new(artifact);
    record.ask(|done| Command::Update { artifact, done }).await??;
    Ok(Updated::Updated { from: running.version, to: available.version })
}

/// Returns the running release.
fn running(record: &StubRecord) -> Result<Release, UpdateErrorKind> {
    let absent = || record.gone().map_or(UpdateErrorKind::NotDeployed, UpdateErrorKind::Gone);
    record.published().ok_or_else(absent)
}

/// Asks the domain for its descriptor. The domain itself has to answer.
async fn ask(context: &RuntimeContext, record: &StubRecord) -> Result<(Option<AvailableUpdate>, Discovered), UpdateErrorKind> {
    let running = running(record)?;
    let discovered = context.catalogue.revalidate(&record.key).await;
    let discovered =
        discovered.map_err(|error| UpdateErrorKind::Obtain(Box::new(DeployErrorKind::Catalogue(Arc::new(error)))))?;
    let (version, digest) = (discovered.descriptor.version.clone(), discovered.descriptor.digest());
    // Without a digest, only the component itself would show a difference.
    let is_other = version.cmp(&running.version) != Ordering::Equal || (digest.is_some() && digest != running.digest);
    let available = AvailableUpdate { version, digest, running: running.version };
    Ok((is_other.then_some(available), discovered))
}
