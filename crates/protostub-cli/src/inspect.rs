use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use protostub_catalogue::{Catalogue, CatalogueConfig, Discovered, trust::Authenticity};
use protostub_egress::{Egress, EgressConfig};
use protostub_sandbox::CompiledStub;
use protostub_types::{Address, SafeText, Sha256Digest, StubKey};
use serde_json::{Value, json};

use crate::{
    bars::Bars,
    control::protocol::{Activity, DeploymentProgress, utc},
    engine::Compiler,
    failure::Failure,
    output::Output,
    settings::{RuntimeFlags, Settings},
    text::table,
};

/// Describe a component, or the stub of a domain
///
/// Compiles a file, and checks it against the contract. For a domain, the command first looks up
/// the descriptor, then downloads and verifies the component, as in a deployment. It runs no code
/// of the component. The exit code is 1 if the component could not be deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub inspect target/stubs/wasm32-wasip2/release/echo.wasm
  protostub inspect sp1.example
  protostub inspect slack://user@slack.com --home sp1.example --json")]
pub(crate) struct Inspect {
    /// The file of a component, a domain, or an address of a domain
    #[arg(value_name = "FILE|DOMAIN")]
    target: OsString,

    #[command(flatten)]
    runtime: RuntimeFlags,
}

/// The findings about a component.
struct Findings {
    bytes: usize,
    digest: Sha256Digest,
    compiled: Result<CompiledStub, String>,
}

impl Inspect {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let settings = Settings::load(self.runtime)?;
        let path = Path::new(&self.target);
        if path.is_file() || path.extension().is_some_and(|extension| extension == "wasm") {
            let code = tokio::fs::read(path).await.map_err(|error| Failure::file(path, error))?;
            let digest = Sha256Digest::of(&code);
            let findings = Findings::of(code, digest, &settings).await?;
            output.print(
                || format!("{}\n\n{}", path.display(), table(&findings.rows())),
                || json!({ "file": path.to_string_lossy(), "component": findings.to_json() }),
            )?;
            return Ok(findings.exit_code());
        }
        let address = address_of(&self.target)?;
        let (discovered, findings) = look_up(&address, &settings, &output.bars).await?;
        output.print(
            || {
                let mut rows = rows_of(&discovered);
                rows.extend(findings.rows());
                format!("{}\n\n{}", discovered.key, table(&rows))
            },
            || {
                json!({
                    "domain": discovered.key.domain(),
                    "url": discovered.url.as_str(),
                    "publisher": discovered.publisher,
                    "signature": signature(&discovered.authenticity),
                    "descriptor": without_code(&discovered),
                    "component": findings.to_json(),
                })
            },
        )?;
        Ok(findings.exit_code())
    }
}

/// Reads an argument that is not a file as an address.
pub(crate) fn address_of(target: &OsStr) -> anyhow::Result<Address> {
    let wrong = |problem: &dyn Display| {
        let target = SafeText::quote(&target.to_string_lossy());
        Failure::usage(format_args!("{target} is neither a file nor a domain: {problem}"))
    };
    let text = target.to_str().ok_or_else(|| wrong(&"the text is not UTF-8"))?;
    Address::parse(text).map_err(|error| wrong(&error))
}

/// Steps 4 to 7.
async fn look_up(address: &Address, settings: &Settings, bars: &Bars) -> anyhow::Result<(Discovered, Findings)> {
    let domain =
        address.domain().ok_or_else(|| Failure::usage(format_args!("{address} has no domain; name an address with a domain")))?;
    let (catalogue, key) = catalogue(address, settings.catalogue(&domain)?, egress(settings)?, bars)?;
    let discovered = catalogue.discover(&key).await?;
    let component = catalogue.fetch(&discovered).await?;
    let compiling = |activity| bars.show(&DeploymentProgress { key: key.to_string(), activity });
    compiling(Activity::Compiling);
    let findings = Findings::of(component.bytes().to_vec(), component.digest(), settings).await;
    compiling(Activity::Ready);
    let findings = findings?;
    Ok((discovered, findings))
}

/// Returns the catalogue to ask for the stub of an address, and the key of the stub.
pub(crate) fn catalogue(
    address: &Address,
    mut config: CatalogueConfig,
    egress: Egress,
    bars: &Bars,
) -> anyhow::Result<(Catalogue, StubKey)> {
    config.progress = Some(Arc::new(bars.clone()));
    let key = StubKey::of(address, &config.home)
        .ok_or_else(|| Failure::usage(format_args!("{address} has no domain; name an address with a domain")))?;
    Ok((Catalogue::new(config, egress, Vec::new())?, key))
}

/// Returns the egress that the settings describe.
pub(crate) fn egress(settings: &Settings) -> anyhow::Result<Egress> {
    let mut config = EgressConfig::default().with_extra_roots_pem(settings.roots()?);
    config.proxy = settings.runtime.network.proxy.clone();
    Ok(Egress::new(config)?)
}

fn rows_of(discovered: &Discovered) -> Vec<(&'static str, String)> {
    let descriptor = &discovered.descriptor;
    // The descriptor is untrusted text of the domain, so each text is escaped.
    let safe = |text: &str| SafeText::new(text).to_string();
    let mut rows = vec![("descriptor", safe(discovered.url.as_str()))];
    if discovered.publisher != *discovered.key.domain() {
        rows.push(("published by", discovered.publisher.to_string()));
    }
    rows.push(("name", safe(&descriptor.object_name)));
    rows.push(("version", descriptor.version.to_string()));
    rows.extend(descriptor.description.as_deref().map(|description| ("description", safe(description))));
    rows.push(("source", safe(descriptor.source_package_url.as_deref().unwrap_or("in the descriptor"))));
    rows.push(("signature", in_words(&discovered.authenticity)));
    if !descriptor.ports.is_empty() {
        rows.push(("ports", descriptor.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")));
    }
    if !descriptor.configuration.is_empty() {
        let members = descriptor.configuration.iter().map(|(name, value)| safe(&format!("{name} = {value}")));
        rows.push(("configuration", members.collect::<Vec<_>>().join("\n")));
    }
    rows
}

/// Describes the verdict on a descriptor's signatures.
pub(crate) fn in_words(authenticity: &Authenticity) -> String {
    match authenticity {
        Authenticity::Verified(signed) => {
            let (key, algorithm) = (SafeText::quote(signed.key.id()), signed.key.algorithm());
            format!("good, by the key {key} ({algorithm}), until {}", utc(signed.statement.expires))
        }
        Authenticity::Unsigned => "none".to_owned(),
        Authenticity::Unverified { reason } => format!("not verified: {reason}"),
        _ => "not checked: `signatures` is `off`".to_owned(),
    }
}

/// Returns the verdict on a descriptor's signatures as JSON.
pub(crate) fn signature(authenticity: &Authenticity) -> Value {
    let none = json!({ "verdict": "unsigned", "key": null, "algorithm": null, "expires": null, "reason": null });
    let mut json = none;
    match authenticity {
        Authenticity::Verified(signed) => {
            json["verdict"] = "verified".into();
            json["key"] = SafeText::quote(signed.key.id()).as_str().into();
            json["algorithm"] = signed.key.algorithm().to_string().into();
            json["expires"] = utc(signed.statement.expires).into();
        }
        Authenticity::Unsigned => {}
        Authenticity::Unverified { reason } => {
            json["verdict"] = "unverified".into();
            json["reason"] = reason.as_str().into();
        }
        _ => json["verdict"] = "off".into(),
    }
    json
}

/// Returns the descriptor as JSON, without embedded code.
fn without_code(discovered: &Discovered) -> Value {
    let mut descriptor = serde_json::to_value(&discovered.descriptor).unwrap_or_default();
    if let Some(package) = descriptor.get_mut("sourcePackage").and_then(Value::as_object_mut) {
        package.remove("sourceCode");
    }
    descriptor
}

impl Findings {
    async fn of(code: Vec<u8>, digest: Sha256Digest, settings: &Settings) -> anyhow::Result<Self> {
        let bytes = code.len();
        let compiled = Compiler::new(settings)?.compile(code, digest).await;
        Ok(Self { bytes, digest, compiled: compiled.map_err(|error| error.to_string()) })
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("size", format!("{} bytes", self.bytes)), ("sha256", self.digest.to_string())];
        match &self.compiled {
            Ok(stub) => {
                rows.push(("contract", stub.track().to_owned()));
                rows.push(("exports", stub.exports().join("\n")));
                let (wasi, own): (Vec<_>, Vec<_>) = stub.imports().iter().partition(|import| import.starts_with("wasi:"));
                let mut imports: Vec<_> = own.into_iter().map(SafeText::as_str).collect();
                let of_wasi = format!("{} WASI interfaces, with an empty context", wasi.len());
                imports.extend((!wasi.is_empty()).then_some(of_wasi.as_str()));
                let left_out = format!("and {} more", stub.imports().left_out());
                imports.extend((stub.imports().left_out() > 0).then_some(left_out.as_str()));
                rows.push(("imports", if imports.is_empty() { "nothing".to_owned() } else { imports.join("\n") }));
            }
            Err(problem) => rows.push(("problem", problem.clone())),
        }
        rows
    }

    fn to_json(&self) -> Value {
        let mut json = json!({ "bytes": self.bytes, "sha256": self.digest });
        match &self.compiled {
            Ok(stub) => {
                json["contract"] = stub.track().into();
                json["exports"] = json!(stub.exports().as_slice());
                json["imports"] = json!(stub.imports().as_slice());
            }
            Err(problem) => json["problem"] = problem.as_str().into(),
        }
        json
    }

    fn exit_code(&self) -> ExitCode {
        if self.compiled.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
