//! Settings of single domains.

use std::collections::BTreeSet;

use protostub_catalogue::trust::{PublicKey, Signatures};
use protostub_egress::Rule;
use protostub_sandbox::{CredentialOrigin, LimitOverrides};
use protostub_types::Domain;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{domain_pattern::DomainPattern, restart::RestartOverrides, retirement::Retire};

/// Maximum size of a configuration, in bytes of JSON text, as the contract promises for
/// `configuration.get`.
pub(crate) const MAX_CONFIGURATION_BYTES: usize = 64 * 1024;

/// Per-domain operator settings. They override the domain's descriptor and the runtime's settings.
///
/// ```
/// use std::time::Duration;
///
/// use protostub_runtime::{DomainSettings, LimitOverrides, Retire};
///
/// let mut limits = LimitOverrides::default();
/// limits.memory_bytes = Some(128 << 20);
/// let settings = DomainSettings::new()
///     .grant("*.cdn.example:443".parse()?)
///     .limits(limits)
///     .retire_after(Duration::from_secs(600));
/// assert_eq!(settings.retire_after, Some(Retire::After(Duration::from_secs(600))));
/// # Ok::<(), protostub_runtime::RuleError>(())
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct DomainSettings {
    /// Overrides of the descriptor's `configuration`, key by key.
    pub configuration: Map<String, Value>,
    /// Hosts that the domain's stub may connect to, next to the domain itself.
    pub grants: Vec<Rule>,
    /// Other domains in whose name the domain's stub may post messages.
    pub relays: Vec<Domain>,
    /// Domains whose stubs the domain's stub may deploy, by posting to their addresses or with
    /// `loadStub`. Default: none.
    pub may_deploy: Vec<DomainPattern>,
    /// Interfaces of the host program that the domain's stub may import, by name:
    /// `acme:store/kv@1.0.0`. See [`imports`](crate::imports).
    pub imports: BTreeSet<String>,
    /// Allows private networks as addresses of the names that the domain's stub connects to, and of
    /// the hosts of its descriptor and component. Default: no.
    pub allow_private: bool,
    /// Allows this machine as the address of the names that the domain's stub connects to, and of
    /// the hosts of its descriptor and component. A domain that is loopback by its own name
    /// ([`Domain::is_loopback`]) needs only
    /// [`NetworkSettings::allow_loopback`](crate::NetworkSettings::allow_loopback). Default: no.
    pub allow_loopback: bool,
    /// Accepts a descriptor without a digest of the component. Default: no.
    pub waive_digest: bool,
    /// Accepts an older version after a newer one, and an unsigned version after a signed one, in
    /// an update and in a deployment. Default: no.
    pub allow_older: bool,
    /// Registers the stub at the domain's own Registry while it is deployed (steps 8 and 9).
    /// Default: no.
    pub register: bool,
    /// Required signatures of the domain's stubs. `None` inherits the runtime's
    /// [`TrustPolicy`](crate::trust::TrustPolicy).
    pub signatures: Option<Signatures>,
    /// Keys that the domain signs with. If there are any, the runtime ignores the keys that the
    /// domain publishes. Settings from a file have none: the program adds them.
    #[serde(skip)]
    pub trusted_keys: Vec<PublicKey>,
    /// Time after which the idle stub is retired. `None` inherits the runtime's time. With
    /// [`Retire::Never`], the stub also stays when other stubs need its sandbox.
    #[serde(rename = "retire-after-seconds")]
    pub retire_after: Option<Retire>,
    /// Overrides of the runtime's restarts.
    pub restart: RestartOverrides,
    /// Overrides of the runtime's limits.
    pub limits: LimitOverrides,
    /// Origins that may receive the domain's credential by reference: the stub writes
    /// `{credential}` in the header `authorization` of HTTP requests and WebSocket handshakes. If
    /// there are any, the stub never gets the credential's value. Default: none, the stub gets the
    /// value.
    pub credential_origins: Vec<CredentialOrigin>,
}

impl DomainSettings {
    /// Returns settings that override nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Overrides a key of the descriptor's [`configuration`](Self::configuration).
    #[must_use]
    pub fn configure(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.configuration.insert(key.into(), value.into());
        self
    }

    /// Adds a rule to the [`grants`](Self::grants).
    #[must_use]
    pub fn grant(mut self, rule: Rule) -> Self {
        self.grants.push(rule);
        self
    }

    /// Adds a domain to the [`relays`](Self::relays).
    #[must_use]
    pub fn relay(mut self, domain: Domain) -> Self {
        self.relays.push(domain);
        self
    }

    /// Adds domains whose stubs the domain's stub [may deploy](Self::may_deploy).
    #[must_use]
    pub fn may_deploy(mut self, domains: impl Into<DomainPattern>) -> Self {
        self.may_deploy.push(domains.into());
        self
    }

    /// Adds an interface to the [`imports`](Self::imports).
    #[must_use]
    pub fn import(mut self, interface: impl Into<String>) -> Self {
        self.imports.insert(interface.into());
        self
    }

    /// Sets [`Self::allow_private`].
    #[must_use]
    pub fn allow_private(mut self, allow: bool) -> Self {
        self.allow_private = allow;
        self
    }

    /// Sets [`Self::allow_loopback`].
    #[must_use]
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// Sets [`Self::waive_digest`].
    #[must_use]
    pub fn waive_digest(mut self, waive: bool) -> Self {
        self.waive_digest = waive;
        self
    }

    /// Sets [`Self::allow_older`].
    #[must_use]
    pub fn allow_older(mut self, allow: bool) -> Self {
        self.allow_older = allow;
        self
    }

    /// Sets [`Self::register`].
    #[must_use]
    pub fn register(mut self, register: bool) -> Self {
        self.register = register;
        self
    }

    /// Overrides the required [`signatures`](Self::signatures).
    #[must_use]
    pub fn signatures(mut self, signatures: Signatures) -> Self {
        self.signatures = Some(signatures);
        self
    }

    /// Adds a key to the [`trusted_keys`](Self::trusted_keys).
    #[must_use]
    pub fn trusted_key(mut self, key: PublicKey) -> Self {
        self.trusted_keys.push(key);
        self
    }

    /// Overrides [the time](Self::retire_after) after which the idle stub is retired.
    #[must_use]
    pub fn retire_after(mut self, retire: impl Into<Retire>) -> Self {
        self.retire_after = Some(retire.into());
        self
    }

    /// Overrides the [restarts](Self::restart): some of them, or with a
    /// [`RestartPolicy`](crate::RestartPolicy) all.
    #[must_use]
    pub fn restart(mut self, restart: impl Into<RestartOverrides>) -> Self {
        self.restart = restart.into();
        self
    }

    /// Overrides the [limits](Self::limits): some of them, or with [`Limits`](crate::Limits) all.
    #[must_use]
    pub fn limits(mut self, limits: impl Into<LimitOverrides>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Adds an origin to the [`credential_origins`](Self::credential_origins).
    #[must_use]
    pub fn credential_origin(mut self, origin: CredentialOrigin) -> Self {
        self.credential_origins.push(origin);
        self
    }
}
