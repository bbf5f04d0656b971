//! Binds processes to a processor.

use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};

use crate::{peers::Peer, sections::tell};

/// Binds this process, and a peer that takes turns with it, to one processor. The processors of a
/// shared machine vary in speed. `Drop` releases this process; the peer stays bound. Not suitable
/// for a peer that needs two threads.
pub(crate) struct OneProcessor {
    /// The previous processors of this process, in the notation of `taskset`.
    before: String,
}

impl OneProcessor {
    /// Returns `None`, and prints the reason, if the processes cannot be bound. Ratios only spread
    /// more then.
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

/// Allows all threads of a process to run on these processors.
fn allow(process: u32, processors: &str) -> Result<()> {
    taskset(&["--all-tasks", "--cpu-list", "--pid", processors, &process.to_string()]).map(drop)
}

/// Returns the output of `taskset`, a program of `util-linux`.
fn taskset(arguments: &[&str]) -> Result<String> {
    let output = Command::new("taskset").args(arguments).output().context("running `taskset`")?;
    if !output.status.success() {
        bail!("`taskset {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
