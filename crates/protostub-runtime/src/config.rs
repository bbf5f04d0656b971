//! The settings that a runtime reads while it runs.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use protostub_bus::InboxLimits;
use protostub_catalogue::trust::{PublicKey, Signatures};
use protostub_egress::Rule;
use protostub_sandbox::{CrashReport, CredentialOrigin, Limits};
use protostub_types::{Domain, UniqueMap};
use serde_json::{Map, Value};

use crate::{
    domain_pattern::DomainPattern,
    observer::{Observer, Progress},
    restart::RestartPolicy,
    status::StatusForm,
};

/// What an operator says about one domain, over what the domain says itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DomainSettings {
    /// Overrides the descriptor's `configuration`, key by key.
    pub configuration: Map<String, Value>,
    /// Where the domain's stub may connect to, beside the domain itself.
    pub grants: Vec<Rule>,
    /// Whether names may lead the domain's stub, its descriptor and its component into private networks.
    pub allow_private: bool,
    /// Lets names lead the domain's stub, and requests for what the domain publishes, to this
    /// machine. A domain that is loopback by its own name ([`Domain::is_loopback`]) needs only
    /// [`RuntimeBuilder::allow_loopback`]. Default: no.
    pub allow_loopback: bool,
    /// The limits of the domain's stub, in place of the runtime's.
    pub limits: Option<Limits>,
    /// How much may wait for the domain's stub, in place of what the runtime says.
    pub inbox: Option<InboxLimits>,
    /// How large the domain's descriptors may be, in bytes, in place of what the runtime says.
    pub max_descriptor_bytes: Option<usize>,
    /// How large the component of the domain's stub may be, in bytes, in place of what the runtime says.
    pub max_component_bytes: Option<usize>,
    /// The host program's own interfaces that the domain's stub may import, by name: `acme:store/kv@1.0.0`. See [`imports`](crate::imports).
    pub imports: BTreeSet<String>,
    /// Other domains in whose name the domain's stub may post messages.
    pub relays: Vec<Domain>,
    /// The domains whose stubs the domain's own may have deployed, by posting to their addresses or with `loadStub`. Default: none.
    pub may_deploy: Vec<DomainPattern>,
    /// Where the domain's credential may go that its stub refers to in the header `authorization` of HTTP requests and WebSocket handshakes
    /// (`{credential}`): exactly these origins. If there are any, the stub is never given the credential's value. Default: none, it is given the value.
    pub credential_origins: Vec<CredentialOrigin>,
    /// The domain's own Registry is told of its stub while that is deployed (steps 8 and 9).
    pub register: bool,
    /// The descriptor need not have a digest of the component.
    pub waive_digest: bool,
    /// A version may be followed by an older one, or a signed one by one that is not, which is refused otherwise: in an update, and in a deployment
    /// after the other was live.
    pub allow_older: bool,
    /// What is asked of the signatures of the domain's stubs, in place of what the runtime's [`TrustPolicy`] says.
    pub signatures: Option<Signatures>,
    /// The keys that the domain signs with. If there are any, those that it publishes itself are not asked for.
    pub trusted_keys: Vec<PublicKey>,
    /// When the domain's stub gets a new instance after it broke, in place of the runtime's policy.
    pub restart: Option<RestartPolicy>,
    /// After how long without anything to do the domain's stub is retired, in place of what the runtime says. Zero: never, not even to make
    /// room for others.
    pub retire_after: Option<Duration>,
}

/// Everything that a runtime is told before it starts.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) inbox: InboxLimits,
    pub(crate) limits: Limits,
    pub(crate) domains: UniqueMap<Domain, DomainSettings>,
    pub(crate) allow_loopback: bool,
    pub(crate) max_stubs: usize,
    pub(crate) max_sandboxes: Option<usize>,
    pub(crate) retire_after: Option<Duration>,
    pub(crate) deployments_per_minute: u32,
    pub(crate) compile_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) grace: Duration,
    pub(crate) restart: RestartPolicy,
    pub(crate) status_form: StatusForm,
    pub(crate) progress: Observer<Progress>,
    pub(crate) crashes: Observer<CrashReport>,
}

static NO_SETTINGS: LazyLock<DomainSettings> = LazyLock::new(DomainSettings::default);

impl Default for Config {
    fn default() -> Self {
        Self {
            inbox: InboxLimits::default(),
            limits: Limits::default(),
            domains: UniqueMap::new(),
            allow_loopback: false,
            max_stubs: 1000,
            max_sandboxes: None,
            retire_after: None,
            deployments_per_minute: 60,
            compile_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            restart: RestartPolicy::default(),
            status_form: StatusForm::default(),
            progress: Observer::default(),
            crashes: Observer::default(),
        }
    }
}

impl Config {
    pub(crate) fn settings(&self, domain: &Domain) -> &DomainSettings {
        self.domains.get(domain).unwrap_or(&NO_SETTINGS)
    }

    /// Returns whether the stub of a domain, and what the domain publishes, may be on this machine.
    pub(crate) fn reaches_loopback(&self, domain: &Domain) -> bool {
        self.settings(domain).allow_loopback || (self.allow_loopback && domain.is_loopback())
    }

    pub(crate) fn inbox_of(&self, domain: &Domain) -> InboxLimits {
        self.settings(domain).inbox.unwrap_or(self.inbox)
    }
}
