//! Protection against rollback attacks: the last accepted version limits the versions after it.

use std::sync::Arc;

use protostub_catalogue::{AcceptedRelease, Discovered, TrustStateError, trust::Authenticity};
use protostub_types::Version;

use crate::{context::RuntimeContext, error::DeployErrorKind};

/// Refuses an older version after a newer one, and an unsigned version after a signed one.
///
/// An attacker can make a domain publish an old version, with its old faults. A runtime that has
/// accepted a newer version refuses the old one.
pub(crate) fn refuse_downgrade(
    context: &RuntimeContext,
    discovered: &Discovered,
    before: Option<&AcceptedRelease>,
) -> Result<(), DeployErrorKind> {
    if context.config.settings(discovered.key.domain()).allow_older {
        return Ok(());
    }
    let Some(AcceptedRelease { version: committed, signed, .. }) = before else { return Ok(()) };
    let published = &discovered.descriptor.version;
    if published < committed {
        return Err(DeployErrorKind::Older { published: published.clone(), committed: committed.clone() });
    }
    if *signed { refuse_unsigned(discovered, committed) } else { Ok(()) }
}

/// Refuses an unsigned version after the version `before`, which was signed.
pub(crate) fn refuse_unsigned(discovered: &Discovered, before: &Version) -> Result<(), DeployErrorKind> {
    let problem = match &discovered.authenticity {
        Authenticity::Unsigned => "the descriptor has no signature".into(),
        Authenticity::Unverified { reason } => reason.clone(),
        _ => return Ok(()),
    };
    Err(DeployErrorKind::NoLongerSigned { committed: before.clone(), problem })
}

pub(crate) fn trust_state(error: TrustStateError) -> DeployErrorKind {
    DeployErrorKind::TrustState(Arc::new(error))
}
