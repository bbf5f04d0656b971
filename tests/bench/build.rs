//! Builds the components that are measured: the sample stubs.

#[path = "../../crates/xtask/src/guests.rs"]
mod guests;

use std::path::Path;

use anyhow::{Context as _, Result};

/// What the components are made of, from the repository's root.
const SOURCES: [&str; 3] = ["crates/protostub-sdk", "stubs", "wit"];

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the benchmarks are in the repository")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=../../crates/xtask/src/guests.rs");
    println!("cargo::rerun-if-env-changed=CI");
    let guests = guests::build(root, "stubs")?;
    let folder = guests.first().and_then(|guest| guest.component.parent()).context("there are no components")?;
    println!("cargo::rustc-env=PROTOSTUB_COMPONENTS={}", folder.display());
    println!("cargo::rustc-env=PROTOSTUB_WASMTIME={}", wasmtime(root)?);
    Ok(())
}

/// The version of wasmtime that is in the lock file.
fn wasmtime(root: &Path) -> Result<String> {
    let file = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", file.display());
    let lock = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let (_, entry) = lock.split_once("name = \"wasmtime\"\nversion = \"").context("no wasmtime in the lock file")?;
    Ok(entry.split('"').next().unwrap_or_default().to_owned())
}
