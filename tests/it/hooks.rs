//! Hooks of the host program that panic: each hook at its first call, at a later one, and always.
//! Callers get an error or their result, the stub's key is free again, and the runtime ends in
//! order.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _};
use protostub_runtime::{
    Bytes, Credential, CredentialError, CredentialProvider, CredentialRequest, Decision, Document, Domain, DomainSettings, Fault,
    Hop, MemorySource, Policy, Resolver, RestartPolicy, Retire, Runtime, RuntimeBuilder, SafeText, Source, SourceRequest,
    StubStatus,
    imports::{HostImport, StubInfo, StubState, wasmtime},
};
use serde_json::json;

use crate::{
    identity::bearer,
    support::{TestRuntime, builder, component, descriptor, domain, ok, order, publish, serve, soon, source},
};

/// Longer than any test: what a test waits for never ends by this timeout.
const LONG: Duration = Duration::from_secs(600);
const ROUNDS: usize = 3;

/// The calls of a hook that panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    First,
    Second,
    Always,
}

/// Makes the calls of one hook panic.
#[derive(Debug, Clone)]
struct Fuse(Arc<FuseState>);

#[derive(Debug)]
struct FuseState {
    when: When,
    calls: AtomicUsize,
    blown: AtomicUsize,
    is_off: AtomicBool,
}

impl Fuse {
    fn new(when: When) -> Self {
        let (calls, blown) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(FuseState { when, calls, blown, is_off: AtomicBool::new(false) }))
    }

    /// Panics if this call is one of those that do.
    fn burn(&self) {
        let FuseState { when, calls, blown, is_off } = &*self.0;
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let blows = match when {
            When::First => call == 0,
            When::Second => call == 1,
            When::Always => true,
        };
        if blows && !is_off.load(Ordering::SeqCst) {
            blown.fetch_add(1, Ordering::SeqCst);
            panic!("the fuse blew");
        }
    }

    fn turn_off(&self) {
        self.0.is_off.store(true, Ordering::SeqCst);
    }

    fn turn_on(&self) {
        self.0.is_off.store(false, Ordering::SeqCst);
    }

    fn is_off(&self) -> bool {
        self.0.is_off.load(Ordering::SeqCst)
    }

    fn blown(&self) -> usize {
        self.0.blown.load(Ordering::SeqCst)
    }
}

/// The effect of a panic on callers.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// Some get an error with this text.
    Error(&'static str),
    /// The panic is logged.
    None,
}

/// Has `sp1.example` used while a hook panics at its first call, at its second, and always.
async fn check(effect: Effect, arm: impl Fn(RuntimeBuilder, &Fuse) -> RuntimeBuilder) {
    check_at("sp1.example", effect, |builder, fuse| {
        let of_memory = source(&["sp1.example"], &component("actor"), &json!({ "refuses": "wrong" }));
        arm(builder.source(of_memory), fuse)
    })
    .await;
}

async fn check_at(target: &str, effect: Effect, build: impl Fn(RuntimeBuilder, &Fuse) -> RuntimeBuilder) {
    for when in [When::First, When::Second, When::Always] {
        let fuse = Fuse::new(when);
        let mut restart = RestartPolicy::default();
        (restart.first_pause, restart.longest_pause) = (Duration::from_millis(1), Duration::from_millis(10));
        let builder = builder().restart(restart).connect_timeout(LONG).request_timeout(LONG);
        let TestRuntime { runtime, app } = TestRuntime::start(build(builder, &fuse)).await;
        let to = format!("hyperty://{target}/alice");
        let mut errors = Vec::new();
        for _ in 0..ROUNDS {
            let both = async { tokio::join!(runtime.deploy_protostub(target), app.request(order(&to, json!({ "n": 1 })))) };
            let (deployed, asked) = soon(both).await;
            errors.extend(asked.err().map(|error| error.reason));
            match deployed {
                Ok(stub) => {
                    let _crashed_or_refused = soon(app.request(order(&to, json!({ "do": "trap" })))).await;
                    errors.extend(soon(app.request(order(&to, json!({ "n": 2 })))).await.err().map(|error| error.reason));
                    // A stub that cannot start again has ended by itself.
                    let _ended = soon(stub.undeploy()).await;
                }
                Err(error) => errors.push(in_full(&error)),
            }
            assert!(runtime.protostubs().is_empty(), "{when:?}: the key is not free");
        }
        assert!(fuse.blown() > 0, "{when:?}: nothing panicked");
        let expected = |error: &String| matches!(effect, Effect::Error(text) if error.contains(text));
        assert!(errors.iter().all(expected), "{when:?}: {errors:#?}");
        let must_fail = when == When::Always && matches!(effect, Effect::Error(_));
        assert!(!must_fail || !errors.is_empty(), "{when:?}: no caller got an error");

        fuse.turn_off();
        soon(runtime.deploy_protostub(target)).await.unwrap_or_else(|error| panic!("{when:?}: {}", in_full(&error)));
        let reply = soon(app.request(order(&to, json!({ "n": 3 })))).await.expect("a reply");
        assert_eq!(reply.code(), Some(200), "{when:?}");
        ends_in_order(&runtime).await;
    }
}

/// Shuts down, and checks that nothing is abandoned and every message has its outcome.
async fn ends_in_order(runtime: &Runtime) {
    let ended = soon(runtime.shutdown(LONG)).await;
    assert_eq!(ended.abandoned, []);
    let counts = runtime.counts();
    let outcomes = counts.delivered + counts.published + counts.answered + counts.failed + counts.abandoned;
    assert_eq!((counts.open, counts.accepted), (0, outcomes), "{counts:?}");
}

/// Returns an error with all its causes.
fn in_full(error: &(dyn Error + 'static)) -> String {
    SafeText::chain(error).to_string()
}

/// The part of a source that panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Open,
    Body,
    EndOfBody,
}

/// A source one part of which panics.
#[derive(Debug)]
struct PanickingSource {
    documents: MemorySource,
    part: Part,
    fuse: Fuse,
}

#[async_trait]
impl Source for PanickingSource {
    async fn open(&self, request: &SourceRequest<'_>) -> Result<Document, Fault> {
        if self.part == Part::Open {
            self.fuse.burn();
        }
        let document = self.documents.open(request).await?;
        Ok(Document::from_stream(
            document.length,
            PanickingBody { body: document.body, part: self.part, fuse: self.fuse.clone() },
        ))
    }
}

struct PanickingBody<B> {
    body: B,
    part: Part,
    fuse: Fuse,
}

impl<B: Stream<Item = Result<Bytes, Fault>> + Unpin> Stream for PanickingBody<B> {
    type Item = Result<Bytes, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.part == Part::Body {
            self.fuse.burn();
        }
        self.body.poll_next_unpin(cx)
    }
}

impl<B> Drop for PanickingBody<B> {
    fn drop(&mut self) {
        if self.part == Part::EndOfBody {
            self.fuse.burn();
        }
    }
}

async fn check_source(part: Part, text: &'static str) {
    check_at("sp1.example", Effect::Error(text), |builder, fuse| {
        let documents = source(&["sp1.example"], &component("actor"), &json!({}));
        builder.source(PanickingSource { documents, part, fuse: fuse.clone() })
    })
    .await;
}

#[tokio::test]
async fn source_that_panics_fails_the_deployment() {
    check_source(Part::Open, "`Source::open` panicked: the fuse blew").await;
}

#[tokio::test]
async fn body_that_panics_fails_the_deployment() {
    check_source(Part::Body, "`Document::body` panicked: the fuse blew").await;
}

/// No call of a hook can catch this panic: it ends the deployment's task.
#[tokio::test]
async fn deployment_whose_task_is_lost_frees_its_key() {
    check_source(Part::EndOfBody, " ended").await;
}

#[tokio::test]
async fn update_whose_task_is_lost_keeps_the_stub() {
    let documents = source(&["sp1.example"], &component("actor"), &json!({}));
    let fuse = Fuse::new(When::Always);
    fuse.turn_off();
    let source = PanickingSource { documents: documents.clone(), part: Part::EndOfBody, fuse: fuse.clone() };
    let runtime = builder().source(source).build().await.expect("a runtime");
    let stub = soon(runtime.deploy_protostub("sp1.example")).await.expect("a stub");
    publish(&documents, "sp1.example", "1.1", &component("actor"), json!({}));
    fuse.turn_on();
    let error = in_full(&soon(Box::pin(stub.update())).await.expect_err("the task is lost"));
    assert!(error.contains("ended unexpectedly") && error.contains("the fuse blew"), "{error}");
    fuse.turn_off();
    soon(Box::pin(stub.update())).await.expect("updated");
    ends_in_order(&runtime).await;
}

#[derive(Debug)]
struct PanickingResolver(Fuse);

#[async_trait]
impl Resolver for PanickingResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.burn();
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

#[tokio::test]
async fn resolver_that_panics_fails_the_deployment() {
    let actor = component("actor");
    let descriptor = descriptor(&actor, json!({})).to_json();
    let server = serve(vec![
        ("/.well-known/protostub/default", ok("application/json", descriptor.as_bytes())),
        ("/.well-known/protostub/component.wasm", ok("application/wasm", &actor)),
    ])
    .await;
    let port = server.as_str().rsplit_once(':').expect("a port").1;
    let target = format!("sp1.example:{port}");
    check_at(&target, Effect::Error("`Resolver::resolve` panicked: the fuse blew"), |builder, fuse| {
        let mut settings = DomainSettings::default();
        settings.allow_loopback = true;
        builder.allow_http(true).domain(domain(&target), settings).resolver(PanickingResolver(fuse.clone()))
    })
    .await;
}

/// A provider one function of which panics.
struct PanickingProvider {
    forget_panics: bool,
    fuse: Fuse,
}

#[async_trait]
impl CredentialProvider for PanickingProvider {
    async fn credential(&self, _: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        if !self.forget_panics {
            self.fuse.burn();
        }
        Ok(Some(bearer(if self.forget_panics && !self.fuse.is_off() { "wrong" } else { "right" })))
    }

    fn forget(&self, _: &Domain) {
        if self.forget_panics {
            self.fuse.burn();
        }
    }
}

#[tokio::test]
async fn provider_that_panics_fails_the_login() {
    check(Effect::Error("`CredentialProvider::credential` panicked: the fuse blew"), |builder, fuse| {
        builder.credentials(PanickingProvider { forget_panics: false, fuse: fuse.clone() })
    })
    .await;
}

#[tokio::test]
async fn provider_that_panics_in_forget_has_no_effect() {
    check(Effect::Error("the server does not know"), |builder, fuse| {
        builder.credentials(PanickingProvider { forget_panics: true, fuse: fuse.clone() })
    })
    .await;
}

#[tokio::test]
async fn progress_that_panics_has_no_effect() {
    check(Effect::None, |builder, fuse| {
        let fuse = fuse.clone();
        builder.progress(move |_, _| fuse.burn())
    })
    .await;
}

#[tokio::test]
async fn crash_callback_that_panics_has_no_effect() {
    check(Effect::None, |builder, fuse| {
        let fuse = fuse.clone();
        builder.on_crash(move |_, _| fuse.burn())
    })
    .await;
}

struct PanickingPolicy(Fuse);

impl Policy for PanickingPolicy {
    fn decide(&self, _: &Hop<'_>) -> Decision {
        self.0.burn();
        Decision::Permit
    }
}

/// The sender does not get the panic's message: it may be a stub.
#[tokio::test]
async fn policy_that_panics_refuses_the_message() {
    check(Effect::Error("the policy failed to decide on the message"), |builder, fuse| {
        builder.policy(PanickingPolicy(fuse.clone()))
    })
    .await;
}

/// The part of an import that panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImportPart {
    Data,
    Linker,
    Function,
}

/// The store that the stub `key-value` imports. One part of it panics.
struct PanickingImport {
    part: ImportPart,
    fuse: Fuse,
}

impl HostImport for PanickingImport {
    const INTERFACE: &'static str = "acme:store/kv@1.0.0";
    type Data = ();

    fn data(&self, _: &StubInfo) {
        if self.part == ImportPart::Data {
            self.fuse.burn();
        }
    }

    fn add_to_linker(
        &self,
        linker: &mut wasmtime::component::Linker<StubState>,
        _: fn(&mut StubState) -> &mut (),
    ) -> wasmtime::Result<()> {
        if self.part == ImportPart::Linker {
            self.fuse.burn();
        }
        let mut store = linker.instance(Self::INTERFACE)?;
        store.func_wrap("set", |_, _: (String, String)| Ok((Ok::<(), String>(()),)))?;
        let (part, fuse) = (self.part, self.fuse.clone());
        store.func_wrap("get", move |_, _: (String,)| {
            if part == ImportPart::Function {
                fuse.burn();
            }
            Ok((None::<String>,))
        })
    }
}

fn granted() -> DomainSettings {
    let mut settings = DomainSettings::default();
    settings.imports.insert(PanickingImport::INTERFACE.to_owned());
    settings
}

#[tokio::test]
async fn import_whose_data_panics_fails_the_start() {
    check(Effect::Error("`HostImport::data` panicked: the fuse blew"), |builder, fuse| {
        let import = PanickingImport { part: ImportPart::Data, fuse: fuse.clone() };
        builder.host_import(import).domain(domain("sp1.example"), granted())
    })
    .await;
}

#[tokio::test]
async fn import_function_that_panics_ends_its_stub() {
    let fuse = Fuse::new(When::Second);
    let stubs = source(&["sp1.example", "sp2.example"], &component("key-value"), &json!({}));
    let import = PanickingImport { part: ImportPart::Function, fuse: fuse.clone() };
    let builder = builder().source(stubs).host_import(import).connect_timeout(LONG).request_timeout(LONG);
    let builder = builder.domain(domain("sp1.example"), granted()).domain(domain("sp2.example"), granted());
    let TestRuntime { runtime, app } = TestRuntime::start(builder).await;
    let read = |name: &str| app.request(order(&format!("hyperty://{name}/x"), json!("colour")));
    assert_eq!(soon(read("sp2.example")).await.expect("a reply").code(), Some(200));
    let stub = soon(runtime.deploy_protostub("sp1.example")).await.expect("a stub");
    assert_eq!(soon(read("sp1.example")).await.expect_err("the stub ends").code, 502);
    let last = soon(stub.watch().until(|report| report.status == StubStatus::Failed)).await;
    assert!(last.reason.expect("a reason").contains("the fuse blew"));
    soon(stub.until_live()).await.expect_err("the stub has ended, and its key is free");
    assert_eq!(soon(read("sp2.example")).await.expect("a reply").code(), Some(200));
    let again = soon(runtime.deploy_protostub("sp1.example")).await.expect("another stub");
    assert_eq!(soon(read("sp1.example")).await.expect("a reply").code(), Some(200));
    drop(again);
    ends_in_order(&runtime).await;
}

/// The interface is linked once when the runtime starts, and once for each component.
#[tokio::test]
async fn import_that_panics_at_a_later_link_fails_the_compile() {
    let fuse = Fuse::new(When::Second);
    let import = PanickingImport { part: ImportPart::Linker, fuse: fuse.clone() };
    let stubs = source(&["sp1.example"], &component("key-value"), &json!({}));
    let runtime = builder().source(stubs).host_import(import).domain(domain("sp1.example"), granted()).build().await;
    let runtime = runtime.expect("a runtime");
    let error = in_full(&soon(runtime.deploy_protostub("sp1.example")).await.expect_err("the link fails"));
    assert!(error.contains("`HostImport::add_to_linker` panicked: the fuse blew"), "{error}");
    soon(runtime.deploy_protostub("sp1.example")).await.expect("a stub");
    ends_in_order(&runtime).await;
}

struct PanickingCheck;

#[async_trait]
impl CredentialProvider for PanickingCheck {
    async fn credential(&self, _: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }

    fn check(&self) -> Result<(), CredentialError> {
        panic!("the fuse blew");
    }
}

#[tokio::test]
async fn build_with_a_hook_that_panics_is_an_error() {
    let check = async |builder: RuntimeBuilder, hook: &str| {
        let error = in_full(&soon(builder.build()).await.expect_err("the build fails"));
        assert!(error.contains(&format!("`{hook}` panicked: the fuse blew")), "{error}");
    };
    let import = PanickingImport { part: ImportPart::Linker, fuse: Fuse::new(When::First) };
    check(builder().host_import(import), "HostImport::add_to_linker").await;
    check(builder().credentials(PanickingCheck), "CredentialProvider::check").await;
}

/// A waker of the host program's executor that panics.
struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("the fuse blew");
    }
}

/// No call of a hook can catch this panic: it ends the supervisor's task.
#[tokio::test]
async fn supervisor_whose_task_is_lost_frees_its_key() {
    let stubs = source(&["sp1.example"], &component("actor"), &json!({}));
    let builder = builder().source(stubs).retire_after(Retire::Never).connect_timeout(LONG);
    let TestRuntime { runtime, app } = TestRuntime::start(builder).await;
    let stub = soon(runtime.deploy_protostub("sp1.example")).await.expect("a stub");
    soon(stub.disconnect()).await.expect("disconnected");
    let mut changes = runtime.status_changes();
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert!(changes.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    // The next status is the supervisor's.
    let gone = in_full(&soon(stub.undeploy()).await.expect_err("the task is lost"));
    assert!(gone.contains("the stub's task ended unexpectedly"), "{gone}");
    soon(stub.connect()).await.expect_err("the stub has ended");
    assert!(runtime.protostubs().is_empty());
    soon(runtime.deploy_protostub("sp1.example")).await.expect("another stub");
    let reply = soon(app.request(order("hyperty://sp1.example/alice", json!({ "n": 1 })))).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
    ends_in_order(&runtime).await;
}
