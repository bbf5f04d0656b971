//! On which processor things run.

use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};

use crate::{peers::Peer, sections::tell};

/// Holds this process and a peer, whose sides take turns, on one processor until it is dropped: those of a machine that is shared are not equally fast
/// at any time. Not for a peer whose side is two threads.
pub(crate) struct OneProcessor {
    processes: [u32; 2],
    /// What they may run on otherwise, as `taskset` writes it.
    before: String,
}

impl OneProcessor {
    /// None where that cannot be had, which is told: ratios only spread more then.
    pub(crate) fn with(peer: &Peer) -> Option<Self> {
        Self::hold([process::id(), peer.id()]).inspect_err(|error| tell(&format!("on any processor: {error:#}"))).ok()
    }

    fn hold(processes: [u32; 2]) -> Result<Self> {
        let answer = taskset(&["--cpu-list", "--pid", &process::id().to_string()])?;
        let (_, before) = answer.trim().rsplit_once(": ").with_context(|| format!("`taskset` answers {answer:?}"))?;
        let first = before.split([',', '-']).next().unwrap_or(before).to_owned();
        let held = Self { processes, before: before.to_owned() };
        held.allow(&first)?;
        Ok(held)
    }

    fn allow(&self, processors: &str) -> Result<()> {
        for process in self.processes {
            taskset(&["--all-tasks", "--cpu-list", "--pid", processors, &process.to_string()])?;
        }
        Ok(())
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        if let Err(error) = self.allow(&self.before) {
            tell(&format!("the rest on one processor: {error:#}"));
        }
    }
}

/// What it prints: it is of `util-linux`.
fn taskset(arguments: &[&str]) -> Result<String> {
    let output = Command::new("taskset").args(arguments).output().context("running `taskset`")?;
    if !output.status.success() {
        bail!("`taskset {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
