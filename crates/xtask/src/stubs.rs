use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    guests::{self, Guest},
    toolchain,
};

pub(crate) const HELP: &str = "\
usage: cargo xtask stubs

Builds the sample stubs, and lays them out for those who serve or deploy them:

  target/catalogue/<name>/descriptor.json, component.wasm    what `protostub serve` and the demo show as a domain's catalogue
  target/catalogue/sp1.example/.well-known/protostub/        the echo stub as the web server of sp1.example would have it

Fails if a stub is larger than 300 KB: stubs travel.
";

/// How large a Rust stub may be, in bytes.
const MAX_STUB_BYTES: usize = 300_000;
/// A domain that does not exist, and the stub that its catalogue has.
const EXAMPLE: (&str, &str) = ("sp1.example", "echo");

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    catalogue(root)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the stubs and writes the catalogue.
pub(crate) fn catalogue(root: &Path) -> Result<()> {
    toolchain::require_target()?;
    let catalogue = root.join("target/catalogue");
    if catalogue.exists() {
        fs::remove_dir_all(&catalogue).context("removing the old target/catalogue")?;
    }
    for stub in build(root)? {
        publish(root, &catalogue, &stub).with_context(|| format!("publishing the stub {}", stub.name))?;
    }
    println!("The catalogue is in target/catalogue.");
    Ok(())
}

/// Builds the stubs, and checks their sizes.
pub(crate) fn build(root: &Path) -> Result<Vec<Guest>> {
    println!("Building the stubs.");
    let stubs = guests::build(root, "stubs")?;
    for Guest { name, component } in &stubs {
        let bytes = usize::try_from(fs::metadata(component)?.len())?;
        println!("  {name}: {} KB", bytes / 1000);
        if bytes > MAX_STUB_BYTES {
            bail!("the stub {name} has {bytes} bytes, and may have {MAX_STUB_BYTES}; what does it link that it does not need?");
        }
    }
    Ok(stubs)
}

fn publish(root: &Path, catalogue: &Path, stub: &Guest) -> Result<()> {
    let Guest { name, component } = stub;
    let component = fs::read(component).context("reading the component")?;
    let source = Path::new("stubs").join(name).join("descriptor.json");
    let text = fs::read(root.join(&source)).with_context(|| format!("reading {}", source.display()))?;
    let mut descriptor: Map<String, Value> =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON object", source.display()))?;
    descriptor.insert("objectName".into(), name.as_str().into());
    descriptor.insert("language".into(), "WASM_COMPONENT".into());
    descriptor.insert("sourcePackage".into(), json!({ "sha256": sha256(&component), "size": component.len() }));

    let mut write = |folder: &Path, url: String, descriptor_name: &str, component_name: &str| -> Result<()> {
        fs::create_dir_all(folder)?;
        descriptor.insert("sourcePackageURL".into(), url.into());
        fs::write(folder.join(descriptor_name), serde_json::to_string_pretty(&descriptor)? + "\n")?;
        fs::write(folder.join(component_name), &component)?;
        Ok(())
    };
    write(&catalogue.join(name), format!("/.well-known/sourcepackage/{name}"), "descriptor.json", "component.wasm")?;
    let (domain, its_stub) = EXAMPLE;
    if name == its_stub {
        let file = format!("{name}.wasm");
        write(&catalogue.join(domain).join(".well-known/protostub"), file.clone(), "default", &file)?;
    }
    Ok(())
}

/// As `sha256sum` writes it.
fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
