//! The suite for a component: whether it is a protocol stub, and a good one.
//!
//! The host is scripted: a sandbox as in the runtime, a bus with one other party on it, and a link to the stub's server on which bytes are passed on,
//! held up, or replaced. What the server says is never understood here, so that the suite serves stubs of every protocol; a message node is the one
//! server that is looked into.
//!
//! ```no_run
//! # async fn example(component: Vec<u8>, configuration: serde_json::Map<String, serde_json::Value>) -> Result<(), Box<dyn std::error::Error>> {
//! use protostub_conformance::stub::{StubSubject, StubSuite};
//!
//! let report = StubSuite::new(None, None)?.run(&StubSubject::new("mine.wasm", component, configuration)).await;
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

/// What a suite is tried on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StubSubject {
    /// What it is called in the report: its file, say.
    pub name: String,
    /// The component.
    pub component: Vec<u8>,
    /// Its configuration. In the texts of it, `${authority}`, `${domain}`, `${http-url}`, `${ws-url}` and `${nomatrix-url}` become those of the
    /// link to its server.
    pub configuration: Map<String, Value>,
    /// Whom it speaks to.
    pub server: Server,
    /// What somebody behind it answers.
    pub request: Option<Request>,
}

/// Whom a stub speaks to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Server {
    /// Nobody: it answers by itself.
    #[default]
    None,
    /// A reTHINK message node, which the suite has itself.
    MessageNode,
    /// A server that is running already, as `host:port`. The configuration has to lead the stub to `${authority}` without TLS: what is between the
    /// two passes the bytes on.
    At(String),
}

/// A request that is answered with a code below 400.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Request {
    /// What it asks for. None: `read`.
    pub kind: Option<MessageType>,
    /// To whom, with `${domain}` for the stub's domain. None: `hyperty://${domain}/conformance`, or somebody at the message node.
    pub to: Option<String>,
    /// What it carries. None: an object with a number.
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
    /// A component with its configuration. Its server is a message node if the configuration has a placeholder for the URL of one, and nobody
    /// otherwise.
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
    /// If `to` is no address, or `type` no text.
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

/// Why a text is no [`Request`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A member is something else than it should be.
    #[error("`{0}` is not a text that a message may have there")]
    Member(&'static str),
    /// It goes to nobody.
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

    /// Restricts it to the cases whose ids begin so.
    #[must_use]
    pub fn only(mut self, beginnings: impl IntoIterator<Item = String>) -> Self {
        self.only.extend(beginnings);
        self
    }

    /// Sets how long a stub may take.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// All cases, in their order.
    pub fn cases() -> impl Iterator<Item = Case> {
        scripts().map(|script| script.case)
    }

    /// Tries the cases on a subject.
    pub async fn run(&self, subject: &StubSubject) -> Report {
        self.run_with(subject, |_| {}).await
    }

    /// The same, and calls `on_outcome` with each outcome, in the order of the cases.
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
    /// The component; what it is not is the business of the cases about the contract.
    fn compiled(&self) -> CaseResult<&CompiledStub> {
        self.compiled.as_ref().map_err(|_| Verdict::not_applicable("the component is no protocol stub: see stub/contract"))
    }

    /// What nearly every case builds on. The first case that asks finds it out.
    async fn prerequisites(&self) -> &Prerequisites {
        self.prerequisites.get_or_init(|| Prerequisites::of(self)).await
    }
}
