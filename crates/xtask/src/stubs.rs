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

Builds the sample stubs, and a catalogue of them. `protostub serve` and the demo publish it as the catalogue of a domain:

  target/catalogue/<name>/descriptor.json    stubs/<name>/descriptor.json, with the component's size and digest
  target/catalogue/<name>/component.wasm     the component

Fails if a stub is larger than 300 KB, or than its own limit where it has one: runtimes download stubs.
";

/// Size limit of a Rust stub, in bytes.
const MAX_STUB_BYTES: u64 = 300_000;

/// Stubs with a larger limit, in bytes: `mqtt` contains the packets of two versions of MQTT.
const LARGER: [(&str, u64); 1] = [("mqtt", 352_000)];

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    check_sizes(&catalogue(root)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the stubs and writes the catalogue.
pub(crate) fn catalogue(root: &Path) -> Result<Vec<Guest>> {
    toolchain::require_target(guests::TARGET)?;
    let catalogue = root.join("target/catalogue");
    println!("Building the stubs.");
    let stubs = guests::build(root, "stubs")?;
    if catalogue.exists() {
        fs::remove_dir_all(&catalogue).context("removing the old target/catalogue")?;
    }
    for stub in &stubs {
        publish(root, &catalogue, stub).with_context(|| format!("publishing the stub {}", stub.name))?;
    }
    println!("The catalogue is in target/catalogue.");
    Ok(stubs)
}

/// Shows the sizes of the stubs, and fails if a stub is too large.
pub(crate) fn check_sizes(stubs: &[Guest]) -> Result<()> {
    let mut too_large = Vec::new();
    for Guest { name, component } in stubs {
        let bytes = fs::metadata(component)?.len();
        println!("  {name}: {} KB", bytes / 1000);
        let limit = LARGER.iter().find(|(larger, _)| larger == name).map_or(MAX_STUB_BYTES, |(_, limit)| *limit);
        if bytes > limit {
            too_large.push(format!("{name} has {bytes} bytes, the limit is {limit}"));
        }
    }
    if !too_large.is_empty() {
        bail!("stubs are too large: {}; remove unneeded dependencies", too_large.join(", "));
    }
    Ok(())
}

fn publish(root: &Path, catalogue: &Path, stub: &Guest) -> Result<()> {
    let Guest { name, component } = stub;
    let component = fs::read(component).context("reading the component")?;
    let source = Path::new("stubs").join(name).join("descriptor.json");
    let text = fs::read(root.join(&source)).with_context(|| format!("reading {}", source.display()))?;
    let mut descriptor: Map<String, Value> =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a JSON object", source.display()))?;
    descriptor.insert("sourcePackage".into(), json!({ "sha256": sha256(&component), "size": component.len() }));

    let folder = catalogue.join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("descriptor.json"), serde_json::to_string_pretty(&descriptor)? + "\n")?;
    fs::write(folder.join("component.wasm"), component)?;
    Ok(())
}

/// Returns the digest as `sha256sum` prints it.
fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
