//! What domains publish: releases of one stub, signed and not, that say which they are.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use protostub_runtime::{
    Body, Domain, MemorySource, Version,
    trust::{SigningAlgorithm, SigningKey, Statement, TrustPolicy, sign},
};
use serde_json::{Value, json};

use crate::{component, stage::descriptor};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A release of a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) version: &'static str,
    pub(super) signed: bool,
}

/// An old one.
pub(super) const OLD: Release = Release { version: "1.0", signed: true };
/// The one that is accepted while all is well.
pub(super) const FIRST: Release = Release { version: "2.0", signed: true };
/// One that its domain has not released.
pub(super) const UNSIGNED: Release = Release { version: "2.1", signed: false };
/// A new one.
pub(super) const NEW: Release = Release { version: "3.0", signed: true };
/// The one that is published when all is well again.
pub(super) const LAST: Release = Release { version: "4.0", signed: true };

const ALL: [Release; 5] = [OLD, FIRST, UNSIGNED, NEW, LAST];

impl Release {
    /// The release with this version.
    pub(super) fn of_version(version: &str) -> Option<Self> {
        ALL.into_iter().find(|release| release.version == version)
    }

    /// The release whose stub answered with its configuration.
    pub(super) fn of_answer(body: Option<&Body>) -> Option<Self> {
        let body: Value = body?.parse().ok()?;
        Self::of_version(body["value"]["version"].as_str()?)
    }

    /// Whether a runtime that accepted `before` may not accept this.
    pub(super) fn is_less_than(self, before: Self) -> bool {
        Version::parse(self.version).ok() < Version::parse(before.version).ok() || before.signed && !self.signed
    }
}

/// The domains' signing key.
pub(super) struct Publisher {
    key: SigningKey,
    component: Vec<u8>,
}

impl Publisher {
    pub(super) fn new() -> Result<Self> {
        let pem = SigningKey::generate(SigningAlgorithm::EdDsa)?;
        let key = SigningKey::from_pem(pem.as_bytes(), Some("2026".to_owned()))?;
        Ok(Self { key, component: component("actor") })
    }

    /// Trusts the key for these domains, and requires nothing: what was signed has to stay so by itself.
    pub(super) fn trusted_by(&self, domains: &[Domain]) -> TrustPolicy {
        let mut policy = TrustPolicy::default();
        for domain in domains {
            policy.domains.entry(domain.clone()).or_default().keys = vec![self.key.public().clone()];
        }
        policy
    }

    /// Puts a release in the place of what the domain published.
    pub(super) fn publish(&self, source: &MemorySource, domain: &Domain, release: Release) -> Result<()> {
        let configuration = json!({ "version": release.version, "signed": release.signed });
        let configuration = configuration.as_object().cloned().unwrap_or_default();
        let mut descriptor = descriptor(release.version, &self.component, configuration)?;
        if release.signed {
            // From before the clock is set back, so that it is not the signature that is in the way.
            let (issued, expires) = (SystemTime::now() - 3 * DAY, SystemTime::now() + 30 * DAY);
            let names = vec!["default".to_owned()];
            let statement = Statement { domain: domain.clone(), names, contract: Some("0.1".to_owned()), issued, expires };
            sign(&mut descriptor, &statement, &self.key)?;
        }
        source.insert(domain, "default", descriptor.to_json(), self.component.clone());
        Ok(())
    }
}
