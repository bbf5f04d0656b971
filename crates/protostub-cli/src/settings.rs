//! What a runtime is told: in a TOML file, and in flags, which come on top of it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use protostub_catalogue::{Bounds, CatalogueConfig};
use protostub_runtime::{
    CedarPolicy, CredentialOrigin, CredentialOriginError, DomainPattern, DomainPatternError, DomainSettings, InboxLimits, Limits,
    RestartPolicy, Rule, RuleError, Runtime, RuntimeBuilder,
    trust::{PublicKey, Signatures, SignaturesError, TrustPolicy},
};
use protostub_sandbox::CompileWorker;
use protostub_types::{Address, Domain, Sha256Digest, UniqueMap};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::{
    credentials::{Credential, OAuth2, Providers},
    failure::Failure,
    keygen,
};

/// Default time that the compilation of a component may take: that of
/// [`RuntimeBuilder::compile_timeout`].
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// How alike two keys are if one of them may be meant by the other, from 0 to 1: as clap judges flags.
const NEAR: f64 = 0.7;

/// The flags of commands that look for stubs.
#[derive(Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Runtime")]
pub(crate) struct RuntimeFlags {
    /// Settings in a TOML file, as protostub.example.toml explains them; what flags say comes on top
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The runtime's home domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) home: Option<Domain>,

    /// Keep components, and their compiled forms, in this folder
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,

    /// Let stubs of loopback domains be found on, and talk to, this machine, without TLS too
    #[arg(long)]
    pub(crate) allow_loopback: bool,

    /// Ask catalogues over HTTP where HTTPS has no answer
    #[arg(long)]
    allow_http: bool,

    /// Trust the certificates in this PEM file as roots too; can be repeated
    #[arg(long = "trust-root", value_name = "FILE")]
    trust_roots: Vec<PathBuf>,

    /// Connect through this HTTP proxy
    #[arg(long, value_name = "URL")]
    proxy: Option<Url>,
}

/// The flag of commands that run stubs.
#[derive(Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Runtime")]
pub(crate) struct GrantFlags {
    /// Let the stub of DOMAIN connect to a host beside its own: `sp1.example=*.cdn.example:443`, or with
    /// ` plain` at its end, without TLS too; can be repeated
    #[arg(long = "grant", value_name = "DOMAIN=RULE", value_parser = grant)]
    grants: Vec<GrantOf>,
}

/// A rule for the stub of one domain, with the domain as it was written.
#[derive(Debug, Clone, PartialEq)]
struct GrantOf {
    spelling: String,
    domain: Domain,
    rule: Rule,
}

/// A runtime, as a TOML file describes it: `protostub.example.toml` explains each key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    pub(crate) home: Option<Domain>,
    cache_dir: Option<PathBuf>,
    cache_key: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) hyperties: Vec<Address>,
    pub(crate) deploy: Vec<String>,
    pub(crate) allow_loopback: bool,
    allow_http: bool,
    trust_roots: Vec<PathBuf>,
    pub(crate) policy: Option<PathBuf>,
    proxy: Option<Url>,
    max_stubs: Option<usize>,
    max_sandboxes: Option<usize>,
    max_sockets: Option<usize>,
    retire_after_seconds: Option<u64>,
    deployments_per_minute: Option<u32>,
    worker_threads: Option<usize>,
    request_timeout_seconds: Option<u64>,
    compile_timeout_seconds: Option<u64>,
    compile_memory_bytes: Option<u64>,
    compile_in_process: bool,
    connect_timeout_seconds: Option<u64>,
    grace_seconds: Option<u64>,
    max_offline_seconds: Option<u64>,
    max_accepted_versions: Option<usize>,
    max_accepted_versions_per_domain: Option<usize>,
    max_key_sets: Option<usize>,
    max_key_sets_per_domain: Option<usize>,
    credentials: Vec<PathBuf>,
    trust: Trust,
    restart: RestartOfStub,
    limits: LimitsOfStub,
    domains: UniqueMap<Domain, OfDomain>,
}

/// What is said of one domain.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct OfDomain {
    configuration: Map<String, Value>,
    grants: Vec<Grant>,
    relays: Vec<Domain>,
    may_deploy: Vec<Domains>,
    allow_private: bool,
    allow_loopback: bool,
    waive_digest: bool,
    allow_older: bool,
    register: bool,
    signatures: Option<Mode>,
    trusted_keys: Vec<PathBuf>,
    retire_after_seconds: Option<u64>,
    restart: RestartOfStub,
    limits: LimitsOfStub,
    credential_origins: Vec<AllowedOrigin>,
    credential: Option<Credential>,
    oauth2: Option<OAuth2>,
}

/// What a stub may use, where that is not the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsOfStub {
    memory_bytes: Option<usize>,
    memories: Option<usize>,
    table_elements: Option<usize>,
    tables: Option<usize>,
    instances: Option<usize>,
    cpu_per_call_milliseconds: Option<u64>,
    cpu_per_second_milliseconds: Option<u64>,
    time_per_call_milliseconds: Option<u64>,
    hostcall_bytes: Option<usize>,
    resource_handles: Option<usize>,
    random_bytes: Option<u64>,
    batch_events: Option<usize>,
    batch_bytes: Option<usize>,
    body_bytes: Option<usize>,
    posts_per_second: Option<u32>,
    publications_per_second: Option<u32>,
    log_lines_per_second: Option<u32>,
    log_line_bytes: Option<usize>,
    timers: Option<usize>,
    identity_requests: Option<usize>,
    connections: Option<usize>,
    connect_attempts_per_second: Option<u32>,
    frame_bytes: Option<usize>,
    bytes_in_per_second: Option<u64>,
    bytes_out_per_second: Option<u64>,
    inbox_messages: Option<usize>,
    inbox_bytes: Option<usize>,
    descriptor_bytes: Option<usize>,
    component_bytes: Option<usize>,
}

/// When a stub gets a new instance, where that is not the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RestartOfStub {
    times: Option<u32>,
    within_seconds: Option<u64>,
    first_pause_milliseconds: Option<u64>,
    longest_pause_milliseconds: Option<u64>,
}

/// Whose signatures are trusted, and what is required of all domains.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Trust {
    signatures: Option<Mode>,
    trusted_keys: Vec<PathBuf>,
    revoked_keys: Vec<String>,
    revoked_components: Vec<Sha256Digest>,
}

/// [`Signatures`], as they are written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Mode(Signatures);

impl TryFrom<String> for Mode {
    type Error = SignaturesError;

    fn try_from(text: String) -> Result<Self, SignaturesError> {
        text.parse().map(Self)
    }
}

/// A [`DomainPattern`], as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Domains(DomainPattern);

impl TryFrom<String> for Domains {
    type Error = DomainPatternError;

    fn try_from(text: String) -> Result<Self, DomainPatternError> {
        text.parse().map(Self)
    }
}

/// A [`CredentialOrigin`], as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct AllowedOrigin(CredentialOrigin);

impl TryFrom<String> for AllowedOrigin {
    type Error = CredentialOriginError;

    fn try_from(text: String) -> Result<Self, CredentialOriginError> {
        text.parse().map(Self)
    }
}

/// A [`Rule`], as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Grant(Rule);

impl TryFrom<String> for Grant {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse().map(Self)
    }
}

fn grant(text: &str) -> Result<GrantOf, String> {
    let (spelling, rule) = text.split_once('=').ok_or("write `domain=host:port`")?;
    let domain = spelling.parse().map_err(|error| format!("{error}"))?;
    let rule = rule.parse().map_err(|error| format!("{error}"))?;
    Ok(GrantOf { spelling: spelling.to_owned(), domain, rule })
}

impl Settings {
    /// What the flags say, in place of, or beside, what their file says.
    pub(crate) fn load(flags: RuntimeFlags) -> anyhow::Result<Self> {
        let settings = match &flags.config {
            Some(file) => Self::read(file)?,
            None => Self::default(),
        };
        Ok(settings.overlay(flags))
    }

    /// Reads a file. Paths in it are relative to its folder.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
        let mut settings = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let secrets = settings.domains.values_mut().flat_map(|domain| {
            let credential = domain.credential.as_mut().and_then(Credential::file_mut);
            let secrets = credential.into_iter().chain(domain.oauth2.as_mut().into_iter().flat_map(OAuth2::files_mut));
            secrets.chain(&mut domain.trusted_keys)
        });
        let folders =
            settings.cache_dir.iter_mut().chain(&mut settings.cache_key).chain(&mut settings.socket).chain(&mut settings.policy);
        let keys = &mut settings.trust.trusted_keys;
        for file in folders.chain(&mut settings.trust_roots).chain(&mut settings.credentials).chain(keys).chain(secrets) {
            *file = folder.join(&*file);
        }
        Ok(settings)
    }

    fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).map_err(|error| Failure::usage(in_words(path, text, &error)))
    }

    fn overlay(mut self, flags: RuntimeFlags) -> Self {
        self.home = flags.home.or(self.home);
        self.cache_dir = flags.cache_dir.or(self.cache_dir);
        self.proxy = flags.proxy.or(self.proxy);
        self.allow_loopback |= flags.allow_loopback;
        self.allow_http |= flags.allow_http;
        self.trust_roots.extend(flags.trust_roots);
        self
    }

    /// Adds these grants to those of the file. A domain may have several, all in one spelling.
    ///
    /// # Errors
    /// If two flags spell a domain differently.
    pub(crate) fn grant(mut self, flags: GrantFlags) -> anyhow::Result<Self> {
        let mut spelled = UniqueMap::<Domain, String>::new();
        for GrantOf { spelling, domain, rule } in flags.grants {
            if spelled.get(&domain) != Some(&spelling) {
                let inserted = spelled.insert(&spelling, domain.clone(), spelling.clone());
                inserted.map_err(|repeated| Failure::usage(format_args!("--grant: {repeated}")))?;
            }
            self.domains.or_default(domain).grants.push(Grant(rule));
        }
        Ok(self)
    }

    /// The builder of the runtime.
    pub(crate) fn builder(&self) -> anyhow::Result<RuntimeBuilder> {
        let home = self.home.as_ref().ok_or_else(|| Failure::usage("the runtime needs a home domain: give --home"))?;
        let mut builder = Runtime::builder()
            .home_domain(home.as_str())
            .allow_loopback(self.allow_loopback || home.is_loopback())
            .allow_http(self.allow_http);
        if let Some(folder) = &self.cache_dir {
            builder = builder.cache_dir(folder);
        }
        if let Some(file) = &self.cache_key {
            builder = builder.cache_key(file);
        }
        if let Some(file) = &self.policy {
            let policy = read_policy(file).map_err(|error| Failure::usage(format_args!("{error:#}")))?;
            builder = builder.policy(policy);
        }
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        if let Some(stubs) = self.max_stubs {
            builder = builder.max_stubs(stubs);
        }
        if let Some(sandboxes) = self.max_sandboxes {
            builder = builder.max_sandboxes(sandboxes);
        }
        if let Some(sockets) = self.max_sockets {
            builder = builder.max_sockets(sockets);
        }
        if let Some(seconds) = self.retire_after_seconds {
            builder = builder.retire_after(Duration::from_secs(seconds));
        }
        if let Some(deployments) = self.deployments_per_minute {
            builder = builder.deployments_per_minute(deployments);
        }
        if let Some(threads) = self.worker_threads {
            builder = builder.worker_threads(threads);
        }
        if let Some(seconds) = self.request_timeout_seconds {
            builder = builder.request_timeout(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.connect_timeout_seconds {
            builder = builder.connect_timeout(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.grace_seconds {
            builder = builder.grace(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.max_offline_seconds {
            builder = builder.max_offline_age(Duration::from_secs(seconds));
        }
        let catalogue = self.bounded(CatalogueConfig::new(home.clone()));
        builder = builder.accepted_versions(catalogue.accepted_versions).key_sets(catalogue.key_sets);
        let limits = self.limits.over(Limits::default());
        let restart = self.restart.over(RestartPolicy::default());
        let inbox = self.limits.inbox_over(InboxLimits::default());
        builder = builder.limits(limits.clone()).inbox(inbox).restart(restart.clone());
        if let Some(bytes) = self.limits.descriptor_bytes {
            builder = builder.max_descriptor_bytes(bytes);
        }
        if let Some(bytes) = self.limits.component_bytes {
            builder = builder.max_component_bytes(bytes);
        }
        builder = builder.compile_timeout(self.compile_timeout());
        if let Some(worker) = self.compile_worker()? {
            builder = builder.compile_worker(worker.program).compile_memory_bytes(worker.memory_bytes);
        }
        for root in self.roots()? {
            builder = builder.trust_roots(root);
        }
        builder = builder.trust(self.trust()?);
        let mut providers = Providers::default();
        for (domain, of_domain) in self.domains.iter() {
            providers = match (&of_domain.credential, &of_domain.oauth2) {
                (Some(_), Some(_)) => {
                    let problem = format!("the domain `{domain}` has both `credential` and `oauth2`: leave one of them out");
                    return Err(Failure::usage(problem));
                }
                (Some(credential), None) => providers.with(domain, credential)?,
                (None, Some(oauth2)) => providers.with_oauth2(domain, oauth2)?,
                (None, None) => providers,
            };
            builder = builder.domain(domain.clone(), of_domain.settings(&limits, inbox, &restart));
        }
        providers.of(builder, &self.credentials)
    }

    /// Whose signatures are trusted, of all domains and of each.
    pub(crate) fn trust(&self) -> anyhow::Result<TrustPolicy> {
        let mut policy = TrustPolicy::default();
        policy.signatures = self.trust.signatures.map_or(policy.signatures, |Mode(signatures)| signatures);
        policy.keys = keys(&self.trust.trusted_keys)?;
        policy.revoked_keys = self.trust.revoked_keys.iter().cloned().collect();
        policy.revoked_components = self.trust.revoked_components.iter().copied().collect();
        for (domain, of_domain) in self.domains.iter() {
            let trust = policy.domains.entry(domain.clone()).or_default();
            trust.signatures = of_domain.signatures.map(|Mode(signatures)| signatures);
            trust.keys = keys(&of_domain.trusted_keys)?;
        }
        Ok(policy)
    }

    /// How catalogues are asked without a runtime, on behalf of `domain`.
    pub(crate) fn catalogue(&self, domain: &Domain) -> anyhow::Result<CatalogueConfig> {
        let home = self.home.as_ref().unwrap_or(domain);
        let mut config = CatalogueConfig::new(home.clone());
        config.cache_dir.clone_from(&self.cache_dir);
        config.allow_loopback = self.allow_loopback || domain.is_loopback() || home.is_loopback();
        config.loopback = self.domains_where(|of_domain| of_domain.allow_loopback);
        config.private = self.domains_where(|of_domain| of_domain.allow_private);
        config.allow_http = self.allow_http;
        config.trust = self.trust()?;
        Ok(self.bounded(config))
    }

    /// With as many records of trust state as there may be.
    fn bounded(&self, mut config: CatalogueConfig) -> CatalogueConfig {
        let over = |bounds: Bounds, total: Option<usize>, per_domain: Option<usize>| Bounds {
            total: total.unwrap_or(bounds.total),
            per_domain: per_domain.unwrap_or(bounds.per_domain),
        };
        let (versions, versions_of_domain) = (self.max_accepted_versions, self.max_accepted_versions_per_domain);
        config.accepted_versions = over(config.accepted_versions, versions, versions_of_domain);
        config.key_sets = over(config.key_sets, self.max_key_sets, self.max_key_sets_per_domain);
        config
    }

    fn domains_where(&self, says: impl Fn(&OfDomain) -> bool) -> BTreeSet<Domain> {
        self.domains.iter().filter(|(_, of_domain)| says(of_domain)).map(|(domain, _)| domain.clone()).collect()
    }

    /// The certificates of `trust-roots`.
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.trust_roots.iter().map(|path| fs::read(path).map_err(|error| Failure::file(path, error))).collect()
    }

    /// Returns this command as the worker that compiles components, with its limits. Returns `None`
    /// if components are compiled in this process: the settings say so, or the system has no limits
    /// that a process could set itself.
    pub(crate) fn compile_worker(&self) -> anyhow::Result<Option<CompileWorker>> {
        if !cfg!(unix) || self.compile_in_process {
            return Ok(None);
        }
        let own = env::current_exe()
            .map_err(|error| Failure::failed(format_args!("the path of this command is not known: {error}")))?;
        let mut worker = CompileWorker::new(own);
        worker.memory_bytes = self.compile_memory_bytes.unwrap_or(worker.memory_bytes);
        // A worker has one thread: more than that it cannot compute in this time.
        worker.cpu_seconds = self.compile_timeout().as_secs().saturating_add(1);
        Ok(Some(worker))
    }

    /// Returns the time that the compilation of a component may take.
    pub(crate) fn compile_timeout(&self) -> Duration {
        self.compile_timeout_seconds.map_or(COMPILE_TIMEOUT, Duration::from_secs)
    }

    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    pub(crate) fn cache_key(&self) -> Option<&Path> {
        self.cache_key.as_deref()
    }

    pub(crate) fn proxy(&self) -> Option<&Url> {
        self.proxy.as_ref()
    }
}

/// Reads settings as a `protostub run --config` would that finds them in a file, but opens none of the files that they name. For those who try
/// out what is not a settings file.
///
/// # Errors
/// What is wrong with them, and where.
pub fn check_settings(text: &str) -> Result<(), String> {
    let check = || {
        let mut settings = Settings::parse(Path::new("protostub.toml"), text)?;
        settings.policy = None;
        settings.trust_roots.clear();
        settings.credentials.clear();
        settings.trust.trusted_keys.clear();
        for domain in settings.domains.values_mut() {
            (domain.credential, domain.oauth2) = (None, None);
            domain.trusted_keys.clear();
        }
        settings.builder().map(drop)
    };
    check().map_err(|error: anyhow::Error| error.to_string())
}

/// Returns the builder that `protostub run --config` makes of a settings file with this text.
/// Paths in it are relative to the working directory.
///
/// # Errors
/// If a setting is wrong, with its place; or if a file that it names cannot be read.
pub fn builder_from_settings(text: &str) -> Result<RuntimeBuilder, String> {
    let settings = Settings::parse(Path::new("protostub.toml"), text);
    settings.and_then(|settings| settings.builder()).map_err(|error| error.to_string())
}

impl OfDomain {
    fn settings(&self, limits: &Limits, inbox: InboxLimits, restart: &RestartPolicy) -> DomainSettings {
        let mut settings = DomainSettings::default();
        settings.configuration.clone_from(&self.configuration);
        settings.relays.clone_from(&self.relays);
        settings.allow_private = self.allow_private;
        settings.allow_loopback = self.allow_loopback;
        settings.waive_digest = self.waive_digest;
        settings.allow_older = self.allow_older;
        settings.register = self.register;
        settings.credential_origins = self.credential_origins.iter().map(|AllowedOrigin(origin)| origin.clone()).collect();
        settings.retire_after = self.retire_after_seconds.map(Duration::from_secs);
        settings.may_deploy = self.may_deploy.iter().map(|Domains(pattern)| pattern.clone()).collect();
        settings.restart = (self.restart != RestartOfStub::default()).then(|| self.restart.over(restart.clone()));
        settings.limits = (self.limits != LimitsOfStub::default()).then(|| self.limits.over(limits.clone()));
        settings.inbox = (self.limits != LimitsOfStub::default()).then(|| self.limits.inbox_over(inbox));
        settings.max_descriptor_bytes = self.limits.descriptor_bytes;
        settings.max_component_bytes = self.limits.component_bytes;
        settings.grants = self.grants.iter().map(|Grant(rule)| rule.clone()).collect();
        settings
    }
}

impl RestartOfStub {
    /// This, and for the rest, `policy`.
    fn over(&self, mut policy: RestartPolicy) -> RestartPolicy {
        policy.restarts = self.times.unwrap_or(policy.restarts);
        policy.within = self.within_seconds.map_or(policy.within, Duration::from_secs);
        policy.first_pause = self.first_pause_milliseconds.map_or(policy.first_pause, Duration::from_millis);
        policy.longest_pause = self.longest_pause_milliseconds.map_or(policy.longest_pause, Duration::from_millis);
        policy
    }
}

impl LimitsOfStub {
    /// These, and for the rest, `limits`.
    fn over(&self, mut limits: Limits) -> Limits {
        let milliseconds = |value: Option<u64>, or: Duration| value.map_or(or, Duration::from_millis);
        limits.memory_bytes = self.memory_bytes.unwrap_or(limits.memory_bytes);
        limits.memories = self.memories.unwrap_or(limits.memories);
        limits.table_elements = self.table_elements.unwrap_or(limits.table_elements);
        limits.tables = self.tables.unwrap_or(limits.tables);
        limits.instances = self.instances.unwrap_or(limits.instances);
        limits.cpu_per_call = milliseconds(self.cpu_per_call_milliseconds, limits.cpu_per_call);
        limits.cpu_per_second = milliseconds(self.cpu_per_second_milliseconds, limits.cpu_per_second);
        limits.time_per_call = milliseconds(self.time_per_call_milliseconds, limits.time_per_call);
        limits.hostcall_bytes = self.hostcall_bytes.unwrap_or(limits.hostcall_bytes);
        limits.resource_handles = self.resource_handles.unwrap_or(limits.resource_handles);
        limits.random_bytes = self.random_bytes.unwrap_or(limits.random_bytes);
        limits.batch_events = self.batch_events.unwrap_or(limits.batch_events);
        limits.batch_bytes = self.batch_bytes.unwrap_or(limits.batch_bytes);
        limits.body_bytes = self.body_bytes.unwrap_or(limits.body_bytes);
        limits.posts_per_second = self.posts_per_second.unwrap_or(limits.posts_per_second);
        limits.publications_per_second = self.publications_per_second.unwrap_or(limits.publications_per_second);
        limits.log_lines_per_second = self.log_lines_per_second.unwrap_or(limits.log_lines_per_second);
        limits.log_line_bytes = self.log_line_bytes.unwrap_or(limits.log_line_bytes);
        limits.timers = self.timers.unwrap_or(limits.timers);
        limits.identity_requests = self.identity_requests.unwrap_or(limits.identity_requests);
        limits.connections = self.connections.unwrap_or(limits.connections);
        limits.connect_attempts_per_second = self.connect_attempts_per_second.unwrap_or(limits.connect_attempts_per_second);
        limits.frame_bytes = self.frame_bytes.unwrap_or(limits.frame_bytes);
        limits.bytes_in_per_second = self.bytes_in_per_second.unwrap_or(limits.bytes_in_per_second);
        limits.bytes_out_per_second = self.bytes_out_per_second.unwrap_or(limits.bytes_out_per_second);
        limits
    }

    /// What may wait for a stub: this, and for the rest, `inbox`.
    fn inbox_over(&self, mut inbox: InboxLimits) -> InboxLimits {
        inbox.messages = self.inbox_messages.unwrap_or(inbox.messages);
        inbox.bytes = self.inbox_bytes.unwrap_or(inbox.bytes);
        inbox
    }
}

/// Reads the keys of these files. Refuses two keys with one id: `revoked-keys` would mean both.
fn keys(files: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    let mut by_id = UniqueMap::<String, PublicKey>::new();
    for file in files {
        for key in keygen::read_public(file)? {
            if by_id.get(&key.id().to_owned()) != Some(&key) {
                let place = format!("{} in {}", key.id(), file.display());
                let inserted = by_id.insert(place, key.id().to_owned(), key);
                inserted
                    .map_err(|repeated| Failure::usage(format_args!("`trusted-keys` has two keys with one id: {repeated}")))?;
            }
        }
    }
    Ok(by_id.values().cloned().collect())
}

/// The operator's rules. The error says where in the file it is.
pub(crate) fn read_policy(file: &Path) -> anyhow::Result<CedarPolicy> {
    let policy = CedarPolicy::load(file)?;
    for warning in policy.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(policy)
}

/// What is wrong with a file, and where. No line of it is shown: there are people who write secrets into such files.
fn in_words(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    let problem = unknown_key(error.message()).unwrap_or_else(|| without_value(error.message()));
    format!("{}:{line}:{column}: {problem}", path.display())
}

/// Of a key that nobody knows, serde says the name, and those that there are.
fn unknown_key(message: &str) -> Option<String> {
    let (key, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    let nearest = known.iter().max_by(|one, other| strsim::jaro_winkler(one, key).total_cmp(&strsim::jaro_winkler(other, key)));
    Some(match nearest.filter(|nearest| strsim::jaro_winkler(nearest, key) >= NEAR) {
        Some(nearest) => format!("there is no key `{key}`; did you mean `{nearest}`?"),
        None => format!("there is no key `{key}` here; there are {}", known.join(", ")),
    })
}

/// `invalid type: string "…", expected …`, without the string.
fn without_value(message: &str) -> String {
    let message = message.trim_end().replace('\n', " ");
    match message.strip_prefix("invalid type: string \"").and_then(|rest| rest.rsplit_once("\", expected ")) {
        Some((_, expected)) => format!("a text stands where {expected} is expected"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::credentials::Place;

    #[test]
    fn the_example_is_a_settings_file() {
        let settings = Settings::read(Path::new("protostub.example.toml")).unwrap();
        assert_eq!(settings.home.as_ref().map(Domain::as_str), Some("home.example"));
        assert_eq!(settings.domains.len(), 1);
        // What it says of limits is what holds without it.
        assert_eq!(settings.limits.over(Limits::default()), Limits::default());
        assert_eq!(settings.limits.inbox_over(InboxLimits::default()), InboxLimits::default());
        assert_eq!(settings.restart.over(RestartPolicy::default()), RestartPolicy::default());
        let _builder = settings.builder().unwrap();
    }

    #[test]
    fn credentials_stand_in_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("protostub.toml");
        fs::write(folder.path().join("secret"), "open sesame").unwrap();
        let check = |text: &str, expected: &str| {
            fs::write(&file, format!("home = 'home.example'\n[domains.'sp1.example']\n{text}")).unwrap();
            let error = Settings::read(&file).and_then(|settings| settings.builder()).err();
            let error = error.map_or_else(|| "fine".to_owned(), |error| error.to_string());
            assert!(error.contains(expected) && !error.contains("sesame"), "{text}: {error}");
        };
        check("credential = { kind = 'bearer', file = 'secret' }", "fine");
        check("credential = { kind = 'bearer', env = 'SP1_TOKEN' }", "fine");
        check("credential = { kind = 'bearer' }", "fine");
        check("credential = { kind = 'bearer', file = 'secret', env = 'SP1_TOKEN' }", "`credential` has both `file` and `env`");
        check("credential = { file = 'secret' }", "missing field `kind`");
        let oauth2 = |rest: &str| format!("oauth2 = {{ token-endpoint = 'https://sp1.example/token', client-id = 'a'{rest} }}");
        check(&oauth2(", client-secret = { file = 'secret' }"), "fine");
        check(&oauth2(", refresh-token = { env = 'SP1_REFRESH' }, scopes = ['chat'], parameters = { audience = 'b' }"), "fine");
        check(&oauth2(""), "`oauth2` needs a `client-secret`, a `refresh-token`, or both");
        check(&oauth2(", client-secret = {}"), "`client-secret` needs `file` or `env`");
        check(
            &oauth2(", client-secret = 'open sesame'"),
            "a text stands where `{ file = \"…\" }` or `{ env = \"…\" }` is expected",
        );
        check(&oauth2(", refresh-token = { file = 'none' }"), "none: No such file");
        let both = format!("credential = {{ kind = 'bearer' }}\n{}", oauth2(", client-secret = { file = 'secret' }"));
        check(&both, "has both `credential` and `oauth2`");
    }

    #[test]
    fn every_key_stands_in_the_example() {
        // What serde expects, from its own mouth.
        fn keys<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
            let error = toml::from_str::<T>("unknown = 1").unwrap_err();
            let expected = error.message().split(", expected").nth(1).unwrap_or_default().to_owned();
            expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        }
        let example = fs::read_to_string("protostub.example.toml").unwrap();
        let keys: Vec<_> = [
            keys::<Settings>(),
            keys::<OfDomain>(),
            keys::<LimitsOfStub>(),
            keys::<RestartOfStub>(),
            keys::<Trust>(),
            keys::<Credential>(),
            keys::<OAuth2>(),
            keys::<Place>(),
        ]
        .concat();
        assert!(keys.len() > 30, "{keys:?}");
        for key in keys {
            let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
            let in_line =
                [format!("[{key}]"), format!("[{key}."), format!(".{key}]"), format!("{{ {key} ="), format!(", {key} =")];
            assert!(example.lines().any(stands) || in_line.iter().any(|form| example.contains(form)), "{key}");
        }
    }

    /// The rows of the table, by the setting's key: `| \`timers\` | 256 | … |`.
    #[test]
    fn the_security_document_has_every_limit_and_its_default() {
        let text = fs::read_to_string("../../SECURITY.md").unwrap();
        let rows: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .filter_map(|(key, rest)| Some((key, rest.split_once(" | ")?.0)))
            .collect();
        let example: toml::Table = toml::from_str(&fs::read_to_string("protostub.example.toml").unwrap()).unwrap();
        let limits = example["limits"].as_table().unwrap();
        let documented = |key: &str| rows.get(key).map(|default| default.replace(' ', ""));
        for (key, default) in limits {
            assert_eq!(documented(key), Some(default.to_string()), "{key}");
        }
        let of_runtime = ["max-accepted-versions", "max-accepted-versions-per-domain", "max-key-sets", "max-key-sets-per-domain"];
        for key in of_runtime {
            assert_eq!(documented(key), Some(example[key].to_string()), "{key}");
        }
        let defaults = CatalogueConfig::new(Domain::parse("home.example").unwrap());
        let Bounds { total, per_domain } = defaults.accepted_versions;
        let keys = defaults.key_sets;
        for (key, default) in of_runtime.into_iter().zip([total, per_domain, keys.total, keys.per_domain]) {
            assert_eq!(example[key].as_integer(), i64::try_from(default).ok(), "{key}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_secrets() {
        let check = |text: &str, expected: &str| {
            let error = toml::from_str::<Settings>(text).unwrap_err();
            assert_eq!(in_words(Path::new("protostub.toml"), text, &error), format!("protostub.toml:{expected}"));
        };
        check("hom = 'home.example'", "1:1: there is no key `hom`; did you mean `home`?");
        check("home = 'é'\n\n  max_stubs = 3", "3:3: there is no key `max_stubs`; did you mean `max-stubs`?");
        check(
            "[domains.'sp1.example']\npassword = 'hunter2'",
            "2:1: there is no key `password` here; there are configuration, grants, relays, may-deploy, allow-private, allow-loopback, waive-digest, allow-older, register, signatures, trusted-keys, retire-after-seconds, restart, limits, credential-origins, credential, oauth2",
        );
        check(
            "[domains.'sp1.example']\ncredential = 'hunter2'",
            "2:14: a text stands where `{ kind = \"…\", file = \"…\" }` is expected",
        );
        check(
            "[trust]\nsignatures = 'sometimes'",
            "2:14: `sometimes` is no such mode: write `off`, `verify-if-present` or `require`",
        );
        check("max-stubs = 'many'", "1:13: a text stands where usize is expected");
        check(
            "[domains.'sp1.example']\ngrants = ['a.example:443', 'everything']",
            "2:10: `everything` is not a rule: it has no port; write `host:port`, `*.host:port` or `host:port plain`",
        );
        check(
            "[domains.'sp1.example']\nmay-deploy = ['*.com']",
            "2:14: `*.com` is no domain pattern: the domains below `com` belong to many people; write `sp1.example`, `*.sp1.example` or `*`",
        );
    }
}
