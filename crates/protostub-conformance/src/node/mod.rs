//! The suite for a message node of the reTHINK project, in the Vert.x flavour: any that is reached at a `ws://` URL.
//!
//! Its cases are those of the project's own tests for message nodes: sessions, addresses of hyperties and objects, subscriptions, and the domain's
//! registry. Each has sessions of its own, with runtime URLs that nobody else has.

mod allocation;
mod client;
mod connect;
mod registration;
mod subscription;

use std::time::Duration;

use crate::{
    Case, Outcome, Report,
    case::{Schedule, Script},
};

/// Number of cases that run at the same time.
const CONCURRENCY: usize = 4;
/// Time limit of one case.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A message node that is running.
#[derive(Debug, Clone)]
pub struct Node {
    url: String,
    domain: String,
}

/// The suite.
#[derive(Debug, Clone, Default)]
pub struct NodeSuite {
    only: Vec<String>,
}

impl Node {
    /// At a `ws://` URL, for the addresses of this domain; none: of the URL's host and port.
    #[must_use]
    pub fn new(url: impl Into<String>, domain: Option<String>) -> Self {
        let url = url.into();
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let domain = domain.unwrap_or_else(|| authority.to_owned());
        Self { url, domain }
    }

    /// Its address for one of its functions: `sm`, say.
    fn function(&self, name: &str) -> String {
        format!("domain://msg-node.{}/{name}", self.domain)
    }
}

impl NodeSuite {
    /// All cases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Tries the cases on a message node.
    pub async fn run(&self, node: &Node) -> Report {
        self.run_with(node, |_| {}).await
    }

    /// The same, and calls `on_outcome` with each outcome, in the order of the cases.
    pub async fn run_with(&self, node: &Node, on_outcome: impl FnMut(&Outcome)) -> Report {
        let schedule = Schedule { only: &self.only, concurrency: CONCURRENCY, time_limit: TIME_LIMIT };
        let outcomes = schedule.run(scripts(), node, on_outcome).await;
        Report::new("node", &node.url, outcomes)
    }
}

fn scripts() -> impl Iterator<Item = &'static Script<Node>> {
    [connect::CASES, allocation::CASES, subscription::CASES, registration::CASES].into_iter().flatten()
}
