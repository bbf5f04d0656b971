use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use protostub_runtime::trust::{PublicKey, SigningAlgorithm, SigningKey};
use serde_json::{Value, json};

use crate::{failure::Failure, output::Output, text::table};

/// Create a key that signs descriptors
///
/// Writes the key as PKCS#8 in PEM, readable by this user only. With --jwks, the command adds the
/// public half to a JSON Web Key Set. The domain publishes this set at
/// `/.well-known/protostub-jwks.json`, or an operator lists it in `trusted-keys`. A key that
/// `openssl genpkey` created works too: with --jwks, the command keeps an existing key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub keygen sp1.key --jwks protostub-jwks.json
  protostub keygen next.key --jwks protostub-jwks.json --algorithm es256 --id 2027")]
pub(crate) struct Keygen {
    /// The file of the key
    #[arg(value_name = "KEY")]
    key: PathBuf,

    /// The key set that receives the public half; created if missing
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,

    /// The signature algorithm of the key
    #[arg(long, value_enum, default_value_t)]
    algorithm: Algorithm,

    /// The id of the key [default: its thumbprint]
    #[arg(long, value_name = "TEXT")]
    id: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Algorithm {
    /// Ed25519
    #[default]
    Eddsa,
    /// ECDSA with P-256 and SHA-256
    Es256,
}

impl Keygen {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let algorithm = match self.algorithm {
            Algorithm::Eddsa => SigningAlgorithm::EdDsa,
            Algorithm::Es256 => SigningAlgorithm::Es256,
        };
        let is_there = fs::exists(&self.key).map_err(|error| Failure::file(&self.key, error))?;
        if is_there && self.jwks.is_none() {
            return Err(Failure::file(&self.key, "the file exists already; choose another name, or remove the file"));
        }
        if !is_there {
            let pem = SigningKey::generate(algorithm)?;
            write_secret(&self.key, pem.as_bytes()).map_err(|error| Failure::file(&self.key, error))?;
        }
        let key = read(&self.key, self.id)?;
        if let Some(jwks) = &self.jwks {
            add(jwks, key.public())?;
        }
        let public = key.public();
        output.print(
            || {
                let mut rows = vec![
                    ("key", self.key.display().to_string()),
                    ("id", public.id().to_owned()),
                    ("algorithm", public.algorithm().to_string()),
                    ("thumbprint", public.thumbprint().to_owned()),
                ];
                rows.extend(self.jwks.as_ref().map(|jwks| ("public in", jwks.display().to_string())));
                table(&rows)
            },
            || {
                json!({
                    "key": self.key.to_string_lossy(),
                    "id": public.id(),
                    "algorithm": public.algorithm().to_string(),
                    "thumbprint": public.thumbprint(),
                    "jwks": self.jwks.as_ref().map(|jwks| jwks.to_string_lossy()),
                })
            },
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a signing key from its file.
pub(crate) fn read(path: &Path, id: Option<String>) -> anyhow::Result<SigningKey> {
    let pem = fs::read(path).map_err(|error| Failure::file(path, error))?;
    SigningKey::from_pem(&pem, id).map_err(|error| Failure::file(path, error))
}

/// Reads public keys from a file with a key set or a single key.
pub(crate) fn read_public(path: &Path) -> anyhow::Result<Vec<PublicKey>> {
    let json = fs::read(path).map_err(|error| Failure::file(path, error))?;
    let keys = PublicKey::read_set(&json).map_err(|error| Failure::file(path, error))?;
    if keys.is_empty() {
        return Err(Failure::file(path, "the file has no key for signatures; add a key of Ed25519 or P-256"));
    }
    Ok(keys)
}

fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// Adds a key to a set. Replaces a key with the same id.
fn add(path: &Path, key: &PublicKey) -> anyhow::Result<()> {
    let mut set = match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|error| Failure::file(path, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({ "keys": [] }),
        Err(error) => return Err(Failure::file(path, error)),
    };
    let keys = set.get_mut("keys").and_then(Value::as_array_mut);
    let keys = keys.ok_or_else(|| Failure::file(path, "the file is not a JSON Web Key Set: the array `keys` is missing"))?;
    keys.retain(|other| other["kid"] != key.id());
    keys.push(key.to_jwk());
    fs::write(path, serde_json::to_string_pretty(&set)? + "\n").with_context(|| format!("failed to write {}", path.display()))
}
