//! On which processor things run.

use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};

use crate::{peers::Peer, sections::tell};

/// Holds this process on one processor until it is dropped, and a peer, whose side takes turns with it, as long as that runs: those of a machine that is
/// shared are not equally fast at any time. Not for a peer whose side is two threads.
pub(crate) struct OneProcessor {
    /// What this process may run on otherwise, as `taskset` writes it.
    before: String,
}

impl OneProcessor {
    /// None where that cannot be had, which is told: ratios only spread more then.
    pub(crate) fn with(peer: &Peer) -> Option<Self> {
        Self::hold(peer).inspect_err(|error| tell(&format!("on any processor: {error:#}"))).ok()
    }

    fn hold(peer: &Peer) -> Result<Self> {
        let answer = taskset(&["--cpu-list", "--pid", &process::id().to_string()])?;
        let (_, before) = answer.trim().rsplit_once(": ").with_context(|| format!("`taskset` answers {answer:?}"))?;
        let first = before.split([',', '-']).next().unwrap_or(before);
        let held = Self { before: before.to_owned() };
        allow(process::id(), first)?;
        allow(peer.id(), first)?;
        Ok(held)
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        if let Err(error) = allow(process::id(), &self.before) {
            tell(&format!("the rest on one processor: {error:#}"));
        }
    }
}

/// Lets all threads of a process run on these.
fn allow(process: u32, processors: &str) -> Result<()> {
    taskset(&["--all-tasks", "--cpu-list", "--pid", processors, &process.to_string()]).map(drop)
}

/// What it prints: it is of `util-linux`.
fn taskset(arguments: &[&str]) -> Result<String> {
    let output = Command::new("taskset").args(arguments).output().context("running `taskset`")?;
    if !output.status.success() {
        bail!("`taskset {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
