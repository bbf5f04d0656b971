//! Sources of the domains' credentials, from a settings file.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use protostub_runtime::{
    CredentialKind, EnvironmentCredentials, FileCredentials, OAuth2Client, OAuth2Credentials, RuntimeBuilder, Secret,
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

impl Providers {
    pub(crate) fn with(mut self, domain: &Domain, credential: &Credential) -> anyhow::Result<Self> {
        let kind = CredentialKind::from_name(&credential.kind);
        match (&credential.file, &credential.env) {
            (Some(file), None) => {
                look_for(file)?;
                self.files = self.files.with(domain.clone(), kind, file);
            }
            (None, Some(variable)) => self.environment = self.environment.with_variable(domain.clone(), kind, variable),
            (None, None) => self.environment = self.environment.with(domain.clone(), kind),
            (Some(_), Some(_)) => return Err(both(domain, "credential")),
        }
        Ok(self)
    }

    pub(crate) fn with_oauth2(mut self, domain: &Domain, oauth2: &OAuth2) -> anyhow::Result<Self> {
        let secret = |name, place: &Option<Place>| place.as_ref().map(|place| place.secret(domain, name)).transpose();
        let client_secret = secret("client-secret", &oauth2.client_secret)?;
        let refresh_token = secret("refresh-token", &oauth2.refresh_token)?;
        let (endpoint, id) = (oauth2.token_endpoint.clone(), oauth2.client_id.as_str());
        let client = match (client_secret, refresh_token) {
            (Some(secret), None) => OAuth2Client::client_credentials(endpoint, id, secret),
            (None, Some(token)) => OAuth2Client::refresh_token(endpoint, id, token),
            (Some(secret), Some(token)) => OAuth2Client::refresh_token(endpoint, id, token).client_secret(secret),
            (None, None) => {
                let problem = format!("the domain `{domain}`: `oauth2` needs a `client-secret`, a `refresh-token`, or both");
                return Err(Failure::usage(problem));
            }
        };
        if let Some(scope) = oauth2.scopes.iter().find(|scope| !OAuthScope::is_token(scope)) {
            let scope = scope.escape_debug();
            let problem = format!("the domain `{domain}`: `{scope}` is not a valid scope; write each scope as a separate string");
            return Err(Failure::usage(problem));
        }
        let client = client.scopes(&oauth2.scopes).secret_in_body(oauth2.secret_in_body).allow_private(oauth2.allow_private);
        let client = oauth2.parameters.iter().fold(client, |client, (name, value)| client.parameter(name, value));
        self.oauth2 = self.oauth2.with(domain.clone(), client);
        Ok(self)
    }

    /// Adds the providers to the builder: those of single domains first, then the files for many
    /// domains.
    pub(crate) fn of(self, builder: RuntimeBuilder, many: &[PathBuf]) -> anyhow::Result<RuntimeBuilder> {
        let mut files = self.files;
        for file in many {
            look_for(file)?;
            files = files.with_json(file);
        }
        Ok(builder.credentials(self.environment).credentials(self.oauth2).credentials(files))
    }
}

impl Credential {
    pub(crate) fn file_mut(&mut self) -> Option<&mut PathBuf> {
        self.file.as_mut()
    }
}

impl OAuth2 {
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let places = self.client_secret.iter_mut().chain(&mut self.refresh_token);
        places.filter_map(|place| place.file.as_mut())
    }
}

impl Place {
    fn secret(&self, domain: &Domain, key: &str) -> anyhow::Result<Secret> {
        match (&self.file, &self.env) {
            (Some(file), None) => {
                look_for(file)?;
                Ok(Secret::file(file))
            }
            (None, Some(variable)) => Ok(Secret::environment(variable)),
            (Some(_), Some(_)) => Err(both(domain, key)),
            (None, None) => Err(Failure::usage(format!("the domain `{domain}`: `{key}` needs `file` or `env`"))),
        }
    }
}

fn both(domain: &Domain, key: &str) -> anyhow::Error {
    Failure::usage(format!("the domain `{domain}`: `{key}` has both `file` and `env`; remove one of them"))
}

/// Reports a missing file at the start, not at the first login.
fn look_for(file: &Path) -> anyhow::Result<()> {
    File::open(file).map(drop).map_err(|error| Failure::file(file, error))
}
