//! The suite for a runtime: the numbered cases of the original runtime's own tests, and the probes
//! that showed its defects.
//!
//! The suite drives the runtime as a host program does, through [`RuntimeSubject`]; [`ThisRuntime`]
//! is the one of this project. All deployed stubs are the same component, an *actor*, which follows
//! orders in a message's body or its configuration: `tests/programs/actor`. Cases about features
//! that this project lacks, or has elsewhere, are listed with the reason.

mod fixture;
mod not_applicable;
mod probes;
mod registry;
mod subject;
mod url;

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    Case, Outcome, Report,
    case::{Schedule, Script},
};

pub use fixture::Catalogue;
pub use subject::{LoadGoal, LoadedStub, Refusal, RuntimeSubject, Runtimes, ThisRuntime};

/// Number of cases that run at the same time: each has a runtime of its own.
const CONCURRENCY: usize = 3;
/// Time limit of one case.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The suite.
#[derive(Clone)]
pub struct RuntimeSuite {
    actor: Arc<[u8]>,
    only: Vec<String>,
}

/// Runtimes, and the component that they deploy.
pub(crate) struct RuntimeSuiteContext {
    runtimes: Arc<dyn Runtimes>,
    actor: Arc<[u8]>,
}

impl RuntimeSuite {
    /// A suite of all cases, with this component as the stub of every domain.
    #[must_use]
    pub fn new(actor: &[u8]) -> Self {
        Self { actor: actor.into(), only: Vec::new() }
    }

    /// Restricts the suite to the cases whose ids begin with one of these texts.
    #[must_use]
    pub fn only(mut self, beginnings: impl IntoIterator<Item = String>) -> Self {
        self.only.extend(beginnings);
        self
    }

    /// Returns all cases, in their order.
    pub fn cases() -> impl Iterator<Item = Case> {
        scripts().map(|script| script.case)
    }

    /// Runs the cases against runtimes.
    pub async fn run(&self, name: &str, runtimes: Arc<dyn Runtimes>) -> Report {
        self.run_with(name, runtimes, |_| {}).await
    }

    /// Runs the cases, and calls `on_outcome` with each outcome, in the order of the cases.
    pub async fn run_with(&self, name: &str, runtimes: Arc<dyn Runtimes>, on_outcome: impl FnMut(&Outcome)) -> Report {
        let context = RuntimeSuiteContext { runtimes, actor: Arc::clone(&self.actor) };
        let schedule = Schedule { only: &self.only, concurrency: CONCURRENCY, time_limit: TIME_LIMIT };
        let outcomes = schedule.run(scripts(), &context, on_outcome).await;
        Report::new("runtime", name, outcomes)
    }
}

fn scripts() -> impl Iterator<Item = &'static Script<RuntimeSuiteContext>> {
    [probes::CASES, registry::CASES, url::CASES, not_applicable::CASES].into_iter().flatten()
}

impl fmt::Debug for RuntimeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeSuite").field("only", &self.only).finish_non_exhaustive()
    }
}
