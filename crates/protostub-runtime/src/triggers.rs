//! Step 1: who may have a stub deployed, and how often.
//!
//! There are four ways to trigger a deployment: the host program's call, `loadStub` over the bus, a hyperty that is registered with a descriptor,
//! and a message to a domain that nobody serves. All of them come by here. What a stub posts deploys nothing unless the
//! operator grants it: or a stub could make the host fetch whatever it likes.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protostub_bus::Origin;
use protostub_types::{Address, StubKey};

use crate::{config::Config, error::DeployErrorKind};

/// How many origins are counted at a time. With more, those are forgotten that have triggered nothing for a while.
const MAX_COUNTED: usize = 1024;

/// Counts what each hyperty and each stub has triggered.
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

    /// Whether `origin` may have one more stub deployed now; if so, it counts. The host program may always.
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

/// Whether `origin` may have the stub with this key at all. A stub needs the operator's grant.
pub(crate) fn authorise(config: &Config, origin: &Origin, key: &StubKey) -> Result<(), DeployErrorKind> {
    let Origin::Stub(stub) = origin else { return Ok(()) };
    let grants = stub.domain().map(|own| config.settings(&own).may_deploy.as_slice());
    if grants.unwrap_or_default().iter().any(|granted| granted.contains(key.domain())) {
        return Ok(());
    }
    Err(DeployErrorKind::NotGranted { stub: stub.clone(), domain: key.domain().clone() })
}
