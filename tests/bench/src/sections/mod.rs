//! The sections of the measurement. In each, the sides of a comparison take turns.

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

/// The state that all sections share.
pub(crate) struct Bench {
    pub(crate) effort: Effort,
    /// The selected figures. Empty for all.
    pub(crate) only: BTreeSet<String>,
    /// Paths of Extism's side: the program and its plugin.
    pub(crate) extism: Option<(PathBuf, PathBuf)>,
    /// Threads like those of a runtime.
    pub(crate) threads: Handle,
    pub(crate) report: Report,
    pub(crate) curves: Curves,
}

impl Bench {
    /// Measures all selected figures. A figure that cannot be measured is reported with the reason.
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

/// Prints progress on the terminal.
#[expect(clippy::print_stderr, reason = "a program for people at a terminal")]
pub(crate) fn tell(what: &str) {
    eprintln!("measuring {what}");
}
