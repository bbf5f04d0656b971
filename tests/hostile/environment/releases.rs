//! Releases of one stub, signed and unsigned. Each answers with its version.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use protostub_artifacts::component;
use protostub_runtime::{
    Body, Domain, MemorySource, Version,
    trust::{SigningAlgorithm, SigningKey, Statement, TrustPolicy, sign},
};
use protostub_test_support::version;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A release of a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) version: &'static str,
    pub(super) signed: bool,
}

/// An old release.
pub(super) const OLD: Release = Release { version: "1.0", signed: true };
/// The release before the failure.
pub(super) const FIRST: Release = Release { version: "2.0", signed: true };
/// A higher one without a signature.
pub(super) const UNSIGNED: Release = Release { version: "2.1", signed: false };
/// A new release.
pub(super) const NEW: Release = Release { version: "3.0", signed: true };
/// The release after the recovery.
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

    /// Returns `true` if a runtime that accepted `before` must refuse this release.
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

    /// Trusts the key for these domains, without requiring signatures.
    pub(super) fn trusted_by(&self, domains: &[Domain]) -> TrustPolicy {
        let mut policy = TrustPolicy::default();
        for domain in domains {
            policy.domains.entry(domain.clone()).or_default().keys = vec![self.key.public().clone()];
        }
        policy
    }

    /// Publishes a release in place of the domain's last one.
    pub(super) fn publish(&self, source: &MemorySource, domain: &Domain, release: Release) -> Result<()> {
        let configuration = json!({ "version": release.version, "signed": release.signed });
        let mut descriptor = version(release.version, &self.component, configuration);
        if release.signed {
            // The signature holds before and after the clock is set back.
            let (issued, expires) = (SystemTime::now() - 3 * DAY, SystemTime::now() + 30 * DAY);
            let names = vec!["default".to_owned()];
            let statement = Statement { domain: domain.clone(), names, contract: Some("0.1".to_owned()), issued, expires };
            sign(&mut descriptor, &statement, &self.key)?;
        }
        source.insert(domain, "default", descriptor.to_json(), self.component.clone());
        Ok(())
    }
}
