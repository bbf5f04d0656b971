//! What a runtime is told: in a TOML file, and in flags, which come on top of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use protostub_runtime::{Credential, CredentialKind, DomainSettings, Rule, Runtime, RuntimeBuilder, StaticCredentials};
use protostub_types::{Address, Domain};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::output::Failure;

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
    grants: Vec<(Domain, Rule)>,
}

/// A runtime, as a TOML file describes it: `protostub.example.toml` explains each key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    pub(crate) home: Option<Domain>,
    cache_dir: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) hyperties: Vec<Address>,
    pub(crate) deploy: Vec<String>,
    pub(crate) allow_loopback: bool,
    allow_http: bool,
    trust_roots: Vec<PathBuf>,
    proxy: Option<Url>,
    max_stubs: Option<usize>,
    worker_threads: Option<usize>,
    request_timeout_seconds: Option<u64>,
    connect_timeout_seconds: Option<u64>,
    grace_seconds: Option<u64>,
    domains: BTreeMap<Domain, OfDomain>,
}

/// What is said of one domain.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct OfDomain {
    configuration: Map<String, Value>,
    grants: Vec<String>,
    relays: Vec<Domain>,
    allow_private: bool,
    waive_digest: bool,
    credential: Option<CredentialFile>,
}

/// A secret, which stands in a file of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialFile {
    kind: String,
    file: PathBuf,
}

fn grant(text: &str) -> Result<(Domain, Rule), String> {
    let (domain, rule) = text.split_once('=').ok_or("write `domain=host:port`")?;
    Ok((domain.parse().map_err(|error| format!("{error}"))?, rule.parse().map_err(|error| format!("{error}"))?))
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
        let mut settings: Self = toml::from_str(&text).map_err(|error| Failure::file(path, error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let credentials = settings.domains.values_mut().filter_map(|domain| domain.credential.as_mut());
        let files = credentials.map(|credential| &mut credential.file);
        let folders = settings.cache_dir.iter_mut().chain(&mut settings.socket);
        for file in folders.chain(&mut settings.trust_roots).chain(files) {
            *file = folder.join(&*file);
        }
        Ok(settings)
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

    /// With these grants beside those of the file.
    pub(crate) fn grant(mut self, flags: GrantFlags) -> Self {
        for (domain, rule) in flags.grants {
            self.domains.entry(domain).or_default().grants.push(rule.to_string());
        }
        self
    }

    /// The builder of the runtime.
    pub(crate) fn builder(&self) -> anyhow::Result<RuntimeBuilder> {
        let home = self.home.as_ref().ok_or_else(|| Failure::usage("the runtime needs a home domain: give --home"))?;
        let mut builder = Runtime::builder()
            .home_domain(home.as_str())
            .allow_loopback(self.allow_loopback || is_loopback(home))
            .allow_http(self.allow_http);
        if let Some(folder) = &self.cache_dir {
            builder = builder.cache_dir(folder);
        }
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        if let Some(stubs) = self.max_stubs {
            builder = builder.max_stubs(stubs);
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
        for root in self.roots()? {
            builder = builder.trust_roots(root);
        }
        let mut credentials = StaticCredentials::new();
        for (domain, of_domain) in &self.domains {
            if let Some(credential) = &of_domain.credential {
                credentials = credentials.with(domain.clone(), credential.read()?);
            }
            builder = builder.domain(domain.clone(), of_domain.settings(domain)?);
        }
        Ok(builder.credentials(credentials))
    }

    /// The certificates of `trust-roots`.
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.trust_roots.iter().map(|path| fs::read(path).map_err(|error| Failure::file(path, error))).collect()
    }

    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    pub(crate) fn proxy(&self) -> Option<&Url> {
        self.proxy.as_ref()
    }

    pub(crate) const fn allow_http(&self) -> bool {
        self.allow_http
    }
}

impl OfDomain {
    fn settings(&self, domain: &Domain) -> anyhow::Result<DomainSettings> {
        let mut settings = DomainSettings::default();
        settings.configuration.clone_from(&self.configuration);
        settings.relays.clone_from(&self.relays);
        settings.allow_private = self.allow_private;
        settings.waive_digest = self.waive_digest;
        let rules = self.grants.iter().map(|rule| rule.parse::<Rule>());
        settings.grants =
            rules.collect::<Result<_, _>>().map_err(|error| Failure::usage(format_args!("a grant of {domain}: {error}")))?;
        Ok(settings)
    }
}

impl CredentialFile {
    fn read(&self) -> anyhow::Result<Credential> {
        let value = fs::read_to_string(&self.file).map_err(|error| Failure::file(&self.file, error))?;
        let kind = match self.kind.as_str() {
            "bearer" => CredentialKind::Bearer,
            "basic" => CredentialKind::Basic,
            "assertion" => CredentialKind::Assertion,
            other => CredentialKind::Other(other.to_owned()),
        };
        Ok(Credential { kind, value: value.trim_end_matches(['\r', '\n']).to_owned(), expires: None })
    }
}

/// Whether a domain is this machine: who names it means it.
pub(crate) fn is_loopback(domain: &Domain) -> bool {
    domain.host() == "localhost" || domain.ip().is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_settings_file() {
        let settings = Settings::read(Path::new("protostub.example.toml")).unwrap();
        assert_eq!(settings.home.as_ref().map(Domain::as_str), Some("home.example"));
        assert_eq!(settings.domains.len(), 1);
        let _builder = settings.builder().unwrap();
    }

    #[test]
    fn every_key_stands_in_the_example() {
        // What serde expects, from its own mouth.
        let error = toml::from_str::<Settings>("unknown = 1").unwrap_err().to_string();
        let of_domain = toml::from_str::<OfDomain>("unknown = 1").unwrap_err().to_string();
        let example = fs::read_to_string("protostub.example.toml").unwrap();
        let expected = |error: &str| error.split("one of").nth(1).unwrap_or_default().to_owned();
        let keys = expected(&error) + &expected(&of_domain);
        let keys: Vec<_> = keys.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() > 15, "{keys:?}");
        for key in keys {
            let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
            assert!(
                example.lines().any(stands) || example.contains(&format!("[{key}.")) || example.contains(&format!(".{key}]")),
                "{key}"
            );
        }
    }
}
