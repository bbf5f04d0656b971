//! Sources of the domains' credentials, from a settings file.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::File,
    path::{Path, PathBuf},
};

use protostub_runtime::{
    CredentialKind, CredentialProvider as _, EnvironmentCredentials, FileCredentials, OAuth2Client, OAuth2Credentials,
    RuntimeBuilder, Secret,
};
use protostub_types::{Domain, OAuthScope};
use serde::Deserialize;
use url::Url;

use crate::failure::Failure;

/// The credential for a domain: a secret in a file or in an environment variable.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{ kind = \"…\", file = \"…\" }`")]
pub(crate) struct Credential {
    kind: String,
    file: Option<PathBuf>,
    env: Option<String>,
}

/// Settings to obtain OAuth 2.0 tokens for a domain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct OAuth2 {
    token_endpoint: Url,
    client_id: String,
    client_secret: Option<Place>,
    refresh_token: Option<Place>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    #[serde(default)]
    secret_in_body: bool,
    #[serde(default)]
    allow_private: bool,
}

/// The place of a secret: a file or an environment variable.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{ file = \"…\" }` or `{ env = \"…\" }`")]
pub(crate) struct Place {
    file: Option<PathBuf>,
    env: Option<String>,
}

/// Collects the providers of credentials.
#[derive(Default)]
pub(crate) struct Providers {
    files: FileCredentials,
    environment: EnvironmentCredentials,
    oauth2: OAuth2Credentials,
}

/// An error in the settings of a credential.
#[derive(Debug)]
pub(crate) struct CredentialFault {
    /// The keys to the wrong value, from the table of the domain.
    pub(crate) keys: Vec<&'static str>,
    pub(crate) error: anyhow::Error,
}

impl CredentialFault {
    fn new(keys: &[&'static str], problem: impl Display) -> Self {
        Self { keys: keys.to_vec(), error: Failure::usage(problem) }
    }

    fn file(keys: &[&'static str], file: &Path) -> Result<(), Self> {
        look_for(file).map_err(|error| Self { keys: keys.to_vec(), error })
    }
}

impl Providers {
    pub(crate) fn with(mut self, domain: &Domain, credential: &Credential) -> Result<Self, CredentialFault> {
        let kind = CredentialKind::from_name(&credential.kind);
        match (&credential.file, &credential.env) {
            (Some(file), _) => {
                CredentialFault::file(&["credential", "file"], file)?;
                self.files = self.files.with(domain.clone(), kind, file);
            }
            (None, Some(variable)) => self.environment = self.environment.with_variable(domain.clone(), kind, variable),
            (None, None) => self.environment = self.environment.with(domain.clone(), kind),
        }
        Ok(self)
    }

    pub(crate) fn with_oauth2(mut self, domain: &Domain, oauth2: &OAuth2) -> Result<Self, CredentialFault> {
        for (key, place) in [("client-secret", &oauth2.client_secret), ("refresh-token", &oauth2.refresh_token)] {
            if let Some(file) = place.as_ref().and_then(|place| place.file.as_ref()) {
                CredentialFault::file(&["oauth2", key, "file"], file)?;
            }
        }
        self.oauth2 = self.oauth2.with(domain.clone(), oauth2.client(domain)?);
        Ok(self)
    }

    /// Adds the providers to the builder: those of single domains first, then the files for many
    /// domains.
    pub(crate) fn of(self, builder: RuntimeBuilder, many: &[PathBuf]) -> RuntimeBuilder {
        let files = many.iter().fold(self.files, FileCredentials::with_json);
        builder.credentials(self.environment).credentials(self.oauth2).credentials(files)
    }
}

impl Credential {
    pub(crate) fn file_mut(&mut self) -> Option<&mut PathBuf> {
        self.file.as_mut()
    }

    /// Checks everything but the content of the file.
    pub(crate) fn check(&self, domain: &Domain) -> Result<(), CredentialFault> {
        if self.kind.is_empty() {
            let problem = "the kind is empty; write `bearer`, `basic`, `assertion` or a kind of the domain";
            return Err(CredentialFault::new(&["credential", "kind"], problem));
        }
        check_place(domain, &["credential"], self.file.as_deref(), self.env.as_deref())
    }
}

impl OAuth2 {
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let places = self.client_secret.iter_mut().chain(&mut self.refresh_token);
        places.filter_map(|place| place.file.as_mut())
    }

    /// Checks everything but the content of files. With `loopback`, the endpoint may be on this
    /// machine by any name.
    pub(crate) fn check(&self, domain: &Domain, loopback: bool) -> Result<(), CredentialFault> {
        check_endpoint(&self.token_endpoint, loopback)?;
        if self.client_id.is_empty() {
            let problem = "the id is empty; write the id that the server has issued";
            return Err(CredentialFault::new(&["oauth2", "client-id"], problem));
        }
        for (key, place) in [("client-secret", &self.client_secret), ("refresh-token", &self.refresh_token)] {
            if let Some(Place { file, env }) = place {
                check_place(domain, &["oauth2", key], file.as_deref(), env.as_deref())?;
                if file.is_none() && env.is_none() {
                    let problem = format!("the domain `{domain}`: `{key}` needs `file` or `env`");
                    return Err(CredentialFault::new(&["oauth2", key], problem));
                }
            }
        }
        if let Some(scope) = self.scopes.iter().find(|scope| !OAuthScope::is_token(scope)) {
            let scope = scope.escape_debug();
            let problem = format!("the domain `{domain}`: `{scope}` is not a valid scope; write each scope as a separate string");
            return Err(CredentialFault::new(&["oauth2", "scopes"], problem));
        }
        // The runtime would refuse the same later, without the place.
        let alone = OAuth2Credentials::new().with(domain.clone(), self.client(domain)?);
        alone.check().map_err(|error| CredentialFault::new(&["oauth2", "parameters"], error))
    }

    fn client(&self, domain: &Domain) -> Result<OAuth2Client, CredentialFault> {
        let secret = |place: &Option<Place>| place.as_ref().and_then(Place::secret);
        let (endpoint, id) = (self.token_endpoint.clone(), self.client_id.as_str());
        let client = match (secret(&self.client_secret), secret(&self.refresh_token)) {
            (Some(secret), None) => OAuth2Client::client_credentials(endpoint, id, secret),
            (None, Some(token)) => OAuth2Client::refresh_token(endpoint, id, token),
            (Some(secret), Some(token)) => OAuth2Client::refresh_token(endpoint, id, token).client_secret(secret),
            (None, None) => {
                let problem = format!("the domain `{domain}`: `oauth2` needs a `client-secret`, a `refresh-token`, or both");
                return Err(CredentialFault::new(&["oauth2"], problem));
            }
        };
        let client = client.scopes(&self.scopes).secret_in_body(self.secret_in_body).allow_private(self.allow_private);
        Ok(self.parameters.iter().fold(client, |client, (name, value)| client.parameter(name, value)))
    }
}

impl Place {
    fn secret(&self) -> Option<Secret> {
        let of_environment = || self.env.as_ref().map(Secret::environment);
        self.file.as_ref().map(Secret::file).or_else(of_environment)
    }
}

/// Checks the place of a secret: at most one place, which can exist.
fn check_place(domain: &Domain, keys: &[&'static str], file: Option<&Path>, env: Option<&str>) -> Result<(), CredentialFault> {
    let inner = |key| [keys, &[key][..]].concat();
    if file.is_some() && env.is_some() {
        let key = keys.last().copied().unwrap_or_default();
        let problem = format!("the domain `{domain}`: `{key}` has both `file` and `env`; remove one of them");
        return Err(CredentialFault::new(&inner("env"), problem));
    }
    if let Some(file) = file {
        check_path(file).map_err(|error| CredentialFault { keys: inner("file"), error })?;
    }
    match env {
        Some(name) if name.is_empty() || name.contains(['=', '\0']) => {
            let problem = "no environment variable can have this name; write the name of the variable";
            Err(CredentialFault::new(&inner("env"), problem))
        }
        _ => Ok(()),
    }
}

/// Checks that the runtime could send a secret to this token endpoint.
fn check_endpoint(url: &Url, loopback: bool) -> Result<(), CredentialFault> {
    let is_loopback = || url.host_str().and_then(|host| Domain::parse(host).ok()).is_some_and(|host| host.is_loopback());
    let problem = match url.scheme() {
        "https" => return Ok(()),
        "http" if loopback || is_loopback() => return Ok(()),
        "http" => "the URL has no TLS, and its server is not this machine; write an `https` URL",
        _ => "the URL is neither `https` nor `http`; write an `https` URL",
    };
    Err(CredentialFault::new(&["oauth2", "token-endpoint"], problem))
}

/// Checks that a path can name a file.
pub(crate) fn check_path(path: &Path) -> anyhow::Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err(Failure::usage("the path is empty; name a file, or remove the key"));
    }
    match bytes.contains(&0) {
        true => Err(Failure::usage("the path has a NUL byte; name a path without one")),
        false => Ok(()),
    }
}

/// Reports a missing file at the start, not at the first login.
pub(crate) fn look_for(file: &Path) -> anyhow::Result<()> {
    let opened = File::open(file).and_then(|file| file.metadata());
    match opened.map_err(|error| Failure::file(file, error))?.is_dir() {
        true => Err(Failure::file(file, "the path is a folder; name a file")),
        false => Ok(()),
    }
}
