//! The scripted host: a sandbox with the stub, a bus with one app, and a link to the server.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use protostub_bus::{Bus, BusConfig, Inbox, InboxLimits, Origin, Route};
use protostub_domain::DomainServer;
use protostub_egress::{Egress, EgressConfig, Grants, Protection};
use protostub_sandbox::{
    CompiledStub, Credential, CredentialError, CredentialSource, Limits, Presence, Sandbox, SandboxConfig, SandboxServices,
    Session, StartErrorKind,
};
use protostub_types::{Address, Allowances, Domain, Message, MessageId, MessageType, SafeText, StubKey, StubStatus};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::layer::SubscriberExt as _;
use uuid::Uuid;

use super::{
    Server, StubSuiteContext, Timeouts,
    instance::Instance,
    link::Link,
    peer::Peer,
    prerequisites::{self, Prerequisites},
};
use crate::{
    Verdict,
    case::{CaseResult, expect},
};

/// Address of the app: the sender of requests, and the receiver of the server's messages.
pub(crate) const APP: &str = "hyperty://home.example/conformance";
/// Limits of an inbox.
const INBOX: InboxLimits = InboxLimits::new(2000, 64 << 20);
/// Limits of the message node's queue for a client. They are high, so the node loses no messages.
const QUEUED: usize = 4096;
const QUEUED_BYTES: usize = 64 << 20;
/// The time of a limit of a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Timeout of a request on this bus.
const REQUEST: Duration = Duration::from_secs(15);

/// The surroundings of an instance. Several instances use it, one after the other.
pub(crate) struct StubFixture {
    pub(crate) bus: Bus,
    pub(crate) domain: Domain,
    pub(crate) url: Address,
    pub(crate) session: Session,
    pub(crate) link: Option<Link>,
    /// The message node with a peer that answers, if the server is a message node.
    pub(crate) node: Option<(DomainServer, Peer)>,
    pub(crate) configuration: Map<String, Value>,
    /// The answer to a request for a credential.
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) app: Origin,
    pub(crate) answers: tokio::sync::Mutex<Inbox>,
    pub(crate) timeouts: Timeouts,
    prerequisites: Option<Prerequisites>,
    request: Option<super::Request>,
    compiled: CompiledStub,
    egress: Egress,
    _route: Route,
    _deadlines: AbortOnDropHandle<()>,
}

impl StubFixture {
    pub(crate) async fn new(context: &StubSuiteContext) -> CaseResult<Self> {
        let prerequisites = context.prerequisites().await.clone();
        Ok(Self { prerequisites: Some(prerequisites), ..Self::prepare(context).await? })
    }

    /// Returns a fixture whose server is reachable.
    pub(crate) async fn ready(context: &StubSuiteContext) -> CaseResult<Self> {
        Self::new(context).await?.open().await
    }

    /// Returns a fixture with a reachable server, without the prerequisites.
    pub(crate) async fn bare(context: &StubSuiteContext) -> CaseResult<Self> {
        Self::prepare(context).await?.open().await
    }

    async fn open(self) -> CaseResult<Self> {
        if let Some(link) = &self.link {
            link.open().await.map_err(setup_failed)?;
        }
        Ok(self)
    }

    async fn prepare(context: &StubSuiteContext) -> CaseResult<Self> {
        let compiled = context.compiled()?.clone();
        let (link, node, authority) = match &context.server {
            Server::None => (None, None, None),
            server => {
                let link = Link::new().map_err(setup_failed)?;
                let authority = link.address().to_string();
                let node = if *server == Server::MessageNode {
                    let domain = Domain::parse(&authority).map_err(setup_failed)?;
                    let mut limits = protostub_domain::Limits::default();
                    limits.max_queued_messages = QUEUED;
                    limits.max_queued_bytes = QUEUED_BYTES;
                    let server = DomainServer::builder().domain(domain).limits(limits).start().await.map_err(setup_failed)?;
                    let peer = Peer::new(&server).await.map_err(setup_failed)?;
                    link.set_server(server.address());
                    Some((server, peer))
                } else {
                    None
                };
                if let Server::At(server) = server {
                    link.set_server(resolve(server).await?);
                }
                (Some(link), node, Some(authority))
            }
        };
        let domain = Domain::parse(authority.as_deref().unwrap_or("sp1.example")).map_err(setup_failed)?;
        let runtime = format!("hyperty-runtime://home.example/{}", Uuid::new_v4());
        let mut configuration = context.configuration.clone();
        if let Some(authority) = &authority {
            configuration.values_mut().for_each(|value| fill_in(value, authority));
        }
        configuration.insert("runtimeURL".to_owned(), runtime.clone().into());
        let home = Domain::parse("home.example").map_err(setup_failed)?;
        let mut config = BusConfig::new(home, address(&runtime)?);
        config.request_timeout = REQUEST;
        let bus = Bus::new(config);
        let app = address(APP)?;
        let answers = bus.inbox(INBOX);
        let route = bus.attach(&app, &answers.mailbox()).map_err(setup_failed)?;
        let deadlines = bus.clone();
        Ok(Self {
            url: address(&format!("hyperty-runtime://{domain}/protostub/{}", Uuid::new_v4()))?,
            session: Session::new(),
            configuration,
            credentials: Arc::default(),
            limits: Limits::default(),
            log: Log::new(),
            app: Origin::Hyperty(app),
            answers: tokio::sync::Mutex::new(answers),
            timeouts: context.timeouts,
            prerequisites: None,
            request: context.request.clone(),
            egress: Egress::new(EgressConfig::default()).map_err(setup_failed)?,
            _route: route,
            _deadlines: AbortOnDropHandle::new(tokio::spawn(async move { deadlines.run_deadlines().await })),
            bus,
            domain,
            link,
            node,
            compiled,
        })
    }

    /// Returns the link to the server. Without a server, the case does not apply.
    pub(crate) fn link(&self) -> CaseResult<&Link> {
        self.link.as_ref().ok_or_else(|| Verdict::not_applicable("the stub has no server"))
    }

    /// Returns the message node. With another server, the case does not apply, because the kit
    /// cannot see what reaches that server.
    pub(crate) fn node(&self) -> CaseResult<&(DomainServer, Peer)> {
        self.node.as_ref().ok_or_else(|| match self.link {
            None => Verdict::not_applicable("the stub has no server"),
            Some(_) => Verdict::not_applicable("the kit sees only in a message node what reaches the server"),
        })
    }

    /// Instantiates the stub and calls `start`.
    pub(crate) async fn start(&self) -> CaseResult<Result<Instance, StartErrorKind>> {
        let inbox = self.bus.inbox(INBOX);
        let mailbox = inbox.mailbox();
        let target = self.request(0).to;
        let mut keys = vec![StubKey::Domain(self.domain.clone())];
        keys.extend(StubKey::of(&target, &self.domain).filter(|key| *key != keys[0]));
        let mut routes = vec![self.bus.attach(&self.url, &mailbox).map_err(setup_failed)?];
        for key in keys {
            routes.push(self.bus.attach_key(&key, &mailbox).map_err(setup_failed)?);
        }
        let (told, statuses) = watch::channel(Vec::new());
        let services = SandboxServices {
            bus: self.bus.clone(),
            egress: self.egress.clone(),
            quota: self.egress.quota(self.limits.quota()),
            log_allowance: Allowances::new(u64::MAX, DAY).of(self.domain.as_str(), self.limits.log_bytes_per_day),
            presence: Arc::new(Statuses(told)),
            credentials: Arc::clone(&self.credentials) as Arc<dyn CredentialSource>,
            session: self.session.clone(),
        };
        let mut grants = Grants::same_domain(&self.domain, &[]).allow_loopback(true);
        if let Some(link) = &self.link {
            grants = grants.allow_host("127.0.0.1", &[link.address().port()][..], Protection::Plain).map_err(setup_failed)?;
        }
        let config = SandboxConfig {
            url: self.url.clone(),
            domain: self.domain.clone(),
            configuration: Value::Object(self.configuration.clone()).to_string().into(),
            limits: self.limits.clone(),
            grants,
            relays: Vec::new(),
            credential_origins: Vec::new(),
        };
        let sandbox = Sandbox::new(&self.compiled, services, config).map_err(setup_failed)?;
        let log = tracing_subscriber::registry().with(self.log.clone());
        let dispatch = tracing::Dispatch::new(log);
        let started = sandbox.deploy_component(inbox).with_subscriber(dispatch.clone()).await;
        Ok(started.map_err(|error| error.kind).map(|(handle, task)| {
            let task = tokio::spawn(task.run().with_subscriber(dispatch));
            Instance { handle, statuses, timeouts: self.timeouts, task, ended: None, _routes: routes }
        }))
    }

    /// Starts an instance without a saved session. If that fails, the case does not apply, because
    /// `stub/start/accepts` checks it.
    pub(crate) async fn started(&self) -> CaseResult<Instance> {
        self.require(Prerequisites::require_start)?;
        let _ = self.session.take();
        self.start().await?.map_err(|error| prerequisites::no_start(&error.to_string()))
    }

    /// Starts and connects an instance. If it does not become live, the case does not apply,
    /// because `stub/status/live` checks it.
    pub(crate) async fn live(&self) -> CaseResult<Instance> {
        self.require(Prerequisites::require_live)?;
        let mut instance = self.started().await?;
        let connected = async {
            instance.connect(self.credentials.get()).await?;
            instance.status(StubStatus::Live, self.timeouts.live).await
        };
        match connected.await {
            Ok(_) => Ok(instance),
            Err(_) => Err(prerequisites::not_live(&instance.history())),
        }
    }

    fn require(&self, what: impl FnOnce(&Prerequisites) -> CaseResult<()>) -> CaseResult<()> {
        self.prerequisites.as_ref().map_or(Ok(()), what)
    }

    /// Returns a request with this number in its body, to an address that answers.
    pub(crate) fn request(&self, number: u64) -> Message {
        let request = self.request.clone().unwrap_or_default();
        let default = match &self.node {
            Some((_, peer)) => peer.address.clone(),
            None => format!("hyperty://{}/conformance", self.domain),
        };
        let to = request.to.map_or(default, |to| to.replace("${domain}", self.domain.as_str()));
        let kind = request.kind.unwrap_or(MessageType::Read);
        // The address was checked when the subject was read.
        let mut message = Message::new(kind, Address::parse(&to).unwrap_or_else(|_| Address::unset()));
        message.id = MessageId::Number(number + 1);
        message.expect_response();
        message.with_body(request.body.unwrap_or_else(|| json!({ "n": number })))
    }

    /// Sends a request, and waits for the answer.
    pub(crate) async fn ask(&self, message: Message) -> Result<Message, String> {
        self.bus
            .request(&self.app, message, Some(self.timeouts.answer))
            .await
            .map_err(|error| format!("{} {}", error.code, error.reason))
    }

    /// Sends a request. Without an answer, the case does not apply, because
    /// `stub/messages/answered` checks it.
    pub(crate) async fn require_answer(&self, instance: &mut Instance) -> CaseResult<()> {
        self.require(Prerequisites::require_answer)?;
        let within = self.timeouts.answer + self.timeouts.grace;
        let seen = match instance.meanwhile("an answer", within, self.ask(self.request(0))).await {
            Ok(Ok(answer)) if answer.code().is_none_or(|code| code < 400) => return Ok(()),
            Ok(other) => shown(&other),
            Err(Verdict::Fail { observed, .. }) => observed,
            Err(other) => return Err(other),
        };
        Err(prerequisites::no_answer(&seen))
    }

    /// Sends a request. Without an answer, the case fails.
    pub(crate) async fn expect_answer(&self, instance: &mut Instance, expected: &str) -> CaseResult<()> {
        let answer = instance.meanwhile(expected, self.timeouts.answer + self.timeouts.grace, self.ask(self.request(0))).await?;
        let is_good = matches!(&answer, Ok(answer) if answer.code().is_none_or(|code| code < 400));
        expect(is_good, expected, || shown(&answer))
    }
}

/// Formats an answer for a verdict.
pub(crate) fn shown(answer: &Result<Message, String>) -> String {
    match answer {
        Ok(message) => message.to_json().unwrap_or_else(|error| error.to_string()),
        Err(error) => format!("the host's own answer: {error}"),
    }
}

/// A failure of the kit itself. The case does not apply.
pub(crate) fn setup_failed(error: impl std::fmt::Display) -> Verdict {
    Verdict::not_applicable(format!("the case could not be prepared: {error}"))
}

fn address(text: &str) -> CaseResult<Address> {
    Address::parse(text).map_err(setup_failed)
}

async fn resolve(server: &str) -> CaseResult<SocketAddr> {
    let mut addresses = tokio::net::lookup_host(server).await.map_err(setup_failed)?;
    addresses.next().ok_or_else(|| setup_failed(format_args!("{server} has no address")))
}

/// Replaces the placeholders of `protostub serve` in a configuration's texts by the link's address.
fn fill_in(value: &mut Value, authority: &str) {
    match value {
        Value::String(text) => {
            *text = text
                .replace("${authority}", authority)
                .replace("${domain}", authority)
                .replace("${http-url}", &format!("http://{authority}"))
                .replace("${ws-url}", &format!("ws://{authority}/ws"))
                .replace("${nomatrix-url}", &format!("ws://{authority}/stub/connect"));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| fill_in(value, authority)),
        Value::Object(members) => members.values_mut().for_each(|value| fill_in(value, authority)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// All statuses that the stub published, in order.
struct Statuses(watch::Sender<Vec<(StubStatus, Option<String>)>>);

impl Presence for Statuses {
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        let mut outcome = Ok(());
        self.0.send_modify(|all| match all.last() {
            Some((current, _)) if *current != status && !current.may_become(status) => {
                outcome = Err(format!("a stub that is {current} cannot become {status}"));
            }
            _ => all.push((status, reason.map(|reason| reason.to_string()))),
        });
        outcome
    }
}

/// The credential of the domain, in place of the Identity Module.
#[derive(Default)]
pub(crate) struct Credentials(Mutex<Option<Credential>>);

impl Credentials {
    pub(crate) fn get(&self) -> Option<Credential> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, credential: Option<Credential>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = credential;
    }
}

#[async_trait]
impl CredentialSource for Credentials {
    async fn credential(&self, _: &Domain, _: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        Ok(self.get())
    }
}

/// Log lines of the stub, and of the sandbox about the stub. They also go to the program's own log.
#[derive(Clone)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    outer: tracing::Dispatch,
}

impl Log {
    fn new() -> Self {
        Self { lines: Arc::default(), outer: tracing::dispatcher::get_default(Clone::clone) }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        if !event.metadata().target().starts_with("protostub") {
            return;
        }
        if self.outer.enabled(event.metadata()) {
            self.outer.event(event);
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }
}
