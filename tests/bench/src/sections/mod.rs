//! What is measured, each in turn with what it is measured against.

mod bus;
mod crowd;
mod deploy;
mod gateway;
mod instances;
mod trips;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;
use tokio::runtime::Handle;

use crate::{peers::Peer, plots::Curves, report::Report, samples::Effort};

/// What all sections need.
pub(crate) struct Bench {
    pub(crate) effort: Effort,
    /// Which figures are wanted; none: all.
    pub(crate) only: BTreeSet<String>,
    /// Where Extism's side is: the program and its plugin.
    pub(crate) extism: Option<(PathBuf, PathBuf)>,
    /// Threads like those of a runtime.
    pub(crate) threads: Handle,
    pub(crate) report: Report,
    pub(crate) curves: Curves,
}

impl Bench {
    /// Measures everything that is wanted. What cannot be measured has its figure all the same, with the reason.
    pub(crate) async fn run(&mut self) -> Result<()> {
        trips::run(self).await?;
        instances::run(self).await?;
        bus::run(self).await?;
        gateway::run(self).await?;
        deploy::run(self).await?;
        crowd::run(self).await
    }

    fn extism(&self) -> Result<Peer> {
        Peer::extism(self.extism.as_ref())
    }

    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.contains(id)
    }

    pub(crate) fn wants_any(&self, ids: &[&str]) -> bool {
        ids.iter().any(|id| self.wants(id))
    }
}

/// Says on the terminal what goes on.
#[expect(clippy::print_stderr, reason = "a program for people at a terminal")]
pub(crate) fn tell(what: &str) {
    eprintln!("measuring {what}");
}
