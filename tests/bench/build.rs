//! Passes the version of the measured wasmtime to the benchmarks.

use std::path::Path;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the benchmarks are in the repository")?;
    println!("cargo::rustc-env=PROTOSTUB_WASMTIME={}", wasmtime(root)?);
    Ok(())
}

/// Returns the version of wasmtime in the lock file.
fn wasmtime(root: &Path) -> Result<String> {
    let file = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", file.display());
    let lock = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let (_, entry) = lock.split_once("name = \"wasmtime\"\nversion = \"").context("no wasmtime in the lock file")?;
    Ok(entry.split('"').next().unwrap_or_default().to_owned())
}
