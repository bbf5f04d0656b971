//! Step 12: the sandbox of one instance.

use std::{future::Future, sync::Arc};

use protostub_catalogue::Discovered;
use protostub_sandbox::{Sandbox, SandboxConfig, SandboxPermit, SandboxServices, Session};
use serde_json::{Map, Value};

use crate::{
    artifact::Artifact, context::RuntimeContext, domain_settings::MAX_CONFIGURATION_BYTES, error::DeployErrorKind,
    identity::StubCredentials, record::StubRecord, status::StubPresence,
};

/// Creates the sandbox of one instance of a stub that has its URL. Waits for the permit once all
/// other parts are ready.
pub(crate) async fn sandbox(
    permit: impl Future<Output = Result<SandboxPermit, DeployErrorKind>> + Send,
    context: &RuntimeContext,
    record: &StubRecord,
    presence: &Arc<StubPresence>,
    artifact: &Artifact,
    session: Session,
) -> Result<Sandbox, DeployErrorKind> {
    let (domain, discovered) = (record.key.domain(), &artifact.discovered);
    let settings = context.config.settings(domain);
    let config = SandboxConfig {
        url: presence.stub().clone(),
        domain: domain.clone(),
        configuration: configuration(context, discovered, &settings.configuration)?,
        limits: context.config.limits_of(domain),
        grants: context.grants(domain, &discovered.descriptor.ports, settings),
        relays: settings.relays.clone(),
        credential_origins: settings.credential_origins.clone(),
    };
    let services = SandboxServices {
        bus: context.bus.clone(),
        egress: context.egress.clone(),
        quota: record.quota.get_or_init(|| context.egress.quota(config.limits.quota())).clone(),
        log_allowance: context.log.of(&record.key.to_string(), config.limits.log_bytes_per_day),
        presence: Arc::clone(presence) as Arc<_>,
        credentials: Arc::new(StubCredentials { module: Arc::clone(&context.identity), login: Arc::clone(&record.login) }),
        session,
    };
    let permit = permit.await?;
    Sandbox::with_permit(permit, &artifact.compiled, services, config).map_err(|error| DeployErrorKind::Sandbox(Arc::new(error)))
}

/// Returns the descriptor's configuration with the operator's overrides, key by key, and the
/// runtime's URL.
fn configuration(
    context: &RuntimeContext,
    discovered: &Discovered,
    overrides: &Map<String, Value>,
) -> Result<Arc<str>, DeployErrorKind> {
    let mut configuration = discovered.descriptor.configuration.clone();
    configuration.extend(overrides.clone());
    configuration.insert("runtimeURL".to_owned(), Value::from(context.runtime_url.as_str()));
    let text = Value::Object(configuration).to_string();
    if text.len() > MAX_CONFIGURATION_BYTES {
        return Err(DeployErrorKind::Configuration { bytes: text.len(), limit: MAX_CONFIGURATION_BYTES });
    }
    Ok(text.into())
}
