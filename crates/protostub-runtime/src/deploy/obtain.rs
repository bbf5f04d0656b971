//! Steps 6 and 7, and the compilation.

use std::sync::Arc;

use protostub_catalogue::{CatalogueError, Discovered, Fault};
use protostub_sandbox::CompiledStub;
use protostub_types::SafeText;
use tracing::Instrument as _;

use crate::{
    artifact::Artifact,
    context::RuntimeContext,
    error::{DeployError, DeployErrorKind, Phase},
    observer::Progress,
    record::StubRecord,
    steps::Step,
};

/// Performs steps 6 and 7 and the compilation, for the first version or for an update.
pub(crate) async fn obtain(
    context: &RuntimeContext,
    record: &StubRecord,
    discovered: Discovered,
) -> Result<Artifact, DeployError> {
    let (key, steps) = (&record.key, &record.steps);
    let during = |phase| move |kind| DeployError { key: key.clone(), phase, kind };

    let granted = &context.config.settings(key.domain()).imports;
    let engine = context.engine.get().map_err(during(Phase::Fetching))?;
    let fetching = steps.open(Step::GetComponent, "");
    // A component that other domains publish too, or that ran a moment ago, is already verified and
    // compiled.
    if let Some(digest) = discovered.descriptor.digest()
        && let Ok(Some(compiled)) = engine.compiled(digest, granted).await
        && context.catalogue.admits(&discovered, compiled.component_bytes())
    {
        drop(fetching);
        steps.mark(Step::Component, &format!("{} bytes, sha256 {digest}, as compiled before", compiled.component_bytes()));
        check_contract(&discovered, &compiled).map_err(during(Phase::Compiling))?;
        return Ok(Artifact { discovered, digest, compiled, before: None });
    }
    let fetched = context.catalogue.fetch(&discovered).instrument(fetching).await;
    let component = fetched.map_err(|error| catalogue(record, error)).map_err(during(Phase::Fetching))?;
    steps.mark(Step::Component, &format!("{} bytes, sha256 {}", component.bytes().len(), component.digest()));

    let compiling = tracing::info_span!(target: "protostub", "compile", domain = %key);
    context.config.progress.notify(key, &Progress::Compiling);
    let bytes = component.bytes().clone();
    let compilation = engine.compile_with_imports(bytes, component.digest(), granted).instrument(compiling);
    let after = context.config.lifecycle.compile_timeout;
    let compiled = tokio::time::timeout(after, compilation).await;
    context.config.progress.notify(key, &Progress::CompilingEnded);
    let compiled = compiled.map_err(|_| during(Phase::Compiling)(DeployErrorKind::CompileTimeout { after }))?;
    let compiled = compiled.map_err(|error| DeployErrorKind::Compile(Arc::new(error))).map_err(during(Phase::Compiling))?;
    check_contract(&discovered, &compiled).map_err(during(Phase::Compiling))?;
    Ok(Artifact { discovered, digest: component.digest(), compiled, before: None })
}

/// Checks that the component is for the track of the contract that its signer states.
fn check_contract(discovered: &Discovered, compiled: &CompiledStub) -> Result<(), DeployErrorKind> {
    let signed = discovered.authenticity.signed().and_then(|signed| signed.statement.contract.as_deref());
    match signed.filter(|signed| *signed != compiled.track()) {
        Some(signed) => Err(DeployErrorKind::OtherContract { signed: SafeText::quote(signed), is: compiled.track().to_owned() }),
        None => Ok(()),
    }
}

/// Returns the error of a descriptor or a component. A limit of downloads counts as one that the
/// stub has reached.
pub(crate) fn catalogue(record: &StubRecord, error: CatalogueError) -> DeployErrorKind {
    if let Fault::Downloads { limit, .. } = error.fault() {
        record.limit_counters.count(limit.setting());
    }
    DeployErrorKind::Catalogue(Arc::new(error))
}
