use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{cargo, debian, must, stubs};

pub(crate) const HELP: &str = "\
usage: cargo xtask demo [--mqtt]

Builds the sample stubs into target/catalogue, starts a domain server on loopback (catalogue over HTTP, message node over WebSocket) and two
runtimes. An app on one posts a message to an app on the other. Both runtimes download and deploy the domain's stub on demand. The demo shows
each of the 22 steps of \"Deploy Protocol Stub\" as it happens. The first run compiles everything, which takes some minutes.

  --mqtt   deploys the MQTT stub instead, with a real Mosquitto, mosquitto_pub and mosquitto_sub: an app and MQTT clients exchange messages in both
           directions, over TCP with TLS and over WebSocket. Installs Debian's packages mosquitto and mosquitto-clients if the user has the rights
";

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    example(root, "demo")
}

/// Runs the demo with a real MQTT broker.
pub(crate) fn run_mqtt(root: &Path) -> Result<ExitCode> {
    debian::packages(debian::MOSQUITTO)?;
    example(root, "demo_mqtt")
}

fn example(root: &Path, name: &str) -> Result<ExitCode> {
    stubs::catalogue(root)?;
    println!("Building the demo; the first time takes some minutes.");
    // Without `--package`, cargo builds dependencies with the whole workspace's features, as `cargo
    // test --workspace` does, and compiles them once.
    must(cargo(root).args(["run", "--quiet", "--example", name, "--", "--catalogue", "target/catalogue"]))?;
    Ok(ExitCode::SUCCESS)
}
