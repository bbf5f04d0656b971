//! A domain that publishes one version after the other, and the versions that the runtime accepts.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use protostub_artifacts::component;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    clients::Shared,
    control::{Closed, Control},
};

/// Pause between two versions.
const PERIOD: Duration = Duration::from_millis(200);
/// Number of versions with the same component. The runtime downloads and compiles each new one.
const NEW_COMPONENT: u64 = 5;

/// The folder of the domain's catalogue.
pub(crate) struct Releases {
    folder: PathBuf,
    component: Vec<u8>,
}

/// The versions that a campaign published.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// The last version that the runtime reported as live.
    pub(crate) last: u64,
    /// Number of processes that were asked for the accepted version of the process before.
    pub(crate) compared: u64,
    /// Number of older versions that were refused.
    pub(crate) refused: u64,
}

impl Releases {
    /// Publishes the first version in this folder.
    pub(crate) fn begin(folder: &Path) -> Result<Self> {
        let releases = Self { folder: folder.join("echo"), component: component("echo") };
        fs::create_dir_all(&releases.folder)?;
        releases.publish(1)?;
        Ok(releases)
    }

    fn publish(&self, version: u64) -> Result<()> {
        let number = u8::try_from(version / NEW_COMPONENT % 100)?;
        // A custom section with an empty name changes the digest. Its length differs too, because
        // the server recognises files by their length.
        let mut component = self.component.clone();
        component.extend([0, number + 1, 0]);
        component.extend(vec![0; usize::from(number)]);
        let mut descriptor: Value = serde_json::from_str(include_str!("../../../stubs/echo/descriptor.json"))?;
        descriptor["version"] = format!("1.{version}").into();
        for (name, content) in [("component.wasm", component), ("descriptor.json", descriptor.to_string().into_bytes())] {
            let partial = self.folder.join("partial");
            fs::write(&partial, content)?;
            fs::rename(&partial, self.folder.join(name))?;
        }
        Ok(())
    }

    /// Publishes versions and has the runtime take them. Each new process first shows the version
    /// that it accepted last, and refuses an older one.
    pub(crate) async fn run(self, shared: Shared) -> Result<Accepted> {
        let mut accepted = Accepted::default();
        let mut next = 1;
        while let Some((_, mut control)) = shared.connect().await {
            // A closed connection is the expected end of a process.
            let _ = self.of_process(&shared, &mut control, &mut accepted, &mut next).await?;
        }
        Ok(accepted)
    }

    async fn of_process(
        &self,
        shared: &Shared,
        control: &mut Control,
        accepted: &mut Accepted,
        next: &mut u64,
    ) -> Result<Option<Closed>> {
        let target = &shared.addresses.releases;
        macro_rules! ask {
            ($request:expr) => {
                match control.ask(&$request).await.context("the runtime does not answer")? {
                    Ok(answer) => answer,
                    Err(closed) => return Ok(Some(closed)),
                }
            };
        }
        let shown = ask!(json!({ "command": "accepted", "target": target }));
        let release = version(&shown["result"]["accepted"]["version"]);
        if release < accepted.last {
            shared.ledger.fault(format!("version 1.{} was accepted, and the next process shows {shown}", accepted.last));
        }
        accepted.last = release;
        if release > 1 {
            accepted.compared += 1;
            self.publish(1)?;
            let older = ask!(json!({ "command": "deploy", "target": target }));
            match older["error"].as_str() {
                Some(error) if error.contains("older") => accepted.refused += 1,
                _ => shared.ledger.fault(format!("version 1.1 after 1.{release} was not refused: {older}")),
            }
        }
        let mut command = "deploy";
        while !shared.stop.is_cancelled() {
            *next = (*next).max(accepted.last) + 1;
            self.publish(*next)?;
            let answer = ask!(json!({ "command": command, "target": target }));
            let taken = match command {
                "deploy" => version(&answer["result"]["version"]),
                _ => version(&answer["result"]["to"]),
            };
            if taken != *next {
                shared.ledger.fault(format!("version 1.{next} was not deployed: {answer}"));
            }
            accepted.last = accepted.last.max(taken);
            command = "update";
            sleep(PERIOD).await;
        }
        Ok(None)
    }
}

/// Returns the second part of a version, or 0 without a version.
fn version(version: &Value) -> u64 {
    version.as_str().and_then(|version| version.strip_prefix("1.")?.parse().ok()).unwrap_or_default()
}
