use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use protostub_artifacts::component;
use protostub_bus::{Bus, BusConfig, Inbox, InboxLimits, Origin, RequestError, Route};
use protostub_egress::{Egress, EgressConfig, Grants};
use protostub_sandbox::{
    CompiledStub, Credential, CredentialError, CredentialKind, CredentialSource, Ended, Engine, EngineConfig, Limits, Outcome,
    Presence, Sandbox, SandboxConfig, SandboxError, SandboxServices, Session, StartErrorKind, StubHandle,
};
use protostub_types::{Address, Allowance, Allowances, Domain, Message, SafeText, Sha256Digest, StubKey, StubStatus};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

/// Timeout of a test for events that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
        let mut config = EngineConfig::default();
        config.max_sandboxes = 100;
        config.tick = Duration::from_millis(2);
        Engine::new(&config).expect("an engine")
    });
    &ENGINE
}

/// Returns the actor, compiled once for all tests.
pub(crate) async fn actor() -> &'static CompiledStub {
    static ACTOR: tokio::sync::OnceCell<CompiledStub> = tokio::sync::OnceCell::const_new();
    ACTOR
        .get_or_init(|| async {
            let bytes = component("actor");
            let digest = Sha256Digest::of(&bytes);
            engine().compile(bytes, digest).await.expect("the actor is a stub")
        })
        .await
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

pub(crate) fn domain(text: &str) -> Domain {
    Domain::parse(text).expect("a domain")
}

pub(crate) fn bus() -> Bus {
    let mut config = BusConfig::new(domain("home.example"), address("hyperty-runtime://home.example/r"));
    config.request_timeout = PATIENCE;
    Bus::new(config)
}

/// The statuses that a stub published.
#[derive(Debug)]
pub(crate) struct Statuses(watch::Sender<Vec<(StubStatus, Option<String>)>>, Arc<LimitCounts>);

/// Number of times that a stub reached each limit.
#[derive(Debug, Default)]
pub(crate) struct LimitCounts(Mutex<HashMap<&'static str, u64>>);

impl LimitCounts {
    pub(crate) fn times(&self, setting: &str) -> u64 {
        self.0.lock().unwrap().get(setting).copied().unwrap_or_default()
    }
}

impl Presence for Statuses {
    fn publish(&self, status: StubStatus, reason: Option<SafeText>) -> Result<(), String> {
        let mut result = Ok(());
        self.0.send_modify(|all| match all.last() {
            Some((current, _)) if !current.may_become(status) => result = Err(format!("`{status}` cannot follow `{current}`")),
            _ => all.push((status, reason.map(|reason| reason.to_string()))),
        });
        result
    }

    fn limited(&self, setting: &'static str) {
        *self.1.0.lock().unwrap().entry(setting).or_default() += 1;
    }
}

/// Credentials by scope. For the scope `never`, no answer ever comes.
#[derive(Debug, Default)]
pub(crate) struct Credentials(pub Mutex<HashMap<String, Credential>>);

#[async_trait]
impl CredentialSource for Credentials {
    async fn credential(&self, domain: &Domain, scope: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        match scope {
            Some("never") => std::future::pending().await,
            Some("broken") => Err(CredentialError::Temporary("the identity provider is down".into())),
            scope => {
                let value = self.0.lock().unwrap().get(scope.unwrap_or_default()).cloned();
                Ok(value.map(|credential| Credential { value: format!("{}@{domain}", credential.value), ..credential }))
            }
        }
    }
}

pub(crate) fn bearer(value: &str) -> Credential {
    Credential { kind: CredentialKind::Bearer, value: value.to_owned(), expires: None }
}

/// Setup of a test: the actor of a domain, with this configuration.
pub(crate) struct Fixture {
    pub(crate) bus: Bus,
    pub(crate) domain: Domain,
    pub(crate) url: Address,
    pub(crate) configuration: Value,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    pub(crate) relays: Vec<Domain>,
    pub(crate) session: Session,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) program: Option<CompiledStub>,
    pub(crate) limit_counts: Arc<LimitCounts>,
    /// Log lines of a day, if a test limits them for several instances.
    pub(crate) log_allowance: Option<Allowance>,
}

impl Fixture {
    pub(crate) fn new(configuration: Value) -> Self {
        Self {
            bus: bus(),
            domain: domain("sp1.example"),
            url: address("hyperty-runtime://sp1.example/protostub/1"),
            configuration,
            limits: Limits::default(),
            grants: Grants::none(),
            relays: Vec::new(),
            session: Session::new(),
            credentials: Arc::default(),
            program: None,
            limit_counts: Arc::default(),
            log_allowance: None,
        }
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    pub(crate) async fn sandbox(&self) -> (Result<Sandbox, SandboxError>, watch::Receiver<Vec<(StubStatus, Option<String>)>>) {
        let (sender, statuses) = watch::channel(Vec::new());
        let egress = Egress::new(EgressConfig::default()).expect("an egress");
        let services = SandboxServices {
            bus: self.bus.clone(),
            quota: egress.quota(self.limits.quota()),
            egress,
            log_allowance: self.log_allowance.clone().unwrap_or_else(|| {
                Allowances::new(u64::MAX, Duration::from_secs(86_400)).of("sp1.example", self.limits.log_bytes_per_day)
            }),
            presence: Arc::new(Statuses(sender, Arc::clone(&self.limit_counts))),
            credentials: Arc::clone(&self.credentials) as Arc<dyn CredentialSource>,
            session: self.session.clone(),
        };
        let config = SandboxConfig {
            url: self.url.clone(),
            domain: self.domain.clone(),
            configuration: self.configuration.to_string().into(),
            limits: self.limits.clone(),
            grants: self.grants.clone(),
            relays: self.relays.clone(),
            credential_origins: Vec::new(),
        };
        let program = match &self.program {
            Some(program) => program,
            None => actor().await,
        };
        (Sandbox::new(program, services, config), statuses)
    }

    /// Deploys the actor, which is `created` then.
    pub(crate) async fn start(self) -> Result<RunningActor, StartErrorKind> {
        let inbox = self.bus.inbox(InboxLimits::new(1000, 16 << 20));
        self.start_with(inbox).await.map_err(|(kind, _)| kind)
    }

    pub(crate) async fn start_with(self, inbox: Inbox) -> Result<RunningActor, (StartErrorKind, Inbox)> {
        let (sandbox, statuses) = self.sandbox().await;
        let mailbox = inbox.mailbox();
        let routes = vec![
            self.bus.attach(&self.url, &mailbox).expect("the URL is free"),
            self.bus.attach_key(&StubKey::Domain(self.domain.clone()), &mailbox).expect("the domain is free"),
        ];
        let started = sandbox.expect("a sandbox").deploy_component(inbox).await;
        let (handle, task) = started.map_err(|error| (error.kind, error.inbox))?;
        let task = tokio::spawn(task.run());
        Ok(RunningActor { bus: self.bus, domain: self.domain, url: self.url, handle, task, statuses, _routes: routes })
    }

    /// Deploys and connects the actor, which is `live` then.
    pub(crate) async fn live(self) -> RunningActor {
        let mut actor = self.start().await.expect("the actor starts");
        actor.handle.connect(None).await.expect("it connects");
        actor.status(StubStatus::Live).await;
        actor
    }
}

/// A running actor.
pub(crate) struct RunningActor {
    pub(crate) bus: Bus,
    pub(crate) domain: Domain,
    pub(crate) url: Address,
    pub(crate) handle: StubHandle,
    pub(crate) task: JoinHandle<Ended>,
    pub(crate) statuses: watch::Receiver<Vec<(StubStatus, Option<String>)>>,
    /// Attached until they are dropped.
    pub(crate) _routes: Vec<Route>,
}

impl RunningActor {
    pub(crate) fn message(&self, order: Value) -> Message {
        Message::read(format!("hyperty://{}/actor", self.domain).parse().unwrap()).with_body(order)
    }

    pub(crate) async fn request(&self, order: Value) -> Result<Message, RequestError> {
        let answer = self.bus.request(&Origin::Host, self.message(order), None);
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes")
    }

    /// Gives an order. Returns the value of its result, or the error's text.
    pub(crate) async fn order(&self, order: Value) -> Result<Value, String> {
        let response = self.request(order).await.expect("the actor answers");
        let body: Value = response.body.expect("a body").parse().expect("JSON");
        match body["code"].as_u64() {
            Some(200) => Ok(body["value"].clone()),
            Some(400) => Err(body["value"].as_str().unwrap_or_default().to_owned()),
            _ => panic!("the bus answered {body}"),
        }
    }

    /// Gives an order that must succeed.
    pub(crate) async fn told(&self, order: Value) -> Value {
        self.order(order.clone()).await.unwrap_or_else(|error| panic!("{order}: {error}"))
    }

    /// Gives an order that the actor does not survive. Returns the code of the error response.
    pub(crate) async fn fatal(&self, order: Value) -> u16 {
        let response = self.request(order).await;
        match response {
            Ok(response) => response.code().expect("a code"),
            Err(error) => error.code,
        }
    }

    pub(crate) async fn status(&mut self, wanted: StubStatus) -> Option<String> {
        let reached = self.statuses.wait_for(|all| all.last().is_some_and(|(status, _)| *status == wanted));
        let all = tokio::time::timeout(PATIENCE, reached).await.expect("the status comes").expect("it is still published");
        all.last().and_then(|(_, reason)| reason.clone())
    }

    pub(crate) async fn ended(self) -> Ended {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").expect("the task does not panic")
    }

    pub(crate) async fn outcome(self) -> Outcome {
        self.ended().await.outcome
    }
}

/// A listener on the bus that receives the actor's posts.
pub(crate) struct Listener {
    inbox: Inbox,
    _route: Route,
}

impl Listener {
    pub(crate) const ADDRESS: &str = "hyperty://home.example/listener";

    pub(crate) fn new(bus: &Bus) -> Self {
        let inbox = bus.inbox(InboxLimits::new(1000, 16 << 20));
        let route = bus.attach(&address(Self::ADDRESS), &inbox.mailbox()).expect("the address is free");
        Self { inbox, _route: route }
    }

    pub(crate) async fn message(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.inbox.recv()).await.expect("something comes").expect("the inbox is open")
    }

    pub(crate) async fn hears(&mut self) -> Value {
        self.message().await.body.expect("a body").parse().expect("JSON")
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.inbox.mailbox().is_empty()
    }
}

/// Makes a fixture whose actor reports its events to a listener.
pub(crate) fn observed(mut configuration: Value) -> (Fixture, Listener) {
    configuration["observer"] = json!(Listener::ADDRESS);
    let fixture = Fixture::new(configuration);
    let listener = Listener::new(&fixture.bus);
    (fixture, listener)
}
