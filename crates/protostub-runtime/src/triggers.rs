//! Step 1: permission to deploy a stub, and the rate limit.
//!
//! A deployment has four triggers:
//!
//! * a call of the host program
//! * `loadStub` over the bus
//! * the registration of a hyperty with a descriptor
//! * a message to a domain without a stub
//!
//! All of them pass through this module. A stub's messages deploy nothing unless the operator
//! grants it. Otherwise, a stub could make the host fetch any URL.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protostub_bus::Origin;
use protostub_types::{Address, StubKey};

use crate::{config::Config, error::DeployErrorKind};

/// Maximum number of origins that are counted at a time. Above it, origins without a recent trigger
/// are forgotten.
const MAX_COUNTED: usize = 1024;

/// Counts the deployments that each hyperty and each stub has triggered.
#[derive(Debug)]
pub(crate) struct Triggers {
    per_minute: u32,
    counted: Option<DefaultKeyedRateLimiter<Address>>,
}

impl Triggers {
    pub(crate) fn new(per_minute: u32) -> Self {
        let counted = NonZeroU32::new(per_minute).map(|times| RateLimiter::keyed(Quota::per_minute(times)));
        Self { per_minute, counted }
    }

    /// Counts one more deployment by `origin`, or fails if its limit is reached. The host program
    /// has no limit.
    pub(crate) fn count(&self, origin: &Origin) -> Result<(), DeployErrorKind> {
        let (Origin::Hyperty(who) | Origin::Stub(who)) = origin else { return Ok(()) };
        let too_often = || DeployErrorKind::TooOften { who: who.clone(), per_minute: self.per_minute };
        let counted = self.counted.as_ref().ok_or_else(too_often)?;
        if counted.len() >= MAX_COUNTED {
            counted.retain_recent();
        }
        counted.check_key(who).map_err(|_| too_often())
    }
}

/// Checks that `origin` may deploy the stub with this key. A stub needs the operator's grant.
pub(crate) fn authorise(config: &Config, origin: &Origin, key: &StubKey) -> Result<(), DeployErrorKind> {
    let Origin::Stub(stub) = origin else { return Ok(()) };
    let grants = stub.domain().map(|own| config.settings(&own).may_deploy.as_slice());
    if grants.unwrap_or_default().iter().any(|granted| granted.contains(key.domain())) {
        return Ok(());
    }
    Err(DeployErrorKind::NotGranted { stub: stub.clone(), domain: key.domain().clone() })
}
