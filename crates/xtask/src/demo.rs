use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{cargo, debian, must, stubs};

pub(crate) const HELP: &str = "\
usage: cargo xtask demo [--mqtt]

Builds the sample stubs into target/catalogue, starts a domain server on loopback (catalogue over HTTP, message node over WebSocket) and two
runtimes. An app on one posts a message to an app on the other; both stubs are downloaded and deployed on demand. Each of the 22 steps of
\"Deploy Protocol Stub\" is shown as it happens. The first run compiles everything: some minutes.

  --mqtt   the stub of MQTT instead, with a real Mosquitto, mosquitto_pub and mosquitto_sub: an app and things that speak MQTT, in both directions, over
           TCP with TLS and over WebSocket. Debian's packages mosquitto and mosquitto-clients are installed if there are rights to.
";

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    example(root, "demo")
}

/// With a real broker.
pub(crate) fn run_mqtt(root: &Path) -> Result<ExitCode> {
    debian::packages(debian::MOSQUITTO)?;
    example(root, "demo_mqtt")
}

fn example(root: &Path, name: &str) -> Result<ExitCode> {
    stubs::catalogue(root)?;
    println!("Building the demo; the first time takes some minutes.");
    // No `--package`: for the whole workspace, dependencies have the features that `cargo test --workspace` gives them, and are compiled once.
    must(cargo(root).args(["run", "--quiet", "--example", name, "--", "--catalogue", "target/catalogue"]))?;
    Ok(ExitCode::SUCCESS)
}
