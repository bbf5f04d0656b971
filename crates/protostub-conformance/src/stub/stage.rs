//! The scripted host: a sandbox with the stub in it, a bus with somebody on it, and a link to the server.

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
    CompiledStub, Credential, CredentialError, CredentialSource, Ended, Limits, Presence, Sandbox, SandboxConfig,
    SandboxServices, Session, StartErrorKind, StubHandle,
};
use protostub_types::{Address, Domain, Message, MessageId, MessageType, SafeText, StubKey, StubStatus};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::layer::SubscriberExt as _;
use uuid::Uuid;

use super::{
    Bench, Patience, Server,
    foundations::{self, Foundations},
    link::Link,
    peer::Peer,
};
use crate::{
    Verdict,
    case::{Course, expect},
};

/// Who asks, and whom the server's messages are for.
pub(crate) const APP: &str = "hyperty://home.example/conformance";
/// How much may wait in an inbox.
const INBOX: InboxLimits = InboxLimits::new(2000, 64 << 20);
/// How much the message node keeps for a client: it is not to be what loses messages.
const QUEUED: usize = 4096;
const QUEUED_BYTES: usize = 64 << 20;
/// How long a request may take on this bus.
const REQUEST: Duration = Duration::from_secs(15);

/// All that an instance needs. Instances come and go on it, one after the other.
pub(crate) struct Stage {
    pub(crate) bus: Bus,
    pub(crate) domain: Domain,
    pub(crate) url: Address,
    pub(crate) session: Session,
    pub(crate) link: Option<Link>,
    /// The message node, if that is the server, with somebody who answers.
    pub(crate) node: Option<(DomainServer, Peer)>,
    pub(crate) configuration: Map<String, Value>,
    /// What a request that asks for a credential gets.
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) app: Origin,
    pub(crate) answers: tokio::sync::Mutex<Inbox>,
    pub(crate) patience: Patience,
    foundations: Option<Foundations>,
    request: Option<super::Request>,
    compiled: CompiledStub,
    egress: Egress,
    _route: Route,
    _deadlines: AbortOnDropHandle<()>,
}

/// A running instance.
pub(crate) struct Play {
    pub(crate) handle: StubHandle,
    pub(crate) statuses: watch::Receiver<Vec<(StubStatus, Option<String>)>>,
    pub(crate) patience: Patience,
    task: JoinHandle<Ended>,
    /// How it has ended, once that was seen.
    ended: Option<String>,
    _routes: Vec<Route>,
}

impl Stage {
    pub(crate) async fn new(bench: &Bench) -> Course<Self> {
        let foundations = bench.foundations().await.clone();
        Ok(Self { foundations: Some(foundations), ..Self::prepare(bench).await? })
    }

    /// The same, with the server to be reached.
    pub(crate) async fn ready(bench: &Bench) -> Course<Self> {
        Self::new(bench).await?.open().await
    }

    /// The same, while it is not known what the stub can do.
    pub(crate) async fn bare(bench: &Bench) -> Course<Self> {
        Self::prepare(bench).await?.open().await
    }

    async fn open(self) -> Course<Self> {
        if let Some(link) = &self.link {
            link.open().await.map_err(unprepared)?;
        }
        Ok(self)
    }

    async fn prepare(bench: &Bench) -> Course<Self> {
        let compiled = bench.compiled()?.clone();
        let (link, node, authority) = match &bench.server {
            Server::None => (None, None, None),
            server => {
                let link = Link::new().map_err(unprepared)?;
                let authority = link.address().to_string();
                let node = if *server == Server::MessageNode {
                    let domain = Domain::parse(&authority).map_err(unprepared)?;
                    let mut limits = protostub_domain::Limits::default();
                    limits.max_queued_messages = QUEUED;
                    limits.max_queued_bytes = QUEUED_BYTES;
                    let server = DomainServer::builder().domain(domain).limits(limits).start().await.map_err(unprepared)?;
                    let peer = Peer::new(&server).await.map_err(unprepared)?;
                    link.leads_to(server.address());
                    Some((server, peer))
                } else {
                    None
                };
                if let Server::At(server) = server {
                    link.leads_to(resolve(server).await?);
                }
                (Some(link), node, Some(authority))
            }
        };
        let domain = Domain::parse(authority.as_deref().unwrap_or("sp1.example")).map_err(unprepared)?;
        let runtime = format!("hyperty-runtime://home.example/{}", Uuid::new_v4());
        let mut configuration = bench.configuration.clone();
        if let Some(authority) = &authority {
            configuration.values_mut().for_each(|value| fill_in(value, authority));
        }
        configuration.insert("runtimeURL".to_owned(), runtime.clone().into());
        let home = Domain::parse("home.example").map_err(unprepared)?;
        let mut config = BusConfig::new(home, address(&runtime)?);
        config.request_timeout = REQUEST;
        let bus = Bus::new(config);
        let app = address(APP)?;
        let answers = bus.inbox(INBOX);
        let route = bus.attach(&app, &answers.mailbox()).map_err(unprepared)?;
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
            patience: bench.patience,
            foundations: None,
            request: bench.request.clone(),
            egress: Egress::new(EgressConfig::default()).map_err(unprepared)?,
            _route: route,
            _deadlines: AbortOnDropHandle::new(tokio::spawn(async move { deadlines.run_deadlines().await })),
            bus,
            domain,
            link,
            node,
            compiled,
        })
    }

    /// The link to the server; a case that needs one says nothing about a stub without.
    pub(crate) fn link(&self) -> Course<&Link> {
        self.link.as_ref().ok_or_else(|| Verdict::not_applicable("the stub has no server"))
    }

    /// The message node; a case that needs to look into the server says nothing about a stub of another one.
    pub(crate) fn node(&self) -> Course<&(DomainServer, Peer)> {
        self.node.as_ref().ok_or_else(|| match self.link {
            None => Verdict::not_applicable("the stub has no server"),
            Some(_) => Verdict::not_applicable("only of a message node it can be seen what reaches it"),
        })
    }

    /// Instantiates the stub and calls `start`.
    pub(crate) async fn start(&self) -> Course<Result<Play, StartErrorKind>> {
        let inbox = self.bus.inbox(INBOX);
        let mailbox = inbox.mailbox();
        let target = self.request(0).to;
        let mut keys = vec![StubKey::Domain(self.domain.clone())];
        keys.extend(StubKey::of(&target, &self.domain).filter(|key| *key != keys[0]));
        let mut routes = vec![self.bus.attach(&self.url, &mailbox).map_err(unprepared)?];
        for key in keys {
            routes.push(self.bus.attach_key(&key, &mailbox).map_err(unprepared)?);
        }
        let (told, statuses) = watch::channel(Vec::new());
        let services = SandboxServices {
            bus: self.bus.clone(),
            egress: self.egress.clone(),
            quota: self.egress.quota(self.limits.quota()),
            presence: Arc::new(Statuses(told)),
            credentials: Arc::clone(&self.credentials) as Arc<dyn CredentialSource>,
            session: self.session.clone(),
        };
        let mut grants = Grants::same_domain(&self.domain, &[]).allow_loopback(true);
        if let Some(link) = &self.link {
            grants = grants.allow_host("127.0.0.1", &[link.address().port()][..], Protection::Plain).map_err(unprepared)?;
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
        let sandbox = Sandbox::new(&self.compiled, services, config).map_err(unprepared)?;
        let log = tracing_subscriber::registry().with(self.log.clone());
        let dispatch = tracing::Dispatch::new(log);
        let started = sandbox.deploy_component(inbox).with_subscriber(dispatch.clone()).await;
        Ok(started.map_err(|error| error.kind).map(|(handle, task)| {
            let task = tokio::spawn(task.run().with_subscriber(dispatch));
            Play { handle, statuses, patience: self.patience, task, ended: None, _routes: routes }
        }))
    }

    /// The same without a predecessor, where it is another case's business whether it starts.
    pub(crate) async fn started(&self) -> Course<Play> {
        self.builds_on(Foundations::must_start)?;
        let _ = self.session.take();
        self.start().await?.map_err(|error| foundations::no_start(&error.to_string()))
    }

    /// The same, and connects it, where that it becomes live is another case's business.
    pub(crate) async fn live(&self) -> Course<Play> {
        self.builds_on(Foundations::must_live)?;
        let mut play = self.started().await?;
        let connected = async {
            play.connect(self.credentials.get()).await?;
            play.status(StubStatus::Live, self.patience.live).await
        };
        match connected.await {
            Ok(_) => Ok(play),
            Err(_) => Err(foundations::not_live(&play.history())),
        }
    }

    fn builds_on(&self, what: impl FnOnce(&Foundations) -> Course<()>) -> Course<()> {
        self.foundations.as_ref().map_or(Ok(()), what)
    }

    /// A request with this number in its body, to somebody who answers it.
    pub(crate) fn request(&self, number: u64) -> Message {
        let request = self.request.clone().unwrap_or_default();
        let default = match &self.node {
            Some((_, peer)) => peer.address.clone(),
            None => format!("hyperty://{}/conformance", self.domain),
        };
        let to = request.to.map_or(default, |to| to.replace("${domain}", self.domain.as_str()));
        let kind = request.kind.unwrap_or(MessageType::Read);
        // Whether it is an address was looked at when the subject was read.
        let mut message = Message::new(kind, Address::parse(&to).unwrap_or_else(|_| Address::unset()));
        message.id = MessageId::Number(number + 1);
        message.expect_response();
        message.with_body(request.body.unwrap_or_else(|| json!({ "n": number })))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, message: Message) -> Result<Message, String> {
        self.bus
            .request(&self.app, message, Some(self.patience.answer))
            .await
            .map_err(|error| format!("{} {}", error.code, error.reason))
    }

    /// Asks, where it is another case's business whether an answer comes.
    pub(crate) async fn answers(&self, play: &mut Play) -> Course<()> {
        self.builds_on(Foundations::must_answer)?;
        let within = self.patience.answer + self.patience.grace;
        let seen = match play.meanwhile("an answer", within, self.ask(self.request(0))).await {
            Ok(Ok(answer)) if answer.code().is_none_or(|code| code < 400) => return Ok(()),
            Ok(other) => shown(&other),
            Err(Verdict::Fail { observed, .. }) => observed,
            Err(other) => return Err(other),
        };
        Err(foundations::no_answer(&seen))
    }

    /// Asks, and it is this case's business that an answer comes.
    pub(crate) async fn must_answer(&self, play: &mut Play, expected: &str) -> Course<()> {
        let answer = play.meanwhile(expected, self.patience.answer + self.patience.grace, self.ask(self.request(0))).await?;
        let is_good = matches!(&answer, Ok(answer) if answer.code().is_none_or(|code| code < 400));
        expect(is_good, expected, || shown(&answer))
    }
}

/// An answer, for a verdict.
pub(crate) fn shown(answer: &Result<Message, String>) -> String {
    match answer {
        Ok(message) => message.to_json().unwrap_or_else(|error| error.to_string()),
        Err(error) => format!("the host's own answer: {error}"),
    }
}

impl Play {
    /// Tells it to connect. Whether it is live shows in its status.
    pub(crate) async fn connect(&mut self, credential: Option<Credential>) -> Course<()> {
        let handle = self.handle.clone();
        let Patience { live, grace, .. } = self.patience;
        let handled = self.meanwhile("`connect` to be handled", live, async move { handle.connect(credential).await }).await?;
        // Its end is told by its task.
        if handled.is_err() { self.meanwhile("`connect` to be handled", grace, std::future::pending()).await } else { Ok(()) }
    }

    /// Waits until it has a status: the host says `created` once it runs.
    pub(crate) async fn first_status(&mut self, within: Duration) -> Course<()> {
        self.status_where("a status", within, |_| true).await.map(drop)
    }

    /// Waits until its status is this one, and returns the reason.
    pub(crate) async fn status(&mut self, wanted: StubStatus, within: Duration) -> Course<Option<String>> {
        self.status_of(&[wanted], within).await.map(|(_, reason)| reason)
    }

    /// Waits until its status is one of these.
    pub(crate) async fn status_of(&mut self, wanted: &[StubStatus], within: Duration) -> Course<(StubStatus, Option<String>)> {
        let names: Vec<_> = wanted.iter().map(|status| format!("`{status}`")).collect();
        let expected = format!("the status {}", names.join(" or "));
        self.status_where(&expected, within, |status| wanted.contains(status)).await
    }

    async fn status_where(
        &mut self,
        expected: &str,
        within: Duration,
        is_it: impl Fn(&StubStatus) -> bool,
    ) -> Course<(StubStatus, Option<String>)> {
        let mut statuses = self.statuses.clone();
        let reached = async move {
            let all = statuses.wait_for(|all| all.last().is_some_and(|(status, _)| is_it(status))).await;
            let status = all.ok().and_then(|all| all.last().cloned());
            match status {
                Some(status) => status,
                // Its end is told by its task.
                None => std::future::pending().await,
            }
        };
        self.meanwhile(expected, within, reached).await
    }

    /// Waits for something that should happen while it runs.
    pub(crate) async fn meanwhile<T>(&mut self, expected: &str, within: Duration, happens: impl Future<Output = T>) -> Course<T> {
        if let Some(ended) = &self.ended {
            return Err(Verdict::fail(expected, ended));
        }
        let seconds = within.as_secs_f64();
        let observed = tokio::select! {
            biased;
            happened = timeout(within, happens) => match happened {
                Ok(happened) => return Ok(happened),
                Err(_elapsed) => format!("not within {seconds} s; its statuses: {}", self.history()),
            },
            ended = &mut self.task => self.ended.insert(told(&ended)).clone(),
        };
        Err(Verdict::fail(expected, observed))
    }

    /// Whether it has ended by itself, and how.
    pub(crate) async fn still_runs(&mut self) -> Course<()> {
        if self.task.is_finished() {
            return self.meanwhile("an instance that goes on", self.patience.grace, std::future::pending()).await;
        }
        Ok(())
    }

    /// The statuses until now.
    pub(crate) fn history(&self) -> String {
        let tell = |(status, reason): &(StubStatus, Option<String>)| match reason {
            Some(reason) => format!("{status} ({reason})"),
            None => status.to_string(),
        };
        let all = self.statuses.borrow();
        if all.is_empty() { "none".to_owned() } else { all.iter().map(tell).collect::<Vec<_>>().join(", ") }
    }

    pub(crate) fn current(&self) -> Option<StubStatus> {
        self.statuses.borrow().last().map(|(status, _)| *status)
    }

    /// Ends it without a word.
    pub(crate) async fn stop(self) -> Course<Ended> {
        if let Some(ended) = self.ended {
            return Err(Verdict::fail("an instance that goes on until it is stopped", ended));
        }
        self.handle.stop();
        self.task.await.map_err(|error| Verdict::not_applicable(format!("the host has a bug: {error}")))
    }
}

fn told(ended: &Result<Ended, JoinError>) -> String {
    match ended {
        Ok(ended) => format!("the instance ended: {}", ended.outcome),
        Err(error) => format!("the instance ended: {error}"),
    }
}

/// What the kit itself could not do: no word about the stub.
pub(crate) fn unprepared(error: impl std::fmt::Display) -> Verdict {
    Verdict::not_applicable(format!("the case could not be prepared: {error}"))
}

fn address(text: &str) -> Course<Address> {
    Address::parse(text).map_err(unprepared)
}

async fn resolve(server: &str) -> Course<SocketAddr> {
    let mut addresses = tokio::net::lookup_host(server).await.map_err(unprepared)?;
    addresses.next().ok_or_else(|| unprepared(format_args!("{server} has no address")))
}

/// Replaces the placeholders of `protostub serve` in a configuration's texts by where the link is.
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

/// Every status that the stub published, in order.
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

/// What the Identity Module holds for the domain.
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

/// What the stub, and the sandbox about it, logged. It goes to the program's own log, too.
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
