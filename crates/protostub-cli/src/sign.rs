use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::Args;
use protostub_runtime::{
    Descriptor, Domain,
    trust::{self, Statement},
};
use protostub_types::Sha256Digest;
use serde_json::json;

use crate::{
    control::protocol::utc, engine::Compiler, failure::Failure, keygen, output::Output, settings::Settings, text::table,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum lifetime of a signature, in days.
const MAX_DAYS: i64 = 3660;
const _: () = assert!(MAX_DAYS.unsigned_abs() * DAY.as_secs() == trust::MAX_LIFETIME.as_secs(), "hosts refuse other lifetimes");

/// Sign the descriptor of a stub
///
/// The signature binds the whole descriptor, including the digest of its component, to a domain and
/// to the names of the stub. It replaces the descriptor's `signatures`, unless --add is set. Sign
/// after the last change: runtimes refuse a descriptor that changed after it was signed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub sign echo/descriptor.json --key sp1.key --domain sp1.example --name default \
    --component echo/component.wasm
  protostub sign descriptor.json --key new.key --add --domain sp1.example --name default --name echo --days 30")]
pub(crate) struct Sign {
    /// The file of the descriptor; the command rewrites it
    #[arg(value_name = "DESCRIPTOR")]
    descriptor: PathBuf,

    /// The file of the key: PKCS#8 in PEM, of Ed25519 or P-256
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The id of the published key [default: its thumbprint]
    #[arg(long, value_name = "TEXT")]
    key_id: Option<String>,

    /// The domain of the stub
    #[arg(long, value_name = "DOMAIN")]
    domain: Domain,

    /// A name for the published stub, such as `default`; can be repeated [default: its
    /// `objectName`]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,

    /// The component, which must be a protocol stub; its digest and size are written into the
    /// descriptor
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,

    /// Lifetime of the signature, in days
    #[arg(long, value_name = "NUMBER", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    days: u32,

    /// Keep the existing signatures, such as the one of the old key in a rotation
    #[arg(long)]
    add: bool,
}

impl Sign {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let path = &self.descriptor;
        let json = fs::read(path).map_err(|error| Failure::file(path, error))?;
        let mut descriptor = Descriptor::parse(&json).map_err(|error| Failure::file(path, error))?;
        let key = keygen::read(&self.key, self.key_id)?;
        let mut contract = None;
        if let Some(component) = &self.component {
            let code = fs::read(component).map_err(|error| Failure::file(component, error))?;
            contract = Some(track(code.clone()).await.map_err(|error| Failure::file(component, format!("{error:#}")))?);
            bind(&mut descriptor, &code);
        }
        if !self.add {
            descriptor.signatures.clear();
        }
        let mut names = self.names;
        if names.is_empty() {
            names.push(descriptor.object_name.clone());
        }
        let issued = SystemTime::now();
        let statement = Statement { domain: self.domain, names, contract, issued, expires: issued + self.days * DAY };
        trust::sign(&mut descriptor, &statement, &key)
            .map_err(|error| Failure::file(path, format!("{error}; name the component with --component")))?;
        fs::write(path, descriptor.to_json() + "\n").with_context(|| format!("failed to write {}", path.display()))?;
        let (public, digest) = (key.public(), descriptor.digest().map(|digest| digest.to_string()));
        output.print(
            || {
                table(&[
                    ("signed", path.display().to_string()),
                    ("for", format!("{}: {}", statement.domain, statement.names.join(", "))),
                    ("version", descriptor.version.to_string()),
                    ("sha256", digest.clone().unwrap_or_default()),
                    ("key", format!("{} ({})", public.id(), public.algorithm())),
                    ("expires", utc(statement.expires)),
                ])
            },
            || {
                json!({
                    "signed": path.to_string_lossy(),
                    "domain": statement.domain,
                    "names": statement.names,
                    "version": descriptor.version,
                    "contract": statement.contract,
                    "sha256": digest,
                    "key": public.id(),
                    "algorithm": public.algorithm().to_string(),
                    "expires": utc(statement.expires),
                })
            },
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the contract track of a component. Fails if the component is not a stub, because only
/// stubs can be signed.
async fn track(code: Vec<u8>) -> anyhow::Result<String> {
    let digest = Sha256Digest::of(&code);
    Ok(Compiler::new(&Settings::default())?.compile(code, digest).await?.track().to_owned())
}

/// Writes the digest of the component into a descriptor, both for embedded and for separate code.
fn bind(descriptor: &mut Descriptor, code: &[u8]) {
    let is_inline = descriptor.source_package.as_ref().is_some_and(|package| package.source_code.is_some());
    match descriptor.source_package_url.clone() {
        Some(url) if !is_inline && url != "/sourcePackage" => descriptor.refer(&url, code),
        _ => descriptor.embed(code),
    }
}
