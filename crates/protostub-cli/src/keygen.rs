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

/// Make a key to sign descriptors with
///
/// The key is written as PKCS#8 in PEM, which nobody else may read. With --jwks, its public half is added to a JSON Web
/// Key Set, which the domain publishes at `/.well-known/protostub-jwks.json`, or an operator puts into `trusted-keys`.
/// A key that `openssl genpkey` made will do as well: with --jwks, a key that is there is not made anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub keygen sp1.key --jwks protostub-jwks.json
  protostub keygen next.key --jwks protostub-jwks.json --algorithm es256 --id 2027")]
pub(crate) struct Keygen {
    /// The file of the key
    #[arg(value_name = "KEY")]
    key: PathBuf,

    /// The key set that the public half is added to, which is made if it is not there
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,

    /// What the key is for
    #[arg(long, value_enum, default_value_t)]
    algorithm: Algorithm,

    /// What the key is called [default: its thumbprint]
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
            return Err(Failure::file(&self.key, "it is there already; take another name, or remove it"));
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
                    "jwks": self.jwks,
                })
            },
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A key to sign with, from its file.
pub(crate) fn read(path: &Path, id: Option<String>) -> anyhow::Result<SigningKey> {
    let pem = fs::read(path).map_err(|error| Failure::file(path, error))?;
    SigningKey::from_pem(&pem, id).map_err(|error| Failure::file(path, error))
}

/// Keys to verify with, from a file with a set of them, or one.
pub(crate) fn read_public(path: &Path) -> anyhow::Result<Vec<PublicKey>> {
    let json = fs::read(path).map_err(|error| Failure::file(path, error))?;
    let keys = PublicKey::read_set(&json).map_err(|error| Failure::file(path, error))?;
    if keys.is_empty() {
        return Err(Failure::file(path, "it has no key that descriptors are signed with: those are of Ed25519 or P-256"));
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

/// Adds a key to a set, in place of one with the same id.
fn add(path: &Path, key: &PublicKey) -> anyhow::Result<()> {
    let mut set = match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|error| Failure::file(path, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({ "keys": [] }),
        Err(error) => return Err(Failure::file(path, error)),
    };
    let keys = set.get_mut("keys").and_then(Value::as_array_mut);
    let keys = keys.ok_or_else(|| Failure::file(path, "it is no JSON Web Key Set: it has no array `keys`"))?;
    keys.retain(|other| other["kid"] != key.id());
    keys.push(key.to_jwk());
    fs::write(path, serde_json::to_string_pretty(&set)? + "\n").with_context(|| format!("writing {}", path.display()))
}
