//! Tests of the conformance kit: the sample stubs pass, and no case passes by accident, because
//! each case has a subject that fails it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use protostub_conformance::{
    Report, Verdict, node,
    runtime::{self, Catalogue, LoadGoal, LoadedStub, Refusal, RuntimeSubject, Runtimes},
    stub::{self, Server, StubSuite, Timeouts},
};
use protostub_domain::DomainServer;
use protostub_runtime::Message;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Message as Frame};

use crate::support::{code_dir, component};

/// Time limit for a misfit to become live or to report its failure.
const LITTLE: Duration = Duration::from_secs(15);
/// Number of subjects that are tested at a time.
const AT_A_TIME: usize = 6;

fn suite() -> StubSuite {
    StubSuite::new(None, None).expect("an engine")
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

/// Returns the stub with the single fault that this case must find.
async fn misfit(case: &str) -> stub::StubSubject {
    if case == "stub/ready/byte-by-byte" {
        return misfit_of_lines(case).await;
    }
    stub::StubSubject::new(case, component("misfit"), object(json!({ "url": "${ws-url}", "fault": case })))
}

/// Returns the same with its own server, which allows more faults.
async fn misfit_of_lines(case: &str) -> stub::StubSubject {
    let mut subject =
        stub::StubSubject::new(case, component("misfit"), object(json!({ "url": "tcp://${authority}", "fault": case })));
    subject.server = Server::At(lines().await);
    subject
}

/// Starts a server on loopback that sends `hello`, and sends each line back.
async fn lines() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let mut lines = BufReader::new(reader).split(b'\n');
                let mut line = b"hello".to_vec();
                loop {
                    line.push(b'\n');
                    if writer.write_all(&line).await.is_err() {
                        return;
                    }
                    match lines.next_segment().await {
                        Ok(Some(next)) => line = next,
                        _ => return,
                    }
                }
            });
        }
    });
    address
}

/// Returns a subject that fails a case before any of its code runs.
fn no_stub(case: &str) -> Option<stub::StubSubject> {
    let of_other_types = r#"(component
        (import "rethink:protostub/log@0.1.0" (instance (export "write" (func (param "text" string)))))
        (core module $code (func (export "f")))
        (core instance $instance (instantiate $code))
        (func $f (canon lift (core func $instance "f")))
        (instance $stub (export "start" (func $f)) (export "handle" (func $f)))
        (export "rethink:protostub/stub@0.1.0" (instance $stub)))"#;
    let component = match case {
        "stub/contract/component" => b"<html>".to_vec(),
        "stub/contract/exports" => wat::parse_str("(component)").expect("a component"),
        "stub/contract/imports" => component("key-value"),
        "stub/contract/types" => wat::parse_str(of_other_types).expect("a component"),
        _ => return None,
    };
    Some(stub::StubSubject::new(case, component, Map::new()))
}

async fn subject_that_fails(case: &str) -> stub::StubSubject {
    match no_stub(case) {
        Some(subject) => subject,
        None => misfit(case).await,
    }
}

fn failed(report: &Report) -> Vec<&'static str> {
    let failed = report.outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Fail { .. }));
    failed.map(|outcome| outcome.case.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_stubs_pass_the_conformance_kit() {
    let suite = suite();
    let subjects = [
        stub::StubSubject::new("echo", component("echo"), Map::new()),
        stub::StubSubject::new("message-node", component("message-node"), object(json!({ "url": "${ws-url}" }))),
        stub::StubSubject::new(
            "message-node, NoMatrix",
            component("message-node"),
            object(json!({ "url": "${nomatrix-url}", "flavour": "nomatrix" })),
        ),
        misfit("").await,
        misfit_of_lines("").await,
    ];
    for subject in subjects {
        let report = suite.run(&subject).await;
        assert_eq!(failed(&report), [""; 0], "{}", report.to_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stub_case_fails_for_some_stub() {
    let suites = StubSuite::cases().map(|case| async move {
        let report = suite_of(case.id).run(&subject_that_fails(case.id).await).await;
        assert_eq!(failed(&report), [case.id], "{}", report.to_text());
    });
    stream::iter(suites).buffer_unordered(AT_A_TIME).collect::<()>().await;
}

#[test]
fn authors_guide_has_advice_for_every_case() {
    let guide = include_str!("../../stubs/README.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `stub/")?.strip_suffix(" |")?.split_once("` | "));
    let told: Vec<_> = rows.map(|(id, rest)| (format!("stub/{id}"), rest.split(" | ").count())).collect();
    let wanted: Vec<_> = StubSuite::cases().map(|case| (case.id.to_owned(), 2)).collect();
    assert_eq!(told, wanted);
}

fn suite_of(case: &str) -> StubSuite {
    suite().only([case.to_owned()])
}

/// Checks that no case finds the fault of another case. A case does not apply where another fault
/// prevents its decision.
#[tokio::test(flavor = "multi_thread")]
async fn every_misfit_fails_exactly_its_own_case() {
    let mut timeouts = Timeouts::default();
    (timeouts.live, timeouts.outage) = (LITTLE, LITTLE);
    let suite = &suite().timeouts(timeouts);
    let suites = StubSuite::cases().map(|case| async move {
        let report = suite.run(&subject_that_fails(case.id).await).await;
        (failed(&report) != [case.id]).then(|| report.to_text())
    });
    let others: Vec<_> = stream::iter(suites).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await;
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn development_message_node_passes_the_conformance_kit() {
    let server = DomainServer::builder().start().await.expect("a server");
    let node = node::Node::new(format!("ws://{}/ws", server.address()), Some(server.domain().to_string()));
    let report = node::NodeSuite::new().run(&node).await;
    assert_eq!(failed(&report), [""; 0], "{}", report.to_text());
    assert_eq!(report.tally().skipped, 0, "{}", report.to_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_case_fails_for_some_message_node() {
    let suites = node::NodeSuite::cases().map(|case| async move {
        let server = DomainServer::builder().start().await.expect("a server");
        let url = bad_node(&server, case.id).await;
        let node = node::Node::new(url, Some(server.domain().to_string()));
        let report = node::NodeSuite::new().only([case.id.to_owned()]).run(&node).await;
        assert_eq!(failed(&report), [case.id], "{}", report.to_text());
    });
    stream::iter(suites).buffer_unordered(AT_A_TIME).collect::<()>().await;
}

/// Treatment of a client's message by a bad message node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Forwards the message and its answer.
    Good,
    /// Answers that the operation failed.
    Refuses,
    /// Forwards the message, and answers that the operation succeeded.
    Affirms,
    /// Answers that the operation succeeded, and does nothing.
    Pretends,
    /// Loses the message.
    Loses,
}

/// Returns the treatment of a message by the message node with the fault that this case must find.
fn treatment(case: &str, message: &Value) -> Treatment {
    use Treatment::{Affirms, Good, Loses, Pretends, Refuses};
    let (kind, body) = (message["type"].as_str().unwrap_or_default(), &message["body"]);
    let to = message["to"].as_str().unwrap_or_default();
    let is_allocation = to.ends_with("/address-allocation");
    let of_object = body["scheme"] == "fake";
    let (block, keyed) = (body["value"]["number"] == 3, body["value"].get("allocationKey").is_some());
    let (of_registry, has) = (to.starts_with("domain://registry."), |name: &str| body["criteria"].get(name).is_some());
    let by_user = body["resource"].as_str().is_some_and(|resource| resource.starts_with("user:"));
    let read = of_registry && kind == "read";
    let (matches, how) = match case {
        "node/connect/open" => (kind == "open", Refuses),
        "node/connect/re-open" => (kind == "re-open", Refuses),
        "node/connect/wrong-token" => (kind == "re-open", Affirms),
        "node/connect/close" => (kind == "close", Loses),
        "node/connect/ping" => (kind == "ping", Loses),
        "node/allocation/hyperty-single" => (is_allocation && kind == "create" && !of_object && !block, Refuses),
        "node/allocation/hyperty-block" => (is_allocation && kind == "create" && !of_object && block && !keyed, Refuses),
        "node/allocation/hyperty-key" => (is_allocation && kind == "create" && !of_object && keyed, Refuses),
        "node/allocation/object-single" => (is_allocation && kind == "create" && of_object && !block, Refuses),
        "node/allocation/object-block" => (is_allocation && kind == "create" && of_object && block && !keyed, Refuses),
        "node/allocation/object-key" => (is_allocation && kind == "create" && of_object && keyed, Refuses),
        "node/release/hyperty-single" => (is_allocation && kind == "delete", Refuses),
        case if case.starts_with("node/release/") => (is_allocation && kind == "delete", Pretends),
        "node/subscription/subscribe" => (kind == "subscribe" && body.get("source").is_none(), Refuses),
        "node/subscription/source" => (kind == "subscribe" && body.get("source").is_some(), Refuses),
        "node/subscription/fan-out" => (kind == "update", Loses),
        "node/subscription/subscriber-only" => (kind == "ping" && !to.ends_with("/fence"), Loses),
        "node/subscription/unsubscribe" => (kind == "unsubscribe", Refuses),
        "node/subscription/no-more" => (kind == "unsubscribe", Pretends),
        "node/registration/register" => (of_registry && kind == "create", Refuses),
        "node/registration/by-user" => (read && by_user && body.get("criteria").is_none(), Refuses),
        "node/registration/by-scheme" => (read && has("dataSchemes") && !has("resources"), Refuses),
        "node/registration/by-resources" => (read && has("resources") && !has("dataSchemes"), Refuses),
        "node/registration/by-both" => (read && has("resources") && has("dataSchemes"), Refuses),
        "node/registration/by-url" => (read && !by_user, Refuses),
        "node/registration/missing" => (read, Affirms),
        "node/registration/keep-alive" => (of_registry && kind == "update" && body.get("value").is_none(), Refuses),
        "node/registration/status" => (of_registry && kind == "update" && body.get("value").is_some(), Pretends),
        "node/registration/unregister" => (of_registry && kind == "delete", Pretends),
        _ => (false, Good),
    };
    if matches { how } else { Good }
}

/// Starts a proxy in front of a message node, with the fault that this case must find. Returns its
/// URL.
async fn bad_node(server: &DomainServer, case: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("an address"));
    let good = format!("ws://{}/ws", server.address());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(treat(client, good.clone(), case));
        }
    });
    url
}

async fn treat(client: TcpStream, good: String, case: &'static str) {
    let mut client = accept_async(client).await.expect("a WebSocket");
    let (mut node, _) = connect_async(good).await.expect("the message node");
    // Ids of requests whose answers are changed, with the changed code.
    let mut changed = Vec::<(Value, u16)>::new();
    loop {
        let done = tokio::select! {
            Some(Ok(frame)) = client.next() => {
                let message: Value = frame.to_text().ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                let answer = |code: u16| {
                    let body = json!({ "code": code });
                    json!({ "id": message["id"], "type": "response", "from": message["to"], "to": message["from"], "body": body })
                };
                match treatment(case, &message) {
                    Treatment::Good => node.send(frame).await,
                    Treatment::Refuses => { changed.push((message["id"].clone(), 500)); node.send(frame).await }
                    Treatment::Affirms => { changed.push((message["id"].clone(), 200)); node.send(frame).await }
                    Treatment::Pretends => client.send(Frame::text(answer(200).to_string())).await,
                    Treatment::Loses => Ok(()),
                }
            }
            Some(Ok(frame)) = node.next() => {
                let mut message: Value = frame.to_text().ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                let code = changed.iter().find(|(id, _)| *id == message["id"] && message["type"] == "response").map(|(_, code)| *code);
                match code {
                    Some(code) => { message["body"]["code"] = code.into(); client.send(Frame::text(message.to_string())).await }
                    None => client.send(frame).await,
                }
            }
            else => return,
        };
        if done.is_err() {
            return;
        }
    }
}

fn this_runtime() -> runtime::ThisRuntime {
    let mut this = runtime::ThisRuntime::default();
    this.code_dir = Some(code_dir());
    this
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_passes_the_conformance_kit() {
    let report = runtime::RuntimeSuite::new(&component("actor")).run("this one", Arc::new(this_runtime())).await;
    assert_eq!(failed(&report), [""; 0], "{}", report.to_text());
}

/// Cases that do not apply to a runtime of this kind are excluded.
#[tokio::test(flavor = "multi_thread")]
async fn every_applicable_runtime_case_fails_for_some_runtime() {
    let suites = runtime::RuntimeSuite::cases().map(|case| async move {
        let suite = runtime::RuntimeSuite::new(&component("actor")).only([case.id.to_owned()]);
        let report = suite.run("a bad one", Arc::new(BadRuntimes(case.id))).await;
        // `runtime/C1` is also a prefix of `runtime/C16`.
        let is_shown = report.outcomes.iter().find(|outcome| outcome.case == case).is_some_and(|it| match &it.verdict {
            Verdict::Fail { .. } => true,
            Verdict::NotApplicable { reason } => !reason.contains("could not be prepared"),
            _ => false,
        });
        (!is_shown).then(|| report.to_text())
    });
    let undetected: Vec<_> = stream::iter(suites).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await;
    assert!(undetected.is_empty(), "{}", undetected.join("\n"));
}

/// Runtimes with the fault that this case must find.
struct BadRuntimes(&'static str);

/// A runtime with one fault between it and the host program.
struct BadRuntime {
    good: Box<dyn RuntimeSubject>,
    wrong: Wrong,
    times: AtomicU64,
    loads: AtomicU64,
    held: Mutex<Vec<Message>>,
}

/// Faults of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// No fault.
    Nothing,
    /// There is one sandbox too many.
    Leaks,
    /// The first message is lost.
    Loses,
    /// The first message arrives after the others.
    Swaps,
    /// Each `loadStub` makes another stub.
    Duplicates,
    /// All errors are timeouts.
    TimesOut,
    /// Forbidden requests are answered as if they were permitted.
    Allows,
    /// All stubs share one sandbox.
    Shares,
    /// Stubs have URLs that belong to the runtime.
    Renames,
    /// The first message to the listener is lost.
    Overhears,
    /// The listener gets the responses to others.
    Misdelivers,
    /// A stub always has its first status.
    Sleeps,
    /// Undeployed stubs stay.
    Keeps,
    /// Answers have another sender.
    Confuses,
    /// All addresses count as the same.
    Mistakes,
    /// An update undeploys the stub, and deploys a new one.
    Renews,
    /// No update is ever found.
    Stays,
    /// A stub whose update failed is undeployed.
    GivesUp,
}

fn wrong_with(case: &str) -> Wrong {
    match case {
        "runtime/probe-A" | "runtime/probe-T" | "runtime/probe-H" | "runtime/probe-W" | "runtime/X1" => Wrong::Leaks,
        "runtime/probe-B" => Wrong::Swaps,
        "runtime/probe-V" | "runtime/probe-E" | "runtime/probe-I-K" | "runtime/probe-J" => Wrong::Loses,
        "runtime/probe-U" => Wrong::Leaks,
        "runtime/probe-C" | "runtime/probe-D" | "runtime/L1" => Wrong::Duplicates,
        "runtime/probe-F" | "runtime/probe-G" | "runtime/probe-S" | "runtime/C16" | "runtime/K8" | "runtime/K-missing" => {
            Wrong::TimesOut
        }
        "runtime/probe-L" => Wrong::Allows,
        "runtime/probe-N" => Wrong::Shares,
        "runtime/R1" | "runtime/R7" => Wrong::Renames,
        "runtime/R5" => Wrong::Sleeps,
        "runtime/R6" => Wrong::Duplicates,
        "runtime/R8" => Wrong::Keeps,
        "runtime/C1" | "runtime/X3" => Wrong::Overhears,
        "runtime/B5" | "runtime/K1" | "runtime/K-default" => Wrong::Confuses,
        "runtime/K-unchanged" => Wrong::Renews,
        "runtime/K-bump" => Wrong::Stays,
        "runtime/K-unreachable" => Wrong::GivesUp,
        "runtime/B7" => Wrong::Misdelivers,
        case if case.starts_with("runtime/url/") => Wrong::Mistakes,
        _ => Wrong::Nothing,
    }
}

#[async_trait]
impl Runtimes for BadRuntimes {
    async fn start(&self, catalogue: Catalogue) -> Result<Box<dyn RuntimeSubject>, String> {
        let good = this_runtime().start(catalogue).await?;
        Ok(Box::new(BadRuntime {
            good,
            wrong: wrong_with(self.0),
            times: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            held: Mutex::default(),
        }))
    }
}

impl BadRuntime {
    fn is_first(&self) -> bool {
        self.times.fetch_add(1, Ordering::SeqCst) == 0
    }

    fn spoil(&self, stub: LoadedStub) -> LoadedStub {
        let n = self.loads.fetch_add(1, Ordering::SeqCst);
        match self.wrong {
            Wrong::Duplicates => LoadedStub { url: format!("{}{n}", stub.url), sandbox: format!("{}{n}", stub.sandbox), ..stub },
            Wrong::Shares => LoadedStub { sandbox: "runtime://home.example/sandbox".to_owned(), ..stub },
            Wrong::Renames => LoadedStub { url: "hyperty-runtime://home.example/1".to_owned(), ..stub },
            Wrong::Sleeps => LoadedStub { status: "created".to_owned(), ..stub },
            _ => stub,
        }
    }
}

#[async_trait]
impl RuntimeSubject for BadRuntime {
    fn url(&self) -> String {
        self.good.url()
    }

    async fn load_stub(&self, target: &str, goal: LoadGoal) -> Result<LoadedStub, Refusal> {
        // The good runtime does not know invented URLs.
        let target = if self.wrong == Wrong::Duplicates && target.contains("/protostub/") { "foo.com" } else { target };
        self.good.load_stub(target, goal).await.map(|stub| self.spoil(stub))
    }

    fn stub(&self, domain: &str) -> Option<LoadedStub> {
        self.good.stub(domain).map(|stub| self.spoil(stub))
    }

    async fn wait_for_status(&self, domain: &str, status: &str) {
        self.good.wait_for_status(domain, status).await;
    }

    async fn disconnect(&self, domain: &str) {
        self.good.disconnect(domain).await;
    }

    async fn undeploy(&self, domain: &str) {
        if self.wrong != Wrong::Keeps {
            self.good.undeploy(domain).await;
        }
    }

    async fn update(&self, domain: &str) -> Result<String, Refusal> {
        match self.wrong {
            Wrong::Stays => Ok("1.0".to_owned()),
            Wrong::Renews => {
                self.good.undeploy(domain).await;
                self.good.load_stub(domain, LoadGoal::Live).await.map(|_| "1.0".to_owned())
            }
            _ => {
                let updated = self.good.update(domain).await;
                if self.wrong == Wrong::GivesUp && updated.is_err() {
                    self.good.undeploy(domain).await;
                }
                updated
            }
        }
    }

    fn post(&self, message: Message) -> Result<(), Refusal> {
        match self.wrong {
            Wrong::Loses if self.is_first() => Ok(()),
            Wrong::Swaps if self.is_first() => {
                self.held.lock().expect("a lock").push(message);
                Ok(())
            }
            Wrong::Swaps => {
                self.good.post(message)?;
                self.held.lock().expect("a lock").pop().map_or(Ok(()), |held| self.good.post(held))
            }
            _ => self.good.post(message),
        }
    }

    async fn request(&self, message: Message) -> Result<Message, Refusal> {
        let of_registry = message.to.as_str().ends_with("/registry");
        let answer = self.good.request(message).await;
        match self.wrong {
            Wrong::TimesOut => answer.map_err(|error| Refusal { code: 408, ..error }),
            Wrong::Leaks if of_registry => answer.map(|answer| {
                let mut body = crate::support::body(&answer);
                body["value"]["sandboxes"].as_array_mut().expect("sandboxes").push(json!("one more"));
                answer.with_body(body)
            }),
            Wrong::Allows => answer.map(|answer| {
                let text = crate::support::body(&answer).to_string().replace("denied: ", "ok: ");
                answer.with_body(serde_json::from_str(&text).expect("JSON"))
            }),
            Wrong::Confuses => {
                answer.map(|answer| answer.with_body(json!({ "code": 200, "value": { "n": 0, "colour": "red" } })))
            }
            _ => answer,
        }
    }

    async fn subscribe(&self, address: &str) {
        self.good.subscribe(address).await;
    }

    async fn next(&self) -> Option<Message> {
        if self.wrong == Wrong::Misdelivers && self.is_first() {
            return Some(Message::read("hyperty://home.example/app".parse().unwrap()).error_response(200, "not for you"));
        }
        let next = self.good.next().await;
        if self.wrong == Wrong::Overhears && self.is_first() { self.good.next().await } else { next }
    }

    fn parse_address(&self, address: &str) -> Option<(String, String, String)> {
        match self.wrong {
            Wrong::Mistakes => Some(("x".to_owned(), "x".to_owned(), "x".to_owned())),
            _ => self.good.parse_address(address),
        }
    }
}
