//! Random interleavings of all concurrent operations on stubs, checked against a model of the
//! delivery contract.
//!
//! The model states what holds for every order of events:
//!
//! * a request has one outcome: its own answer, or an error other than "no answer in time"
//! * an accepted post reaches the stub, or its sender gets one error; arriving posts keep their
//!   order
//! * each status of a stub is a legal successor of the one before
//! * an undeployed stub leaves no state that affects the next one
//! * in the end the bus has an outcome for each accepted message, and the runtime ends with all its
//!   stubs
//! * all of this holds if futures of callers are dropped, if hooks of the host program panic, and
//!   for handles that outlive the runtime
//!
//! `PROPTEST_CASES` sets the number of interleavings.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use protostub_runtime::{
    Credential, CredentialError, CredentialProvider, CredentialRequest, Decision, DeployErrorKind, Document, DomainSettings,
    Fault, Hop, Hyperty, MemorySource, Message, MessageId, MessageType, Policy, Protostub, RestartPolicy, Retire, Runtime,
    RuntimeBuilder, Source, SourceRequest, StatusWatch, StubStatus, Version,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet, yield_now},
    time::timeout,
};

use crate::support::{body, builder, component, descriptor, domain, order};

const DOMAINS: [&str; 3] = ["one.example", "two.example", "three.example"];
/// Time limit of an operation. An operation over the limit counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// An operation on a domain's stub.
#[derive(Debug, Clone, Copy)]
enum Act {
    Load,
    Deploy,
    Request,
    Post,
    Crash,
    Disconnect,
    Connect,
    Update,
    /// An update to a version that overlaps with the one before.
    Overlap,
    Undeploy,
    /// The next call of the hook panics.
    Panic(Hook),
    /// A pause in which other tasks run.
    Yield(usize),
}

/// A hook of the host program.
#[derive(Debug, Clone, Copy)]
enum Hook {
    SourceOpen,
    SourceBody,
    Progress,
    OnCrash,
    Credential,
    /// The policy, for requests to stubs.
    Policy,
}

#[derive(Debug, Clone)]
struct Plan {
    /// Each with its domain, and the number of other tasks' turns after which its future is
    /// dropped.
    acts: Vec<(usize, Act, Option<usize>)>,
    /// `true` if the host program has hooks.
    has_hooks: bool,
    /// `true` if idle stubs are retired after a moment.
    retires: bool,
    /// `true` if the runtime shuts down while the operations are in progress.
    ends_early: bool,
}

fn plans() -> impl Strategy<Value = Plan> {
    let act = prop_oneof![
        2 => Just(Act::Load),
        2 => Just(Act::Deploy),
        6 => Just(Act::Request),
        6 => Just(Act::Post),
        1 => Just(Act::Crash),
        1 => Just(Act::Disconnect),
        2 => Just(Act::Connect),
        1 => Just(Act::Update),
        1 => Just(Act::Overlap),
        1 => Just(Act::Undeploy),
        2 => hooks().prop_map(Act::Panic),
        3 => (1..200_usize).prop_map(Act::Yield),
    ];
    let dropped_after = prop_oneof![3 => Just(None), 1 => (0..100_usize).prop_map(Some)];
    let acts = prop::collection::vec((0..DOMAINS.len(), act, dropped_after), 1..80);
    let plan = (acts, any::<bool>(), any::<bool>(), any::<bool>());
    plan.prop_map(|(acts, has_hooks, retires, ends_early)| Plan { acts, has_hooks, retires, ends_early })
}

fn hooks() -> impl Strategy<Value = Hook> {
    prop::sample::select(vec![Hook::SourceOpen, Hook::SourceBody, Hook::Progress, Hook::OnCrash, Hook::Credential, Hook::Policy])
}

/// The hooks of the host program. An armed one panics at its next call.
#[derive(Debug, Clone, Default)]
struct Hooks {
    armed: Arc<[AtomicBool; 6]>,
    stubs: MemorySource,
}

impl Hooks {
    fn arm(&self, hook: Hook) {
        self.armed[hook as usize].store(true, Ordering::SeqCst);
    }

    fn disarm(&self) {
        self.armed.iter().for_each(|armed| armed.store(false, Ordering::SeqCst));
    }

    fn call(&self, hook: Hook) {
        assert!(!self.armed[hook as usize].swap(false, Ordering::SeqCst), "{hook:?} panics as planned");
    }

    fn install(&self, builder: RuntimeBuilder) -> RuntimeBuilder {
        let (progress, crashes) = (self.clone(), self.clone());
        builder
            .source(self.clone())
            .credentials(self.clone())
            .policy(self.clone())
            .progress(move |_, _| progress.call(Hook::Progress))
            .on_crash(move |_, _| crashes.call(Hook::OnCrash))
    }
}

#[async_trait]
impl Source for Hooks {
    async fn open(&self, request: &SourceRequest<'_>) -> Result<Document, Fault> {
        self.call(Hook::SourceOpen);
        let document = self.stubs.open(request).await?;
        let hooks = self.clone();
        Ok(Document::from_stream(document.length, document.body.inspect(move |_| hooks.call(Hook::SourceBody))))
    }
}

#[async_trait]
impl CredentialProvider for Hooks {
    async fn credential(&self, _: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        self.call(Hook::Credential);
        Ok(None)
    }
}

impl Policy for Hooks {
    fn decide(&self, hop: &Hop<'_>) -> Decision {
        if hop.message.kind == MessageType::Read {
            self.call(Hook::Policy);
        }
        Decision::Permit
    }
}

/// Drops a future after this many turns of other tasks. Returns `None` then.
async fn dropped_after<T>(turns: Option<usize>, future: impl Future<Output = T>) -> Option<T> {
    let turns_over = async {
        let Some(turns) = turns else { return pending().await };
        for _ in 0..turns {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = turns_over => None,
    }
}

#[test]
fn interleavings_lose_no_message_and_leave_no_state() {
    let threads = tokio::runtime::Runtime::new().expect("threads");
    let cache = tempfile::tempdir().expect("a folder");
    let cases = std::env::var("PROPTEST_CASES").map_or(32, |cases| cases.parse().expect("a number"));
    let mut runner = TestRunner::new(Config { failure_persistence: None, max_shrink_iters: 64, ..Config::with_cases(cases) });
    let outcome = runner.run(&plans(), |plan| {
        let play = async { timeout(6 * PATIENCE, Stage::play(&plan, cache.path())).await };
        threads.block_on(play).map_err(|_| TestCaseError::fail("an operation hangs"))?
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// The outcome of a request.
#[derive(Debug)]
struct Asked {
    n: u64,
    /// `None` if the future was dropped.
    outcome: Option<Result<(Option<u16>, Value), u16>>,
}

struct Stage {
    /// `None` after the shutdown.
    runtime: Mutex<Option<Runtime>>,
    asker: Arc<Hyperty>,
    hooks: Hooks,
    /// Handles that are kept beyond the end of their stub, and of the runtime.
    handles: Vec<(Protostub, StatusWatch)>,
    posts: mpsc::Sender<(Message, oneshot::Sender<bool>)>,
    stubs: MemorySource,
    requests: JoinSet<Asked>,
    others: JoinSet<u64>,
    /// The other operations that have not ended.
    begun: BTreeMap<u64, (String, Act)>,
    next: u64,
}

impl Stage {
    async fn play(plan: &Plan, cache: &std::path::Path) -> Result<(), TestCaseError> {
        let (mut stage, heard) = Self::set_up(cache, plan).await;
        for (which, act, dropped_after) in &plan.acts {
            stage.act(DOMAINS[*which], *act, *dropped_after).await;
        }
        stage.hooks.disarm();
        if !plan.ends_early {
            stage.settle().await?;
            stage.leaves_nothing_behind().await?;
            stage.until_balanced().await?;
        }
        for name in DOMAINS {
            stage.keep_handle(name);
        }
        let runtime = stage.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let runtime = runtime.expect("nobody else ends it");
        let ending = runtime.shutdown(PATIENCE);
        let ended = timeout(2 * PATIENCE, ending).await.map_err(|_| TestCaseError::fail("the runtime does not end"))?;
        prop_assert_eq!(&ended.abandoned, &vec![]);
        stage.settle().await?;
        heard.check().await?;
        stage.handles_have_ended().await?;
        let counts = runtime.counts();
        let outcomes = counts.delivered + counts.published + counts.answered + counts.failed + counts.abandoned;
        prop_assert_eq!((counts.open, counts.accepted), (0, outcomes), "{:?}", counts);
        let error = runtime.deploy_protostub(DOMAINS[0]).await.expect_err("the runtime has ended");
        prop_assert!(matches!(error.kind, DeployErrorKind::ShutDown), "{:?}", error);
        Ok(())
    }

    async fn set_up(cache: &std::path::Path, plan: &Plan) -> (Self, Hearing) {
        let (hooks, retires) = (Hooks::default(), plan.retires);
        let stubs = hooks.stubs.clone();
        let mut restart = RestartPolicy::default();
        (restart.first_pause, restart.longest_pause) = (Duration::from_millis(1), Duration::from_millis(20));
        let mut built = builder().cache_dir(cache).max_stubs(DOMAINS.len()).restart(restart);
        built = if plan.has_hooks { hooks.install(built) } else { built.source(stubs.clone()) };
        built = built.retire_after(if retires { Retire::After(Duration::from_millis(1)) } else { Retire::Never });
        for name in DOMAINS {
            publish(&stubs, name, "1.0", false);
            let mut settings = DomainSettings::default();
            settings.allow_older = true;
            built = built.domain(domain(name), settings);
        }
        let runtime = built.deployments_per_minute(u32::MAX).build().await.expect("a runtime");
        let hyperty = |name: &str| runtime.register_hyperty(format!("hyperty://home.example/{name}"));
        let (asker, poster) = (hyperty("asker").await.expect("a hyperty"), hyperty("poster").await.expect("a hyperty"));
        let (observer, monitor) = (hyperty("observer").await.expect("a hyperty"), hyperty("monitor").await.expect("a hyperty"));
        monitor.subscribe(runtime.url().join("status").expect("an address")).await.expect("subscribed");
        let (posts, to_post) = mpsc::channel(1);
        let hearing = Hearing {
            posted: tokio::spawn(post(poster, to_post)),
            observed: tokio::spawn(observe(observer)),
            statuses: tokio::spawn(statuses(monitor)),
        };
        let stage = Self {
            runtime: Mutex::new(Some(runtime)),
            asker: Arc::new(asker),
            hooks,
            handles: Vec::new(),
            posts,
            stubs,
            requests: JoinSet::new(),
            others: JoinSet::new(),
            begun: BTreeMap::new(),
            next: 1,
        };
        (stage, hearing)
    }

    fn stub(&self, name: &str) -> Option<Protostub> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = runtime.as_ref()?;
        runtime.protostub(&runtime.stub_key(name).ok()?)
    }

    /// Keeps a handle of the domain's stub, if there is one.
    fn keep_handle(&mut self, name: &str) {
        self.handles.extend(self.stub(name).map(|stub| (stub.clone(), stub.watch())));
    }

    /// Checks that the handles of ended stubs report the end.
    async fn handles_have_ended(&mut self) -> Result<(), TestCaseError> {
        for (stub, watch) in &mut self.handles {
            let until_end = async { while watch.changed().await.is_some() {} };
            prop_assert!(timeout(PATIENCE, until_end).await.is_ok(), "the watch of {:?} does not end", stub);
            prop_assert!(!stub.status().status.is_available(), "{:?}", stub);
            let connected = timeout(PATIENCE, stub.connect()).await;
            prop_assert!(matches!(connected, Ok(Err(_))), "{:?}: {:?}", stub, connected);
        }
        Ok(())
    }

    fn ask(&mut self, message: Message, turns: Option<usize>) {
        let (n, asker) = (self.next, Arc::clone(&self.asker));
        self.next += 1;
        self.requests.spawn(async move {
            let outcome = dropped_after(turns, asker.request_within(message, PATIENCE)).await;
            let shown = |reply: Message| (reply.code(), body(&reply));
            Asked { n, outcome: outcome.map(|outcome| outcome.map(shown).map_err(|error| error.code)) }
        });
    }

    async fn act(&mut self, name: &str, act: Act, turns: Option<usize>) {
        let to = format!("hyperty://{name}/x");
        let n = self.next;
        match act {
            Act::Load => {
                let ua = self.part_of_runtime("ua");
                let load = json!({ "method": "loadStub", "params": [name] });
                self.ask(Message::new(MessageType::Execute, ua).with_body(load), turns);
            }
            Act::Request => self.ask(order(&to, json!({ "n": n })), turns),
            Act::Crash => self.ask(order(&to, json!({ "do": "trap" })), turns),
            Act::Panic(hook) => self.hooks.arm(hook),
            Act::Deploy => {
                let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
                self.next += 1;
                self.begun.insert(n, (name.to_owned(), act));
                let name = name.to_owned();
                self.others.spawn(async move {
                    drop(dropped_after(turns, runtime.deploy_protostub(&name)).await);
                    n
                });
            }
            Act::Post => {
                self.next += 1;
                let told = json!({ "do": "post", "to": "hyperty://home.example/observer", "body": { "n": n, "of": name } });
                let mut message = Message::new(MessageType::Update, to.parse().unwrap()).with_body(told);
                message.id = MessageId::Number(n);
                let (done, is_done) = oneshot::channel();
                self.posts.send((message, done)).await.expect("the poster is there");
                is_done.await.expect("it was posted, or refused");
            }
            Act::Yield(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
            }
            Act::Disconnect | Act::Connect | Act::Update | Act::Overlap | Act::Undeploy => {
                let Some(stub) = self.stub(name) else { return };
                if matches!(act, Act::Update | Act::Overlap) {
                    publish(&self.stubs, name, &format!("1.{n}"), matches!(act, Act::Overlap));
                }
                self.next += 1;
                self.begun.insert(n, (name.to_owned(), act));
                self.keep_handle(name);
                self.others.spawn(async move {
                    // The result depends on concurrent operations. The end of the operation does
                    // not.
                    let acting = async {
                        match act {
                            Act::Disconnect => drop(stub.disconnect().await),
                            Act::Connect => drop(stub.connect().await),
                            Act::Update | Act::Overlap => drop(stub.update().await),
                            _ => drop(stub.undeploy().await),
                        }
                    };
                    dropped_after(turns, Box::pin(acting)).await;
                    n
                });
            }
        }
    }

    fn part_of_runtime(&self, part: &str) -> protostub_runtime::Address {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.as_ref().expect("it runs").url().join(part).expect("an address")
    }

    /// Waits until all operations have ended, and checks their outcomes.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        while let Some(asked) = self.requests.join_next().await {
            let Asked { n, outcome } = asked.expect("a task");
            match outcome {
                None => {}
                Some(Ok((Some(200), body))) => {
                    let echoed = &body["value"]["n"];
                    prop_assert!(echoed.is_null() || *echoed == json!(n), "request {} has the answer {}", n, body);
                }
                // A refusal of the Runtime UA, or of the stub.
                Some(Ok((code, _))) => prop_assert!(matches!(code, Some(400 | 503)), "request {} has the answer {:?}", n, code),
                Some(Err(code)) => {
                    prop_assert!(matches!(code, 403 | 404 | 429 | 502 | 503), "request {} failed with {}", n, code);
                }
            }
        }
        let others = async {
            while let Some(other) = self.others.join_next().await {
                self.begun.remove(&other.expect("a task"));
            }
        };
        let ended = timeout(PATIENCE, others).await;
        prop_assert!(ended.is_ok(), "these do not end: {:?}", self.begun);
        Ok(())
    }

    /// Waits until every message that the bus accepted has its outcome.
    async fn until_balanced(&self) -> Result<(), TestCaseError> {
        let balanced = || {
            let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = runtime.as_ref().expect("it runs").counts();
            let outcomes = counts.delivered + counts.published + counts.answered + counts.failed + counts.abandoned;
            counts.open == 0 && counts.accepted == outcomes
        };
        let waiting = async {
            while !balanced() {
                yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.map_err(|_| TestCaseError::fail("a message has no outcome"))
    }

    /// Checks that every stub can be undeployed, and that every stub can be deployed again
    /// afterwards.
    async fn leaves_nothing_behind(&mut self) -> Result<(), TestCaseError> {
        for name in DOMAINS {
            if let Some(stub) = self.stub(name) {
                let _ = stub.undeploy().await;
            }
        }
        let registry = self.part_of_runtime("registry");
        let listing = self.asker.request_within(Message::read(registry), PATIENCE).await.expect("an answer");
        prop_assert_eq!(&body(&listing)["value"], &json!({ "stubs": [], "sandboxes": [] }));
        for name in DOMAINS {
            self.act(name, Act::Load, None).await;
        }
        while let Some(asked) = self.requests.join_next().await {
            let Asked { outcome, .. } = asked.expect("a task");
            prop_assert!(matches!(outcome, Some(Ok((Some(200), _)))), "{:?}", outcome);
        }
        for name in DOMAINS {
            let reply = self.asker.request_within(order(&format!("hyperty://{name}/x"), json!({ "n": 0 })), PATIENCE).await;
            prop_assert_eq!(reply.as_ref().ok().and_then(Message::code), Some(200), "{:?}", reply);
        }
        Ok(())
    }
}

fn publish(stubs: &MemorySource, name: &str, version: &str, overlap: bool) {
    let actor = component("actor");
    let mut descriptor = descriptor(&actor, Value::Null);
    descriptor.version = Version::parse(version).expect("a version");
    descriptor.overlap = overlap;
    stubs.insert(&domain(name), "default", descriptor.to_json(), actor);
}

/// Messages that the hyperties received, in tasks that end with the runtime.
struct Hearing {
    posted: JoinHandle<Posted>,
    observed: JoinHandle<BTreeMap<String, Vec<u64>>>,
    statuses: JoinHandle<BTreeMap<String, Vec<StubStatus>>>,
}

#[derive(Debug, Default)]
struct Posted {
    accepted: BTreeSet<u64>,
    /// Posts that came back with an error.
    returned: Vec<u64>,
}

/// Posts messages on demand, and records the errors.
async fn post(mut poster: Hyperty, mut posts: mpsc::Receiver<(Message, oneshot::Sender<bool>)>) -> Posted {
    let mut posted = Posted::default();
    loop {
        tokio::select! {
            message = poster.recv() => {
                let Some(message) = message else { return posted };
                let MessageId::Number(n) = message.id else { panic!("{message:?}") };
                posted.returned.push(n);
            }
            Some((message, done)) = posts.recv() => {
                let MessageId::Number(n) = message.id else { panic!("{message:?}") };
                let accepted = poster.post(message).is_ok();
                if accepted {
                    posted.accepted.insert(n);
                }
                let _ = done.send(accepted);
            }
        }
    }
}

/// Records the posts that each domain's stub received, in the order of its reports.
async fn observe(mut observer: Hyperty) -> BTreeMap<String, Vec<u64>> {
    let mut observed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while let Some(message) = observer.recv().await {
        let body = body(&message);
        let (of, n) = (body["of"].as_str().expect("a domain"), body["n"].as_u64().expect("a number"));
        observed.entry(of.to_owned()).or_default().push(n);
    }
    observed
}

/// Records the statuses of each stub that has an address.
async fn statuses(mut monitor: Hyperty) -> BTreeMap<String, Vec<StubStatus>> {
    let mut statuses: BTreeMap<String, Vec<StubStatus>> = BTreeMap::new();
    while let Some(message) = monitor.recv().await {
        let body = body(&message);
        let Some(stub) = body["resource"].as_str() else { continue };
        let status = body["value"].as_str().and_then(|status| status.parse().ok()).expect("a status");
        statuses.entry(stub.to_owned()).or_default().push(status);
    }
    statuses
}

impl Hearing {
    async fn check(self) -> Result<(), TestCaseError> {
        let (posted, observed) = (self.posted.await.expect("a task"), self.observed.await.expect("a task"));
        for (name, observed) in &observed {
            prop_assert!(observed.is_sorted_by(|one, next| one < next), "the stub of {} was posted {:?}", name, observed);
        }
        let mut returned = posted.returned.clone();
        returned.sort_unstable();
        prop_assert!(returned.is_sorted_by(|one, next| one < next), "an error came twice: {:?}", returned);
        let heard: BTreeSet<u64> = observed.into_values().flatten().chain(returned).collect();
        prop_assert_eq!(heard, posted.accepted);
        for (stub, statuses) in self.statuses.await.expect("a task") {
            let legal = |pair: &[StubStatus]| pair[0] == pair[1] || pair[0].may_become(pair[1]);
            prop_assert!(statuses.windows(2).all(legal), "{} was {:?}", stub, statuses);
            prop_assert!(statuses.last().is_some_and(|last| !last.is_available()), "{} was {:?} in the end", stub, statuses);
        }
        Ok(())
    }
}
