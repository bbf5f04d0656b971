//! Tests of honest sample stubs at half of each limit. The limits come from the table in
//! `SECURITY.md` and the example settings, so a new limit joins the test without a change here.

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, stream};
use protostub_cli::builder_from_settings;
use protostub_domain::DomainServer;
use protostub_runtime::{Hyperty, MemorySource, Message, MessageType, Runtime, RuntimeBuilder, StubStatus};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    mosquitto::{HOST, Mosquitto},
    mqtt::tcp,
    support::{code_dir, component, descriptor, domain, source},
    two_runtimes::{app, server_with},
};

const SECURITY: &str = include_str!("../../SECURITY.md");
const EXAMPLE: &str = include_str!("../../crates/protostub-cli/protostub.example.toml");

/// Number of messages in each session.
const MESSAGES: u64 = 50;
/// Time limit of a message, including the deployment before it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of limits that are tested at a time.
const AT_A_TIME: usize = 4;

/// A limit at half of its default, by its key in a settings file.
#[derive(Debug, Clone, PartialEq)]
struct Half {
    key: String,
    value: i64,
    /// Table of the key: `limits` of a stub, or `cache` or `totals` of the runtime.
    table: &'static str,
}

/// Returns half of each limit for which the table in the document states a default.
fn halves() -> Vec<Half> {
    let (_, limits) = SECURITY.split_once("\n## Limits\n").expect("limits");
    let limits = limits.split("\n## ").next().unwrap_or_default();
    let example: toml::Table = EXAMPLE.parse().expect("an example");
    let mut halves = Vec::new();
    for line in limits.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (key, rest) = line.split_once("` | ").expect("a key and its default");
        let default = rest.split(" | ").next().unwrap_or_default().replace(' ', "");
        let Ok(default) = default.parse::<i64>() else { continue };
        let table = ["limits", "cache", "totals"].into_iter().find(|table| example[*table].get(key).is_some());
        let table = table.unwrap_or_else(|| panic!("the example settings have no `{key}`"));
        halves.push(Half { key: key.to_owned(), value: (default / 2).max(1), table });
    }
    halves
}

/// Returns a builder of a runtime with these limits, as a settings file would state them.
fn builder(home: &str, halves: &[Half], more: &str) -> RuntimeBuilder {
    let mut settings =
        format!("home = '{home}'\nallow-loopback = true\ncompile-in-process = true\nrequest-timeout-seconds = 60\n");
    for Half { key, value, table } in halves {
        settings += &format!("{table}.{key} = {value}\n");
    }
    settings += more;
    builder_from_settings(&settings).unwrap_or_else(|error| panic!("{error}\n{settings}")).code_dir(code_dir())
}

/// Checks that all stubs of a runtime are live, in their first instances.
async fn check(runtime: &Runtime, what: &str) {
    let stubs = runtime.protostubs();
    assert!(!stubs.is_empty(), "{what}: no stub is deployed");
    for stub in stubs {
        timeout(PATIENCE, stub.until_live()).await.expect("a status").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Live, 0), "{what}: {:?}", stub.limits_hit());
    }
}

/// Sends messages to an echo, some at a time.
async fn echo(halves: &[Half]) {
    let source = source(&["sp1.example"], &component("echo"), &Value::Null);
    let runtime = builder("home.example", halves, "").source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let ask = |n| {
        let question =
            Message::read("hyperty://sp1.example/alice".parse().unwrap()).with_body(json!({ "n": n, "text": "x".repeat(1_000) }));
        app.request_within(question, PATIENCE)
    };
    for answer in join_all((0..MESSAGES).map(ask)).await {
        assert_eq!(answer.unwrap_or_else(|error| panic!("{halves:?}: {error}")).code(), Some(200), "{halves:?}");
    }
    check(&runtime, &format!("the echo with {halves:?}")).await;
}

/// Sends messages from one runtime to another one, over the message node of a domain.
async fn message_node(halves: &[Half]) {
    let (server, _folder) = server_with(protostub_domain::Limits::default()).await;
    let runtime = async |server: &DomainServer| builder(server.domain().as_str(), halves, "").build().await.expect("a runtime");
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let (alice_app, mut bob_app) = tokio::join!(app(&alice, &server), app(&bob, &server));
    let to = bob_app.address().clone();
    let answering = async {
        for _ in 0..MESSAGES {
            let message = bob_app.recv().await.expect("a message");
            let n: Value = message.body.as_ref().expect("a body").parse().expect("JSON");
            bob_app.post(message.response(200, Some(n))).expect("accepted");
        }
    };
    let ask = |n| alice_app.request_within(Message::read(to.clone()).with_body(json!({ "n": n })), PATIENCE);
    let (answers, ()) = tokio::join!(join_all((0..MESSAGES).map(ask)), answering);
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap_or_else(|error| panic!("{halves:?}: {error}"));
        let body: Value = answer.body.as_ref().expect("a body").parse().expect("JSON");
        assert_eq!((answer.code(), &body["value"]["n"]), (Some(200), &json!(n)));
    }
    for runtime in [&alice, &bob] {
        check(runtime, &format!("the message node's stub with {halves:?}")).await;
    }
}

/// Publishes to a topic of a broker, and receives the messages from its subscription.
async fn mqtt(halves: &[Half]) {
    let broker = Mosquitto::start().await.expect("a broker");
    let stub = component("mqtt");
    let source = MemorySource::new();
    source.insert(&domain(HOST), &format!("mqtt.{HOST}"), descriptor(&stub, tcp(&broker)).to_json(), stub);
    let grant = format!("[domains.'{HOST}']\ngrants = ['{HOST}:{} plain']\n", broker.tcp);
    let runtime = builder("home.example", halves, &grant).source(source).build().await.expect("a runtime");
    let mut app: Hyperty = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let topic = format!("mqtt://{HOST}/room/1");
    let published = (0..MESSAGES).map(|n| Message::create(topic.parse().unwrap()).with_body(json!({ "n": n })));
    for message in [Message::subscribe(topic.parse().unwrap())].into_iter().chain(published) {
        let answer = app.request_within(message, PATIENCE).await;
        assert_eq!(answer.unwrap_or_else(|error| panic!("{halves:?}: {error}")).code(), Some(200), "{halves:?}");
    }
    for n in 0..MESSAGES {
        let message = timeout(PATIENCE, app.recv()).await.expect("an update").expect("an update");
        let body: Value = message.body.as_ref().expect("a body").parse().expect("JSON");
        assert_eq!((&message.kind, body), (&MessageType::Update, json!({ "n": n })));
    }
    check(&runtime, &format!("the stub of MQTT with {halves:?}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_stubs_at_half_of_each_limit_work() {
    let halves = halves();
    assert!(halves.len() > 25, "{halves:?}");
    // All limits at once leave the least room. Each limit alone detects a dependency on another
    // limit.
    tokio::join!(echo(&halves), message_node(&halves), mqtt(&halves));
    let each = stream::iter(&halves).map(|half| echo(std::slice::from_ref(half)));
    each.buffer_unordered(AT_A_TIME).collect::<()>().await;
}
