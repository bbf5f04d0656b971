//! Settings of a runtime, from a TOML file and from flags, which override the file.

mod file;
#[cfg(test)]
mod matrix;
mod places;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use protostub_catalogue::CatalogueConfig;
use protostub_runtime::{
    BuildError, CedarPolicy, DomainSettings, EngineError, Rule, Runtime, RuntimeBuilder, Settings as RuntimeSettings,
    trust::{PublicKey, TrustPolicy},
};
use protostub_sandbox::CompileWorker;
use protostub_types::{Address, Domain, SafeText, StubKey, UniqueMap};
use url::Url;

use self::{
    file::{DomainKeys, File},
    places::{Places, Problem},
};
use crate::{
    credentials::{self, Credential, CredentialFault, OAuth2, Providers},
    failure::Failure,
    keygen,
};

/// The flags of commands that look for stubs.
#[derive(Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Runtime")]
pub(crate) struct RuntimeFlags {
    /// Settings in a TOML file, as in protostub.example.toml; flags override them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The runtime's home domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) home: Option<Domain>,

    /// Cache components and their compiled forms in this folder
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,

    /// Let the runtime find stubs of loopback domains on this machine, and let these stubs talk to
    /// this machine, with or without TLS
    #[arg(long)]
    pub(crate) allow_loopback: bool,

    /// Ask catalogues over HTTP if HTTPS gives no answer
    #[arg(long)]
    allow_http: bool,

    /// Trust the certificates in this PEM file as additional roots; can be repeated
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
    /// Let the stub of DOMAIN connect to another host than its own:
    /// `sp1.example=*.cdn.example:443`; with ` plain` at the end, without TLS too; can be repeated
    #[arg(long = "grant", value_name = "DOMAIN=RULE", value_parser = grant)]
    grants: Vec<GrantOf>,
}

/// A rule for the stub of one domain, with the domain as the user spelled it.
#[derive(Debug, Clone, PartialEq)]
struct GrantOf {
    spelling: String,
    domain: Domain,
    rule: Rule,
}

/// Settings of a runtime: those of the library and those of the command. `protostub.example.toml`
/// explains each key.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) runtime: RuntimeSettings,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) hyperties: Vec<Address>,
    pub(crate) deploy: Vec<String>,
    pub(crate) policy: Option<PathBuf>,
    trust_roots: Vec<PathBuf>,
    /// The roots that flags name, in addition to those of the file.
    more_trust_roots: Vec<PathBuf>,
    credentials: Vec<PathBuf>,
    trusted_keys: Vec<PathBuf>,
    compile_in_process: bool,
    domains: Vec<(Domain, DomainKeys)>,
    /// The path of the file.
    file: PathBuf,
    places: Places,
}

fn grant(text: &str) -> Result<GrantOf, String> {
    let (spelling, rule) = text.split_once('=').ok_or("the rule has no domain; write `domain=host:port`")?;
    let domain = spelling.parse().map_err(|error| format!("{error}"))?;
    let rule = rule.parse().map_err(|error| format!("{error}"))?;
    Ok(GrantOf { spelling: spelling.to_owned(), domain, rule })
}

impl Settings {
    /// Reads the file that the flags name. The flags override it.
    pub(crate) fn load(flags: RuntimeFlags) -> anyhow::Result<Self> {
        let settings = match &flags.config {
            Some(file) => Self::read(file)?,
            None => Self::default(),
        };
        Ok(settings.overlay(flags))
    }

    /// Reads a file. Paths in the file are relative to its folder.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
        let mut settings = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in settings.files_mut() {
            *file = folder.join(&*file);
        }
        Ok(settings)
    }

    fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let file = File::parse(text).map_err(|problem| in_file(path, &problem))?;
        let File { library, command, network, lifecycle, trust, domains, places } = file;
        let settings = Self {
            runtime: library,
            socket: command.socket,
            hyperties: command.hyperties,
            deploy: command.deploy,
            policy: command.policy,
            trust_roots: network.trust_roots,
            more_trust_roots: Vec::new(),
            credentials: command.credentials,
            trusted_keys: trust.trusted_keys,
            compile_in_process: lifecycle.compile_in_process,
            domains,
            file: path.to_owned(),
            places,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Checks that every setting of the file can work. Opens no file.
    fn check(&self) -> anyhow::Result<()> {
        if let Err(invalid) = self.runtime.check() {
            let problem = self.places.describe_key(&invalid.path, Problem::OfKey(invalid.problem.clone()));
            return Err(problem.map_or_else(|| Failure::usage(&invalid), |problem| in_file(&self.file, &problem)));
        }
        let invalid = |path: &[&str], problem: String| self.at_key::<()>(path, Err(Failure::usage(problem)));
        for (key, path) in [("socket", &self.socket), ("policy", &self.policy)] {
            path.iter().try_for_each(|path| self.at_key(&[key], credentials::check_path(path)))?;
        }
        let of_domains = self.domains.iter().flat_map(|(domain, keys)| {
            keys.trusted_keys.iter().map(move |file| (vec!["domains", domain.as_str(), "trusted-keys"], file))
        });
        let lists = [
            (vec!["network", "trust-roots"], &self.trust_roots),
            (vec!["credentials"], &self.credentials),
            (vec!["trust", "trusted-keys"], &self.trusted_keys),
        ];
        let of_lists = lists.iter().flat_map(|(path, files)| files.iter().map(|file| (path.clone(), file)));
        for (path, file) in of_lists.chain(of_domains) {
            self.at_key(&path, credentials::check_path(file))?;
        }
        for (index, address) in self.hyperties.iter().enumerate() {
            if self.hyperties[..index].contains(address) {
                invalid(&["hyperties"], format!("`{address}` is listed twice; remove one of them"))?;
            }
        }
        for target in &self.deploy {
            if StubKey::of_catalogue_url(target).is_some() {
                continue;
            }
            let address = self.at_key(&["deploy"], Address::parse(target).map_err(Failure::usage))?;
            let key = self.runtime.home.as_ref().map(|home| StubKey::of(&address, home));
            if matches!(key, Some(None)) {
                invalid(&["deploy"], format!("`{address}` has no domain; name a domain, or an address with a domain"))?;
            }
        }
        for (domain, keys) in &self.domains {
            self.at_domain(domain, self.check_credential(domain, keys))?;
        }
        if self.runtime.trust.revoked_keys.contains("") {
            invalid(&["trust", "revoked-keys"], "an id is empty; write the id of a key".to_owned())?;
        }
        Ok(())
    }

    fn check_credential(&self, domain: &Domain, keys: &DomainKeys) -> Result<(), CredentialFault> {
        match (&keys.credential, &keys.oauth2) {
            (Some(_), Some(_)) => {
                let problem = format!("the domain `{domain}` has both `credential` and `oauth2`; remove one of them");
                Err(CredentialFault { keys: vec!["oauth2"], error: Failure::usage(problem) })
            }
            (Some(credential), None) => credential.check(domain),
            (None, Some(oauth2)) => {
                let loopback = self.runtime.domains.get(domain).is_some_and(|settings| settings.allow_loopback);
                oauth2.check(domain, loopback)
            }
            (None, None) => Ok(()),
        }
    }

    /// As [`Self::at_key`], for the credential of a domain.
    fn at_domain<T>(&self, domain: &Domain, outcome: Result<T, CredentialFault>) -> anyhow::Result<T> {
        outcome.or_else(|CredentialFault { keys, error }| {
            let path = [&["domains", domain.as_str()][..], keys.as_slice()].concat();
            self.at_key(&path, Err(error))
        })
    }

    /// Adds the place and the name of a key to an error about its value, if the key is in the file.
    pub(crate) fn at_key<T>(&self, path: &[&str], outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        outcome.map_err(|error| {
            let problem = self.places.describe_key(path, Problem::Whole(format!("{error:#}")));
            problem.map_or(error, |problem| in_file(&self.file, &problem))
        })
    }

    /// Adds the place of the setting to the error of a runtime's start, if the file has the
    /// setting.
    pub(crate) fn explain(&self, error: BuildError) -> anyhow::Error {
        let path: Vec<&str> = match &error {
            BuildError::Settings(invalid) => {
                let problem = self.places.describe_key(&invalid.path, Problem::OfKey(invalid.problem.clone()));
                return problem.map_or_else(|| Failure::usage(invalid), |problem| in_file(&self.file, &problem));
            }
            BuildError::Egress(_) if self.more_trust_roots.is_empty() => vec!["network", "trust-roots"],
            BuildError::Catalogue(error) if self.runtime.cache.key.as_deref() == Some(error.path()) => vec!["cache", "key"],
            BuildError::Catalogue(_) => vec!["cache", "dir"],
            BuildError::Engine(EngineError::Cache { path, .. }) => {
                let cache = &self.runtime.cache;
                match (cache.key.as_ref() == Some(path), &cache.code_dir) {
                    (true, _) => vec!["cache", "key"],
                    (false, Some(_)) => vec!["cache", "code-dir"],
                    (false, None) => vec!["cache", "dir"],
                }
            }
            BuildError::UnknownImport { domain, .. } => vec!["domains", domain.as_str(), "imports"],
            _ => Vec::new(),
        };
        let problem = full_text(&error);
        match self.places.has(&path).then(|| self.places.describe_key(&path, Problem::Whole(problem))).flatten() {
            Some(problem) => in_file(&self.file, &problem),
            None => error.into(),
        }
    }

    /// Returns the paths of all files and folders.
    fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let cache = &mut self.runtime.cache;
        let single = [&mut cache.dir, &mut cache.code_dir, &mut cache.key, &mut self.socket, &mut self.policy];
        let of_domains = self.domains.iter_mut().flat_map(|(_, domain)| {
            let credential = domain.credential.as_mut().and_then(Credential::file_mut);
            let secrets = credential.into_iter().chain(domain.oauth2.as_mut().into_iter().flat_map(OAuth2::files_mut));
            secrets.chain(&mut domain.trusted_keys)
        });
        let several = self.trust_roots.iter_mut().chain(&mut self.credentials).chain(&mut self.trusted_keys);
        single.into_iter().flatten().chain(several).chain(of_domains)
    }

    fn overlay(mut self, flags: RuntimeFlags) -> Self {
        for (is_given, path) in [(flags.cache_dir.is_some(), ["cache", "dir"]), (flags.proxy.is_some(), ["network", "proxy"])] {
            if is_given {
                self.places.forget(&path);
            }
        }
        let settings = &mut self.runtime;
        settings.home = flags.home.or(settings.home.take());
        settings.cache.dir = flags.cache_dir.or(settings.cache.dir.take());
        settings.network.proxy = flags.proxy.or(settings.network.proxy.take());
        settings.network.allow_loopback |= flags.allow_loopback;
        settings.network.allow_http |= flags.allow_http;
        self.more_trust_roots.extend(flags.trust_roots);
        self
    }

    /// Adds these grants to those of the file. A domain can have several grants, all in one
    /// spelling.
    ///
    /// # Errors
    /// Fails if two flags spell a domain differently.
    pub(crate) fn grant(mut self, flags: GrantFlags) -> anyhow::Result<Self> {
        let mut spelled = UniqueMap::<Domain, String>::new();
        for GrantOf { spelling, domain, rule } in flags.grants {
            if spelled.get(&domain) != Some(&spelling) {
                let inserted = spelled.insert(&spelling, domain.clone(), spelling.clone());
                inserted.map_err(|repeated| Failure::usage(format_args!("--grant: {repeated}")))?;
            }
            self.runtime.domains.or_default(domain).grants.push(rule);
        }
        Ok(self)
    }

    /// Returns the builder of the runtime.
    pub(crate) fn builder(&self) -> anyhow::Result<RuntimeBuilder> {
        let mut settings = self.runtime.clone();
        let home = settings
            .home
            .as_ref()
            .ok_or_else(|| Failure::usage("the runtime needs a home domain; set `home` in the settings file, or give --home"))?;
        settings.network.allow_loopback |= home.is_loopback();
        settings.trust = self.trust()?;
        let mut builder = Runtime::builder().settings(settings);
        if let Some(file) = &self.policy {
            let policy = read_policy(file).map_err(|error| Failure::usage(format_args!("{error:#}")));
            let policy = self.at_key(&["policy"], policy)?;
            builder = builder.policy(policy);
        }
        if let Some(worker) = self.compile_worker()? {
            builder = builder.compile_worker(worker.program);
        }
        for root in self.roots()? {
            builder = builder.trust_roots(root);
        }
        let mut providers = Providers::default();
        for (domain, keys) in &self.domains {
            let added = match (&keys.credential, &keys.oauth2) {
                (Some(credential), _) => providers.with(domain, credential),
                (None, Some(oauth2)) => providers.with_oauth2(domain, oauth2),
                (None, None) => Ok(providers),
            };
            providers = self.at_domain(domain, added)?;
        }
        for file in &self.credentials {
            self.at_key(&["credentials"], credentials::look_for(file))?;
        }
        Ok(providers.of(builder, &self.credentials))
    }

    /// Returns the trust policy with the keys from files, for all domains and for each domain.
    pub(crate) fn trust(&self) -> anyhow::Result<TrustPolicy> {
        let mut policy = self.runtime.trust.clone();
        policy.keys = self.at_key(&["trust", "trusted-keys"], keys(&self.trusted_keys))?;
        for (domain, settings) in self.runtime.domains.iter() {
            policy.domains.entry(domain.clone()).or_default().signatures = settings.signatures;
        }
        for (domain, of_domain) in &self.domains {
            let keys = self.at_key(&["domains", domain.as_str(), "trusted-keys"], keys(&of_domain.trusted_keys))?;
            policy.domains.entry(domain.clone()).or_default().keys = keys;
        }
        Ok(policy)
    }

    /// Returns the configuration of a catalogue outside of a runtime, on behalf of `domain`.
    pub(crate) fn catalogue(&self, domain: &Domain) -> anyhow::Result<CatalogueConfig> {
        let RuntimeSettings { home, network, cache, .. } = &self.runtime;
        let home = home.as_ref().unwrap_or(domain);
        let mut config = CatalogueConfig::new(home.clone());
        config.cache_dir.clone_from(&cache.dir);
        config.cache_key.clone_from(&cache.key);
        config.allow_other_writers = cache.allow_other_writers;
        config.accepted_versions = cache.accepted_versions();
        config.key_sets = cache.key_sets();
        config.allow_loopback = network.allow_loopback || domain.is_loopback() || home.is_loopback();
        config.loopback = self.domains_where(|settings| settings.allow_loopback);
        config.private = self.domains_where(|settings| settings.allow_private);
        config.allow_http = network.allow_http;
        config.trust = self.trust()?;
        Ok(config)
    }

    fn domains_where(&self, says: impl Fn(&DomainSettings) -> bool) -> BTreeSet<Domain> {
        self.runtime.domains.iter().filter(|(_, settings)| says(settings)).map(|(domain, _)| domain.clone()).collect()
    }

    /// Reads the certificates of `trust-roots`.
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let read = |path: &PathBuf| fs::read(path).map_err(|error| Failure::file(path, error));
        let of_file = self.trust_roots.iter().map(|path| self.at_key(&["network", "trust-roots"], read(path)));
        of_file.chain(self.more_trust_roots.iter().map(read)).collect()
    }

    /// Returns this command as the worker that compiles components, with its limits. Returns `None`
    /// if this process compiles components: the settings say so, or on this system a process cannot
    /// limit itself.
    pub(crate) fn compile_worker(&self) -> anyhow::Result<Option<CompileWorker>> {
        if !cfg!(unix) || self.compile_in_process {
            return Ok(None);
        }
        let own = env::current_exe()
            .map_err(|error| Failure::failed(format_args!("failed to get the path of this command: {error}")))?;
        let mut worker = CompileWorker::new(own);
        worker.memory_bytes = self.runtime.lifecycle.compile_memory_bytes;
        // A worker has one thread, so it cannot use more computing time than this within the
        // timeout.
        worker.cpu_seconds = self.compile_timeout().as_secs().saturating_add(1);
        Ok(Some(worker))
    }

    /// Returns the time limit for the compilation of a component.
    pub(crate) fn compile_timeout(&self) -> Duration {
        self.runtime.lifecycle.compile_timeout
    }
}

/// Reads settings as `protostub run --config` does, but opens none of the files that they name. For
/// tests and fuzzers of settings files.
///
/// # Errors
/// Fails if a setting is wrong. The error states its place.
pub fn check_settings(text: &str) -> Result<(), String> {
    let check = || {
        let mut settings = Settings::parse(Path::new("protostub.toml"), text)?;
        settings.policy = None;
        settings.trust_roots.clear();
        settings.credentials.clear();
        settings.trusted_keys.clear();
        settings.domains.clear();
        settings.builder().map(drop)
    };
    check().map_err(|error: anyhow::Error| error.to_string())
}

/// Returns the builder that `protostub run --config` creates from a settings file with this text.
/// Paths in the text are relative to the working directory.
///
/// # Errors
/// Fails if a setting is wrong (the error states its place), or if a file that it names cannot be
/// read.
pub fn builder_from_settings(text: &str) -> Result<RuntimeBuilder, String> {
    let settings = Settings::parse(Path::new("protostub.toml"), text);
    settings.and_then(|settings| settings.builder()).map_err(|error| error.to_string())
}

/// Returns the error for a problem that begins with its place in the file.
fn in_file(file: &Path, problem: &str) -> anyhow::Error {
    Failure::usage(SafeText::display(format_args!("{}:{problem}", file.display())))
}

/// Returns an error with its causes, in one line.
fn full_text(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reads the keys of these files. Rejects two keys with one id, because `revoked-keys` would mean
/// both.
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

/// Reads the operator's policies. The error states its place in the file.
pub(crate) fn read_policy(file: &Path) -> anyhow::Result<CedarPolicy> {
    let policy = CedarPolicy::load(file)?;
    for warning in policy.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(policy)
}
