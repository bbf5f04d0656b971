//! The suite for a message node of the reTHINK project, in the Vert.x flavour, at any `ws://` URL.
//!
//! Its cases are those of the project's own tests for message nodes: sessions, addresses of
//! hyperties and objects, subscriptions, and the domain's registry. Each case has sessions of its
//! own, with unique runtime URLs.

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

/// A running message node.
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
    /// A message node at a `ws://` URL, for the addresses of `domain`. `None` stands for the URL's
    /// host and port.
    #[must_use]
    pub fn new(url: impl Into<String>, domain: Option<String>) -> Self {
        let url = url.into();
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let domain = domain.unwrap_or_else(|| authority.to_owned());
        Self { url, domain }
    }

    /// Returns the address of a function of the node, such as `sm`.
    fn function(&self, name: &str) -> String {
        format!("domain://msg-node.{}/{name}", self.domain)
    }
}

impl NodeSuite {
    /// A suite of all cases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Runs the cases against a message node.
    pub async fn run(&self, node: &Node) -> Report {
        self.run_with(node, |_| {}).await
    }

    /// Runs the cases, and calls `on_outcome` with each outcome, in the order of the cases.
    pub async fn run_with(&self, node: &Node, on_outcome: impl FnMut(&Outcome)) -> Report {
        let schedule = Schedule { only: &self.only, concurrency: CONCURRENCY, time_limit: TIME_LIMIT };
        let outcomes = schedule.run(scripts(), node, on_outcome).await;
        Report::new("node", &node.url, outcomes)
    }
}

fn scripts() -> impl Iterator<Item = &'static Script<Node>> {
    [connect::CASES, allocation::CASES, subscription::CASES, registration::CASES].into_iter().flatten()
}
