//! The suite for a component: checks that it is a protocol stub, and a good one.
//!
//! The host is scripted: a sandbox as in the runtime, a bus with one other party, and a link to the
//! stub's server. The link passes bytes on, delays them, or replaces them. The suite does not parse
//! the server's bytes, so it serves stubs of every protocol. The one exception is a message node,
//! whose messages the suite reads.
//!
//! ```no_run
//! # async fn example(
//! #     component: Vec<u8>,
//! #     configuration: serde_json::Map<String, serde_json::Value>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use protostub_conformance::stub::{StubSubject, StubSuite};
//!
//! let subject = StubSubject::new("mine.wasm", component, configuration);
//! let report = StubSuite::new(None, None)?.run(&subject).await;
//! println!("{}", report.to_text());
//! # Ok(())
//! # }
//! ```

mod contract;
mod credential;
mod disconnect;
mod fixture;
mod instance;
mod link;
mod messages;
mod peer;
mod prerequisites;
mod pressure;
mod resources;
mod server;
mod session;
mod start;
mod status;
mod timeouts;

use std::{path::Path, time::Duration};

use protostub_sandbox::{CompileError, CompileWorker, CompiledStub, Engine, EngineConfig, EngineError};
use protostub_types::{Address, AddressError, MessageType, Sha256Digest};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::{
    Case, Outcome, Report, Verdict,
    case::{CaseResult, Schedule, Script},
};
use prerequisites::Prerequisites;

pub use timeouts::Timeouts;

/// The subject of a suite.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StubSubject {
    /// The name in the report, such as the file name.
    pub name: String,
    /// The component.
    pub component: Vec<u8>,
    /// The configuration. In its texts, the suite replaces `${authority}`, `${domain}`,
    /// `${http-url}`, `${ws-url}` and `${nomatrix-url}` by those of the link to the server.
    pub configuration: Map<String, Value>,
    /// The server that the stub connects to.
    pub server: Server,
    /// A request that a party behind the stub answers.
    pub request: Option<Request>,
}

/// The server that a stub connects to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Server {
    /// No server. The stub answers by itself.
    #[default]
    None,
    /// A reTHINK message node, which the suite runs.
    MessageNode,
    /// A running server, as `host:port`. The configuration must lead the stub to `${authority}`
    /// without TLS. The suite's link passes the bytes on between the two.
    At(String),
}

/// A request that gets an answer with a code below 400.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Request {
    /// The type. `None` stands for `read`.
    pub kind: Option<MessageType>,
    /// The receiver, with `${domain}` for the stub's domain. `None` stands for
    /// `hyperty://${domain}/conformance`, or for the peer at the message node.
    pub to: Option<String>,
    /// The body. `None` stands for an object with a number.
    pub body: Option<Value>,
}

/// The suite, with the engine that the stubs run on.
#[derive(Debug)]
pub struct StubSuite {
    engine: Engine,
    only: Vec<String>,
    timeouts: Timeouts,
}

/// Number of cases that run at the same time.
const CONCURRENCY: usize = 6;
/// Time limit of one case.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A subject with its component compiled.
pub(crate) struct StubSuiteContext {
    compiled: Result<CompiledStub, CompileError>,
    configuration: Map<String, Value>,
    server: Server,
    request: Option<Request>,
    timeouts: Timeouts,
    prerequisites: OnceCell<Prerequisites>,
}

impl StubSubject {
    /// A component with its configuration. Its server is a message node if the configuration has a
    /// placeholder for a message node's URL. Otherwise it has no server.
    #[must_use]
    pub fn new(name: impl Into<String>, component: Vec<u8>, configuration: Map<String, Value>) -> Self {
        let text = Value::Object(configuration.clone()).to_string();
        let is_node = ["${ws-url}", "${nomatrix-url}"].iter().any(|url| text.contains(url));
        let server = if is_node { Server::MessageNode } else { Server::None };
        Self { name: name.into(), component, configuration, server, request: None }
    }
}

impl Request {
    /// Reads a JSON object with `type`, `to` and `body`, each of which may be missing.
    ///
    /// # Errors
    /// If `to` is not an address, or `type` is not a text.
    pub fn from_json(json: &Value) -> Result<Self, RequestError> {
        let text = |name: &'static str| match &json[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            _ => Err(RequestError::Member(name)),
        };
        let to = text("to")?;
        if let Some(to) = &to {
            Address::parse(&to.replace("${domain}", "sp1.example"))?;
        }
        let kind = text("type")?.map(|kind| kind.parse().map_err(|_| RequestError::Member("type"))).transpose()?;
        Ok(Self { kind, to, body: json.get("body").cloned() })
    }
}

/// Error of reading a [`Request`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A member has a wrong type or value.
    #[error("`{0}` is not a text that a message may have there")]
    Member(&'static str),
    /// The receiver is not an address.
    #[error("`to` is no address")]
    To(#[from] AddressError),
}

impl StubSuite {
    /// Prepares the suite. Compiled components are kept in `cache_dir`, if there is one.
    ///
    /// With a `compile_worker`, a component that takes the compiler minutes or gigabytes fails.
    /// Without one, this process compiles it without limits.
    ///
    /// # Errors
    /// If the engine cannot run here, or `cache_dir` or the worker cannot be used.
    pub fn new(cache_dir: Option<&Path>, compile_worker: Option<CompileWorker>) -> Result<Self, EngineError> {
        let mut config = EngineConfig::default();
        config.compile_worker = compile_worker;
        config.cache_dir = cache_dir.map(Path::to_owned);
        config.max_sandboxes = 16 * CONCURRENCY;
        Ok(Self { engine: Engine::new(&config)?, only: Vec::new(), timeouts: Timeouts::default() })
    }

    /// Restricts the suite to the cases whose ids begin with one of these texts.
    #[must_use]
    pub fn only(mut self, beginnings: impl IntoIterator<Item = String>) -> Self {
        self.only.extend(beginnings);
        self
    }

    /// Sets the time limits for the stub.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Returns all cases, in their order.
    pub fn cases() -> impl Iterator<Item = Case> {
        scripts().map(|script| script.case)
    }

    /// Runs the cases against a subject.
    pub async fn run(&self, subject: &StubSubject) -> Report {
        self.run_with(subject, |_| {}).await
    }

    /// Runs the cases, and calls `on_outcome` with each outcome, in the order of the cases.
    pub async fn run_with(&self, subject: &StubSubject, on_outcome: impl FnMut(&Outcome)) -> Report {
        let digest = Sha256Digest::of(&subject.component);
        let context = StubSuiteContext {
            compiled: self.engine.compile(subject.component.clone(), digest).await,
            configuration: subject.configuration.clone(),
            server: subject.server.clone(),
            request: subject.request.clone(),
            timeouts: self.timeouts,
            prerequisites: OnceCell::new(),
        };
        let schedule = Schedule { only: &self.only, concurrency: CONCURRENCY, time_limit: TIME_LIMIT };
        let outcomes = schedule.run(scripts(), &context, on_outcome).await;
        Report::new("stub", &subject.name, outcomes)
    }
}

fn scripts() -> impl Iterator<Item = &'static Script<StubSuiteContext>> {
    [
        contract::CASES,
        start::CASES,
        status::CASES,
        credential::CASES,
        messages::CASES,
        pressure::CASES,
        disconnect::CASES,
        session::CASES,
        server::CASES,
        resources::CASES,
    ]
    .into_iter()
    .flatten()
}

impl StubSuiteContext {
    /// Returns the compiled component. If it does not compile, the case does not apply, because
    /// `stub/contract` checks it.
    fn compiled(&self) -> CaseResult<&CompiledStub> {
        self.compiled.as_ref().map_err(|_| Verdict::not_applicable("the component is not a protocol stub: see stub/contract"))
    }

    /// Returns the prerequisites of nearly every case. The first caller determines them.
    async fn prerequisites(&self) -> &Prerequisites {
        self.prerequisites.get_or_init(|| Prerequisites::of(self)).await
    }
}
