//! Tests of retirement: an idle stub has no sandbox until its next use, and its senders need no
//! change.

use std::time::Duration;

use futures_util::future::join_all;
use protostub_runtime::{
    DeployErrorKind, DomainSettings, Hyperty, Message, MessageType, Protostub, Retire, Runtime, RuntimeBuilder, StatusReport,
    StubStatus, Updated,
};
use protostub_sandbox::SandboxError;
use serde_json::{Value, json};

use crate::support::{TestRuntime, body, builder, component, domain, follow, order, publish, source};

const ALICE: &str = "hyperty://sp1.example/alice";
const OBSERVER: &str = "hyperty://home.example/observer";
const NAMES: [&str; 4] = ["sp1.example", "sp2.example", "sp3.example", "sp4.example"];
/// Short enough to retire every idle stub.
const AT_ONCE: Duration = Duration::from_millis(1);

async fn runtime(builder: RuntimeBuilder) -> (Runtime, Hyperty) {
    TestRuntime::of_actors(builder, &NAMES, &json!({ "observer": OBSERVER })).await.into_parts()
}

async fn value(app: &Hyperty, to: &str, what: Value) -> Value {
    follow(app, to, what).await.expect("code 200")
}

async fn retired(stub: &Protostub) -> StatusReport {
    stub.watch().until(is_retired).await
}

fn is_retired(report: &StatusReport) -> bool {
    report.status == StubStatus::Disconnected
        && report.reason.as_ref().is_some_and(|reason| reason.starts_with("the stub was idle"))
}

#[tokio::test]
async fn idle_stub_is_retired_until_the_next_message() {
    let (runtime, app) = runtime(builder().retire_after(Duration::from_secs(1))).await;
    let mut observer = runtime.register_hyperty(OBSERVER).await.expect("a hyperty");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let topic = stub.url().expect("a URL").join("status").expect("an address");
    observer.subscribe(topic.clone()).await.expect("subscribed");
    value(&app, ALICE, json!({ "do": "save", "bytes": 3 })).await;
    let (url, sandbox) = (stub.url().cloned(), stub.sandbox_url().cloned());

    assert_eq!(retired(&stub).await.reason.as_deref(), Some("the stub was idle, and starts again with the next message"));
    assert_eq!(value(&app, ALICE, json!({ "do": "load" })).await, json!(3), "what it saved is still there");
    assert_eq!((stub.url().cloned(), stub.sandbox_url().cloned(), stub.restarts()), (url, sandbox, 1));

    let (mut statuses, mut goodbyes) = (Vec::new(), 0);
    while statuses.last().map(String::as_str) != Some("LIVE") || !statuses.iter().any(|status| status == "DISCONNECTED") {
        let message = observer.recv().await.expect("a message");
        if message.to == topic {
            statuses.push(body(&message)["value"].as_str().expect("a value").to_owned());
        } else if body(&message) == json!({ "disconnect": "idle" }) {
            goodbyes += 1;
        }
    }
    statuses.dedup();
    assert_eq!((statuses, goodbyes), (["LIVE", "DISCONNECTED", "CREATED", "IN-PROGRESS", "LIVE"].map(str::to_owned).into(), 1));
    assert_eq!(runtime.counts().open, 0);
}

#[tokio::test]
async fn message_during_retirement_is_not_lost() {
    let (runtime, app) = runtime(builder().retire_after(AT_ONCE)).await;
    let mut observer = runtime.register_hyperty(OBSERVER).await.expect("a hyperty");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let told = |n: u64| json!({ "do": "post", "to": OBSERVER, "body": { "n": n } });
    for n in 0..200 {
        // The first message of each two arrives at any moment, the second one after the retirement.
        if n % 2 == 1 {
            retired(&stub).await;
        }
        app.post(Message::new(MessageType::Update, ALICE.parse().unwrap()).with_body(told(n))).expect("a place in the queue");
        assert_eq!(value(&app, ALICE, json!({ "do": "echo", "n": n })).await["n"], json!(n));
    }
    let mut heard = Vec::new();
    while heard.len() < 200 {
        let message = observer.recv().await.expect("a message");
        heard.extend(body(&message)["n"].as_u64());
    }
    assert_eq!(heard, (0..200).collect::<Vec<_>>());
    assert!(stub.restarts() >= 100, "{}", stub.restarts());
}

/// `connect` wakes it too. Disconnect, undeploy and shutdown also work on a retired stub.
#[tokio::test]
async fn deploy_wakes_a_retired_stub() {
    let (runtime, app) = runtime(builder().retire_after(AT_ONCE)).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    retired(&stub).await;
    let again = runtime.deploy_protostub("sp1.example").await.expect("the same stub");
    assert_eq!((again.url(), stub.restarts()), (stub.url(), 1));
    retired(&stub).await;
    let mut status = stub.watch();
    stub.connect().await.expect("a new instance");
    status.until(|report| report.status == StubStatus::Live).await;

    // A disconnected stub does not restart for a message.
    retired(&stub).await;
    stub.disconnect().await.expect("disconnected");
    let refused = app.request(order(ALICE, json!({ "do": "load" }))).await.expect_err("it is disconnected");
    assert!(refused.code == 503 && refused.reason.contains("told to disconnect"), "{refused}");
    stub.connect().await.expect("a new instance");
    value(&app, ALICE, json!({ "do": "load" })).await;

    retired(&stub).await;
    stub.undeploy().await.expect("undeployed");
    assert_eq!(runtime.protostubs().len(), 0);
    let stub = runtime.deploy_protostub("sp1.example").await.expect("another stub");
    retired(&stub).await;
    let shutdown = runtime.shutdown(Duration::from_secs(60)).await;
    assert_eq!((shutdown.stopped.len(), shutdown.abandoned.len()), (1, 0));
}

#[tokio::test]
async fn retired_stub_is_updated() {
    let actor = component("actor");
    let source = source(&["sp1.example"], &actor, &Value::Null);
    let runtime = builder().retire_after(AT_ONCE).source(source.clone()).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    value(&app, ALICE, json!({ "do": "save", "bytes": 3 })).await;
    retired(&stub).await;
    publish(&source, "sp1.example", "1.1", &actor, Value::Null);
    assert!(matches!(stub.update().await.expect("an update"), Updated::Updated { .. }));
    assert_eq!(stub.version().expect("a version").to_string(), "1.1");
    assert_eq!(value(&app, ALICE, json!({ "do": "load" })).await, json!(3));
}

#[tokio::test]
async fn more_stubs_than_sandboxes_take_turns() {
    let (_runtime, app) = runtime(builder().max_sandboxes(2)).await;
    let address = |name: &str| format!("hyperty://{name}/x");
    for round in 1..=2 {
        let asked = join_all(NAMES.iter().enumerate().map(|(n, name)| {
            let (app, address) = (&app, address(name));
            async move {
                let saved = value(app, &address, json!([{ "do": "load" }, { "do": "save", "bytes": 10 * round + n }])).await;
                assert_eq!(saved[0], if round == 1 { Value::Null } else { json!(10 + n) }, "{name}");
            }
        }));
        asked.await;
    }
}

/// A stub with `Retire::Never` keeps its sandbox too.
#[tokio::test]
async fn pending_request_prevents_retirement() {
    let keep = DomainSettings::new().retire_after(Retire::Never);
    let (runtime, mut app) = runtime(builder().max_sandboxes(2).domain(domain("sp3.example"), keep)).await;
    for name in ["sp1.example", "sp3.example"] {
        runtime.deploy_protostub(name).await.expect("a stub");
    }
    // One stub has a pending request. The other one is never retired.
    app.post(order(ALICE, json!({ "do": "keep" }))).expect("a place in the queue");
    let error = runtime.deploy_protostub("sp2.example").await.expect_err("there is no room");
    let is_full = |error: &SandboxError| matches!(error, SandboxError::TooMany { limit: 2 });
    assert!(matches!(&error.kind, DeployErrorKind::Sandbox(error) if is_full(error)), "{error:?}");

    value(&app, ALICE, json!({ "do": "answer-kept" })).await;
    assert_eq!(app.recv().await.expect("the answer").code(), Some(200));
    runtime.deploy_protostub("sp2.example").await.expect("now there is");
    // The room is free a moment before the status is published.
    let stubs = runtime.protostubs();
    retired(stubs.iter().find(|stub| stub.domain().as_str() == "sp1.example").expect("it is still deployed")).await;
    let all_retired: Vec<_> = stubs.iter().filter(|stub| is_retired(&stub.status())).map(|stub| stub.domain().as_str()).collect();
    assert_eq!(all_retired, ["sp1.example"]);
}
