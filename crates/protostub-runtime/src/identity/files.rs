use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use protostub_types::{Domain, SafeText, UniqueMap};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Credential, CredentialError, CredentialKind, CredentialProvider, CredentialRequest,
    secret::{Secret, read_private},
};

/// Maximum size of a file with many credentials, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Credentials in files: one file for each domain with only the secret, or JSON files with the
/// credentials of many domains.
///
/// ```json
/// {
///   "sp1.example": { "kind": "bearer", "value": "2YotnFZFEjr1zCsicMWpAA", "expires": 1795424400 },
///   "mqtt.sp2.example": { "kind": "basic", "value": "alice:open sesame" }
/// }
/// ```
///
/// `kind` is `bearer`, `basic` (`user:password`), `assertion`, or a kind of the domain's own.
/// `expires`, in seconds since the Unix epoch, is optional.
///
/// The provider reads a file whenever a credential is needed, so replacing the file renews the
/// credential. On Unix, it refuses a file that every user may open.
#[derive(Debug, Default)]
pub struct FileCredentials {
    by_domain: UniqueMap<Domain, (CredentialKind, Secret)>,
    many: Vec<PathBuf>,
}

/// A credential as JSON, in a file or a login message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialJson {
    kind: String,
    value: String,
    #[serde(default)]
    expires: Option<u64>,
}

impl From<CredentialJson> for Credential {
    fn from(json: CredentialJson) -> Self {
        let expires = json.expires.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Self { kind: CredentialKind::from_name(&json.kind), value: json.value, expires }
    }
}

impl FileCredentials {
    /// Returns a provider without credentials.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file with the secret of exactly this domain, and nothing else except a line end.
    /// Building a runtime fails for a domain that was given twice.
    #[must_use]
    pub fn with(mut self, domain: Domain, kind: CredentialKind, path: impl Into<PathBuf>) -> Self {
        self.by_domain.add(domain, (kind, Secret::file(path)));
        self
    }

    /// Adds a JSON file with the credentials of many domains. The provider reads it after earlier
    /// JSON files, and only for domains without a file of their own.
    #[must_use]
    pub fn with_json(mut self, path: impl Into<PathBuf>) -> Self {
        self.many.push(path.into());
        self
    }
}

#[async_trait]
impl CredentialProvider for FileCredentials {
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        if let Some((kind, secret)) = self.by_domain.get(request.domain) {
            return Ok(Some(Credential { kind: kind.clone(), value: secret.read().await?, expires: None }));
        }
        for path in &self.many {
            let text = read_private(path, MAX_FILE_BYTES).await?;
            if let Some(credential) = parse(path, &text)?.remove(request.domain) {
                return Ok(Some(credential.into()));
            }
        }
        Ok(None)
    }

    fn check(&self) -> Result<(), CredentialError> {
        self.by_domain.check().map_err(|repeated| CredentialError::Failed(SafeText::display(repeated)))
    }
}

/// Reads the credentials of many domains. An error of serde may quote a secret, so only its place
/// is shown. The error about a repeated domain quotes only domains, and is shown.
fn parse(path: &Path, text: &str) -> Result<UniqueMap<Domain, CredentialJson>, CredentialError> {
    serde_json::from_str(text).map_err(|error| {
        if let Some(repeated) = repeated_domain(text) {
            return CredentialError::Failed(SafeText::display(format_args!("`{}`: {repeated}", path.display())));
        }
        CredentialError::Failed(SafeText::display(format_args!(
            r#"`{}` has a fault at line {}, column {}; write {{"<domain>": {{"kind": "bearer", "value": "<secret>"}}}}"#,
            path.display(),
            error.line(),
            error.column()
        )))
    })
}

/// Returns the error about a repeated domain, if all keys of the text are domains.
fn repeated_domain(text: &str) -> Option<String> {
    serde_json::from_str::<BTreeMap<Domain, IgnoredAny>>(text).ok()?;
    serde_json::from_str::<UniqueMap<Domain, IgnoredAny>>(text).err().map(|error| error.to_string())
}
