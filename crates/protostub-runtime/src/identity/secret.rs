use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::CredentialError;
use crate::error::SHUTTING_DOWN;

/// Maximum size of a secret, in bytes: more than any token that fits into a header.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// The source of a secret. `Debug` does not show the secret.
#[derive(Clone)]
pub struct Secret(SecretSource);

#[derive(Clone)]
enum SecretSource {
    Here(String),
    File(PathBuf),
    Environment(String),
}

impl Secret {
    /// Returns a secret with this text.
    pub fn text(secret: impl Into<String>) -> Self {
        Self(SecretSource::Here(secret.into()))
    }

    /// Returns a secret in a file that contains nothing else. A line end after it is not part of
    /// it. The file is read whenever the secret is needed. On Unix, a file that every user may read
    /// is refused.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(SecretSource::File(path.into()))
    }

    /// Returns a secret that is the value of this environment variable.
    pub fn environment(variable: impl Into<String>) -> Self {
        Self(SecretSource::Environment(variable.into()))
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match &self.0 {
            SecretSource::File(path) => Some(path),
            SecretSource::Here(_) | SecretSource::Environment(_) => None,
        }
    }

    pub(super) async fn read(&self) -> Result<String, CredentialError> {
        let secret = match &self.0 {
            SecretSource::Here(secret) => secret.clone(),
            SecretSource::File(path) => read_private(path, MAX_SECRET_BYTES).await?.trim_end_matches(['\r', '\n']).to_owned(),
            SecretSource::Environment(variable) => std::env::var(variable).map_err(|error| {
                let problem = match error {
                    std::env::VarError::NotPresent => "is not set",
                    std::env::VarError::NotUnicode(_) => "is not UTF-8 text",
                };
                CredentialError::Failed(format!("the environment variable `{variable}` {problem}").into())
            })?,
        };
        match secret.is_empty() {
            true => Err(CredentialError::Failed(format!("{self:?} is empty").into())),
            false => Ok(secret),
        }
    }
}

impl fmt::Debug for Secret {
    /// Shows the source of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            SecretSource::Here(_) => f.write_str("the secret"),
            SecretSource::File(path) => write!(f, "the secret in `{}`", path.display()),
            SecretSource::Environment(variable) => write!(f, "the secret in the environment variable `{variable}`"),
        }
    }
}

/// Reads a file with secrets, which other users must not be able to read.
pub(super) async fn read_private(path: &Path, max_bytes: u64) -> Result<String, CredentialError> {
    let path = path.to_owned();
    let read = move || {
        let fail = |problem: String| {
            CredentialError::Failed(format!("failed to read the secrets in `{}`: {problem}", path.display()).into())
        };
        let io = |error: io::Error| fail(error.to_string());
        // Opening a pipe would wait for its writer.
        if !fs::metadata(&path).map_err(io)?.is_file() {
            return Err(fail("the path is not a regular file".to_owned()));
        }
        let file = File::open(&path).map_err(io)?;
        check_mode(&file.metadata().map_err(io)?).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > max_bytes {
            return Err(fail(format!("the file has more than {max_bytes} bytes")));
        }
        String::from_utf8(bytes).map_err(|_| fail("the file is not UTF-8 text".to_owned()))
    };
    let reading = tokio::task::spawn_blocking(read).await;
    reading.unwrap_or_else(|_| Err(CredentialError::Temporary(SHUTTING_DOWN.into())))
}

#[cfg(unix)]
fn check_mode(metadata: &fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o007 {
        0 => Ok(()),
        _ => Err(format!("every user of this machine may open the file (mode {mode:03o}); run `chmod o=` on it")),
    }
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "on Unix there is something to check")]
fn check_mode(_: &fs::Metadata) -> Result<(), String> {
    Ok(())
}
