use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{cargo, must, stubs};

pub(crate) const HELP: &str = "\
usage: cargo xtask demo

Builds the sample stubs into target/catalogue, starts a domain server on loopback (catalogue over HTTP, message node over WebSocket) and two
runtimes. An app on one posts a message to an app on the other; both stubs are downloaded and deployed on demand. Each of the 22 steps of
\"Deploy Protocol Stub\" is shown as it happens. The first run compiles everything: some minutes.
";

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    stubs::catalogue(root)?;
    println!("Building the demo; the first time takes some minutes.");
    // No `--package`: for the whole workspace, dependencies have the features that `cargo test --workspace` gives them, and are compiled once.
    must(cargo(root).args(["run", "--quiet", "--example", "demo", "--", "--catalogue", "target/catalogue"]))?;
    Ok(ExitCode::SUCCESS)
}
