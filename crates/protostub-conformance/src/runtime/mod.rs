//! The suite for a runtime: the numbered cases of the original runtime's own tests, and the probes in which it was found wanting.
//!
//! It speaks to the runtime as a host program does, through [`Subject`]; [`ThisRuntime`] is the one of this project. The stubs that it deploys are all
//! the same component, an *actor*, which does what a message's body or its configuration tells it: `tests/programs/actor`. Cases about what this project
//! does not have, or has elsewhere, are listed with the reason.

mod elsewhere;
mod probes;
mod registry;
mod stage;
mod subject;
mod url;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};

use crate::{Case, Outcome, Report, case::Script};

pub use stage::Catalogue;
pub use subject::{Loaded, Refusal, Runtimes, Subject, ThisRuntime};

/// How many cases are tried at a time: each has a runtime of its own.
const AT_A_TIME: usize = 3;
/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The suite.
#[derive(Clone)]
pub struct Suite {
    actor: Arc<[u8]>,
    only: Vec<String>,
}

/// Runtimes, and what they deploy.
pub(crate) struct Bench {
    runtimes: Arc<dyn Runtimes>,
    actor: Arc<[u8]>,
}

impl Suite {
    /// With this component as the stub of every domain.
    #[must_use]
    pub fn new(actor: &[u8]) -> Self {
        Self { actor: actor.into(), only: Vec::new() }
    }

    /// Restricts it to the cases whose ids begin so.
    #[must_use]
    pub fn only(mut self, beginnings: impl IntoIterator<Item = String>) -> Self {
        self.only.extend(beginnings);
        self
    }

    /// All cases, in their order.
    pub fn cases() -> impl Iterator<Item = Case> {
        scripts().map(|script| script.case)
    }

    /// Tries the cases on runtimes.
    pub async fn run(&self, name: &str, runtimes: Arc<dyn Runtimes>) -> Report {
        self.run_with(name, runtimes, |_| {}).await
    }

    /// The same, and calls `seen` with each outcome, in the order of the cases.
    pub async fn run_with(&self, name: &str, runtimes: Arc<dyn Runtimes>, seen: impl FnMut(&Outcome)) -> Report {
        let bench = Bench { runtimes, actor: Arc::clone(&self.actor) };
        let wanted = |script: &&Script<Bench>| {
            self.only.is_empty() || self.only.iter().any(|beginning| script.case.id.starts_with(beginning.as_str()))
        };
        let outcomes: Vec<Outcome> = stream::iter(scripts().filter(wanted))
            .map(|script| script.try_on(&bench, PATIENCE))
            .buffered(AT_A_TIME)
            .inspect(seen)
            .collect()
            .await;
        Report::new("runtime", name, outcomes)
    }
}

fn scripts() -> impl Iterator<Item = &'static Script<Bench>> {
    [probes::CASES, registry::CASES, url::CASES, elsewhere::CASES].into_iter().flatten()
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("only", &self.only).finish_non_exhaustive()
    }
}
