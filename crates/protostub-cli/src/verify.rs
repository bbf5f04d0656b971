use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use protostub_catalogue::trust::{Authenticity, Signatures, TrustPolicy};
use protostub_runtime::{Domain, Sha256Digest};
use serde_json::json;

use crate::{
    failure::Failure,
    inspect::{self, in_words, signature},
    keygen,
    output::Output,
    settings::{RuntimeFlags, Settings},
    text::table,
};

/// Verify the signatures of a stub
///
/// For a domain, the command looks up the descriptor and downloads the component, as a deployment
/// that requires signatures does. For a file, it verifies the signatures for the domain in
/// --domain, with the keys in --keys or in the settings. The exit code is 1 if no signature is
/// valid.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub verify sp1.example
  protostub verify echo/descriptor.json --domain sp1.example --keys protostub-jwks.json --component echo/component.wasm")]
pub(crate) struct Verify {
    /// The file of a descriptor, a domain, or an address of a domain
    #[arg(value_name = "DESCRIPTOR|DOMAIN")]
    target: OsString,

    /// Trust the keys in this JSON Web Key Set, like those in `trusted-keys` of the domain; can be
    /// repeated
    #[arg(long = "keys", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// For a file: the domain of the stub
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<Domain>,

    /// For a file: the published name of the stub [default: any]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The component, which must be the signed one
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,

    #[command(flatten)]
    runtime: RuntimeFlags,
}

impl Verify {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let settings = Settings::load(self.runtime)?;
        let path = Path::new(&self.target);
        let (authenticity, domain, version, digest) = if path.is_file() || path.extension().is_some_and(|kind| kind == "json") {
            let domain = self
                .domain
                .ok_or_else(|| Failure::usage("a descriptor file does not name the domain of its stub; give --domain"))?;
            let policy = trusting(settings.trust()?, &domain, &self.keys)?;
            let json = fs::read(path).map_err(|error| Failure::file(path, error))?;
            let verified = policy.verify(&json, &domain, self.name.as_deref(), &[]);
            let (signed, descriptor) = verified.map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))?;
            (Authenticity::Verified(Box::new(signed)), domain, descriptor.version.clone(), descriptor.digest())
        } else {
            let address = inspect::address_of(&self.target)?;
            let domain = address
                .domain()
                .ok_or_else(|| Failure::usage(format_args!("{address} has no domain; name an address with a domain")))?;
            let (mut config, egress) = (settings.catalogue(&domain)?, inspect::egress(&settings)?);
            config.trust = trusting(config.trust, &domain, &self.keys)?;
            config.trust.signatures = Signatures::Require;
            config.trust.domains.values_mut().for_each(|of_domain| of_domain.signatures = None);
            let (catalogue, key) = inspect::catalogue(&address, config, egress, &output.bars)?;
            let discovered = catalogue.discover(&key).await?;
            let component = catalogue.fetch(&discovered).await?;
            (discovered.authenticity, domain, discovered.descriptor.version, Some(component.digest()))
        };
        if let Some(file) = &self.component {
            let code = fs::read(file).map_err(|error| Failure::file(file, error))?;
            let is = Sha256Digest::of(&code);
            if let Some(signed) = digest.filter(|signed| *signed != is) {
                let problem = format!("{}: the digest of the component is {is}, but the signed one is {signed}", file.display());
                return Err(Failure::failed(problem).into());
            }
        }
        output.print(
            || {
                table(&[
                    ("signature", in_words(&authenticity)),
                    ("of", format!("{domain}, version {version}")),
                    ("sha256", digest.map(|digest| digest.to_string()).unwrap_or_default()),
                ])
            },
            || json!({ "domain": domain, "version": version, "sha256": digest, "signature": signature(&authenticity) }),
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

fn trusting(mut policy: TrustPolicy, domain: &Domain, files: &[PathBuf]) -> anyhow::Result<TrustPolicy> {
    for file in files {
        policy.domains.entry(domain.clone()).or_default().keys.extend(keygen::read_public(file)?);
    }
    Ok(policy)
}
