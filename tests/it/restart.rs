//! Tests of restarts: a stub that crashes gets a new instance, and its senders need no change.

use std::time::Duration;

use protostub_runtime::{
    ConnectError, Credential, CredentialKind, Hyperty, MessageType, RestartPolicy, Runtime, RuntimeBuilder, StubGoneReason,
    StubStatus,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::{TestRuntime, body, builder, follow, order};

const ALICE: &str = "hyperty://sp1.example/alice";

/// Returns a policy with pauses of no length.
fn restarts(restarts: u32) -> RestartPolicy {
    let mut policy = RestartPolicy::default();
    policy.restarts = restarts;
    policy.first_pause = Duration::from_millis(1);
    policy.longest_pause = Duration::from_millis(1);
    policy
}

/// Returns a policy under which no restart happens by itself during a test.
fn in_an_hour() -> RestartPolicy {
    let mut policy = RestartPolicy::default();
    policy.first_pause = Duration::from_secs(3600);
    policy.longest_pause = Duration::from_secs(3600);
    policy
}

async fn runtime(builder: RuntimeBuilder, configuration: Value) -> (Runtime, Hyperty) {
    TestRuntime::of_actors(builder, &["sp1.example"], &configuration).await.into_parts()
}

/// Makes the stub crash, and returns when the crash is reported. A sender may crash it only once:
/// after the second time, the stub takes no more of its messages.
async fn crash(app: &Hyperty) {
    let error = app.request(order(ALICE, json!({ "do": "panic", "reason": "no more bytes" }))).await;
    let response = error.expect_err("it crashed");
    assert_eq!((response.code, &*response.reason), (502, "the protocol stub crashed while it had the message"));
}

async fn value(app: &Hyperty, what: Value) -> Value {
    follow(app, ALICE, what).await.expect("code 200")
}

#[tokio::test]
async fn crash_loses_only_messages_that_the_instance_had_taken() {
    let (runtime, mut app) = runtime(builder().restart(restarts(5)), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let (url, sandbox) = (stub.url().cloned(), stub.sandbox_url().cloned());
    let topic = url.as_ref().expect("a URL").join("status").expect("an address");
    app.subscribe(topic.clone()).await.expect("an answer");
    value(&app, json!({ "do": "save", "bytes": 3 })).await;

    crash(&app).await;
    // Messages from now on wait for the next instance.
    assert_eq!(value(&app, json!({ "do": "load" })).await, json!(3));
    assert_eq!((stub.url().cloned(), stub.sandbox_url().cloned(), stub.restarts()), (url, sandbox, 1));
    assert_eq!(runtime.protostubs().len(), 1);
    let crash = stub.last_crash().expect("a report");
    assert!(crash.message.as_ref().is_some_and(|message| message.contains("no more bytes")), "{crash:?}");

    let mut statuses = Vec::new();
    while statuses.last().map(String::as_str) != Some("LIVE") || statuses.len() < 2 {
        let message = app.recv().await.expect("a status");
        assert_eq!(message.to, topic);
        statuses.push(body(&message)["value"].as_str().expect("a value").to_owned());
        // A subscription during a publication gets that status twice.
        statuses.dedup();
    }
    assert_eq!(statuses, ["LIVE", "DISCONNECTED", "CREATED", "IN-PROGRESS", "LIVE"]);
    stub.undeploy().await.expect("undeployed");
    let counts = runtime.counts();
    assert_eq!(counts.open, 0, "{counts:?}");
}

#[tokio::test]
async fn messages_wait_for_the_next_instance_in_their_order() {
    let (runtime, app) = runtime(builder().restart(in_an_hour()), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    crash(&app).await;
    let mut status = stub.watch();
    let report = status.until(|report| report.status == StubStatus::Disconnected).await;
    let reason = report.reason.expect("a reason");
    assert!(reason.starts_with("a new instance starts in ") && reason.contains("no more bytes"), "{reason}");

    for n in 0..100 {
        app.post(
            protostub_runtime::Message::new(MessageType::Update, ALICE.parse().unwrap())
                .with_body(json!({ "do": "echo", "n": n })),
        )
        .expect("a place in the queue");
    }
    // `connect` ends the pause.
    stub.connect().await.expect("a new instance");
    let calls = value(&app, json!({ "do": "calls" })).await;
    let events = calls.as_array().expect("calls").iter().flat_map(|call| call.as_array().expect("events"));
    let numbers: Vec<_> = events.filter_map(Value::as_u64).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn stub_over_its_restart_limit_has_failed() {
    let (runtime, _app) = runtime(builder().restart(restarts(3)), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mut status = stub.watch();
    for n in 0..4 {
        let sender = runtime.register_hyperty(format!("hyperty://home.example/sender/{n}")).await.expect("a hyperty");
        crash(&sender).await;
    }
    let report = status.until(|report| !report.status.is_available()).await;
    assert_eq!((report.status, stub.restarts()), (StubStatus::Failed, 3));
    let reason = report.reason.expect("a reason");
    assert!(reason.contains("the stub failed again after 3 restarts") && reason.contains("no more bytes"), "{reason}");
    // The stub has ended. An explicit deployment of its domain works at once.
    stub.until_live().await.expect_err("it is over");
    let credential = Credential { kind: CredentialKind::Bearer, value: "a token".to_owned(), expires: None };
    // Each operation on the stub returns the reason for its end.
    let with_credential = match stub.connect_with(credential).await.expect_err("it is over") {
        ConnectError::Gone(gone) => Err(gone),
        other => panic!("{other:?}"),
    };
    for asked in [stub.connect().await, stub.disconnect().await, stub.undeploy().await, with_credential] {
        let gone = asked.expect_err("it is over");
        assert_eq!((gone.to_string(), &gone.key), ("the protocol stub of sp1.example has ended".to_owned(), stub.key()));
        let StubGoneReason::Failed(error) = gone.reason else { panic!("{gone:?}") };
        let error = error.kind.to_string();
        assert!(error.contains("the stub failed again after 3 restarts") && error.contains("no more bytes"), "{error}");
    }
    let again = runtime.deploy_protostub("sp1.example").await.expect("another stub");
    assert_ne!(again.url(), stub.url());
    assert_eq!(runtime.counts().open, 0);
}

/// The session is what crashes the instance here.
#[tokio::test]
async fn session_that_crashes_two_instances_is_dropped() {
    let (runtime, app) = runtime(builder().restart(restarts(5)), json!({ "start": { "do": "load" } })).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    value(&app, json!({ "do": "save", "bytes": 7 })).await;
    let relapse = || order(ALICE, json!({ "do": "panic-if-saved" }));
    for n in 0..2 {
        let sender = runtime.register_hyperty(format!("hyperty://home.example/sender/{n}")).await.expect("a hyperty");
        assert_eq!(sender.request(relapse()).await.expect_err("it crashed").code, 502);
    }
    assert_eq!(app.request(relapse()).await.expect("an answer").code(), Some(200));
    assert_eq!(stub.restarts(), 2);
}

#[tokio::test]
async fn failed_status_restarts_a_stub_that_was_live() {
    let (runtime, app) = runtime(builder().restart(restarts(5)), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    value(&app, json!({ "do": "publish", "status": "failed", "reason": "the server is gone" })).await;
    assert_eq!(value(&app, json!({ "do": "load" })).await, Value::Null);
    assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Live, 1));
}

#[tokio::test]
async fn policy_without_restarts_ends_the_stub_at_its_first_crash() {
    let (runtime, app) = runtime(builder().restart(restarts(0)), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    crash(&app).await;
    let report = stub.watch().until(|report| !report.status.is_available()).await;
    let reason = report.reason.expect("a reason");
    assert!(reason.contains("no more bytes") && !reason.contains("restarts"), "{reason}");
}

#[tokio::test]
async fn restart_pause_ends_with_the_stub_or_the_runtime() {
    let (runtime, app) = runtime(builder().restart(in_an_hour()), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    crash(&app).await;
    stub.watch().until(|report| report.status == StubStatus::Disconnected).await;
    // A stub that is disconnected during the pause does not restart by itself, and accepts no
    // messages.
    stub.disconnect().await.expect("disconnected");
    let refused = app.request(order(ALICE, json!({ "do": "load" }))).await.expect_err("it is disconnected");
    assert!(refused.code == 503 && refused.reason.contains("told to disconnect"), "{refused}");
    stub.connect().await.expect("a new instance");
    stub.until_live().await.expect("live");

    let other = runtime.register_hyperty("hyperty://home.example/other").await.expect("a hyperty");
    crash(&other).await;
    stub.watch().until(|report| report.status == StubStatus::Disconnected).await;
    let waiting = app.request(order(ALICE, json!({ "do": "load" })));
    let (undeployed, answer) = tokio::join!(biased_after(stub.undeploy()), waiting);
    undeployed.expect("undeployed");
    let gone = answer.expect_err("it is gone");
    assert!(gone.code == 503 && gone.reason.contains("was undeployed"), "{gone}");

    runtime.deploy_protostub("sp1.example").await.expect("another stub");
    crash(&app).await;
    let stub = &runtime.protostubs()[0];
    stub.watch().until(|report| report.status == StubStatus::Disconnected).await;
    let shutdown = runtime.shutdown(Duration::from_secs(60)).await;
    assert_eq!((shutdown.stopped.len(), shutdown.abandoned.len()), (1, 0));
}

#[tokio::test]
async fn waiting_for_a_stub_ends_with_its_runtime() {
    let (runtime, app) = runtime(builder().worker_threads(1).restart(in_an_hour()), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    crash(&app).await;
    let mut status = stub.watch();
    status.until(|report| report.status == StubStatus::Disconnected).await;
    // The stub's own tasks cannot report the end any more.
    let (ends, busy) = std::sync::mpsc::channel::<()>();
    let (begins, begun) = oneshot::channel();
    runtime.spawn_inside(async move {
        let _ = begins.send(());
        let _ = busy.recv();
    });
    begun.await.expect("the thread is busy");
    let waiting = stub.until_live();
    let told = async {
        let (waited, ()) = tokio::join!(waiting, biased_after(async { drop(runtime) }));
        assert_eq!(status.until(|report| report.status == StubStatus::Dead).await.status, StubStatus::Dead);
        [waited, stub.until_live().await]
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.expect("within 30 s");
    drop(ends);
    for over in told.into_iter().chain([stub.connect().await, stub.undeploy().await]) {
        let gone = over.expect_err("the runtime is gone");
        assert!(matches!(gone.reason, StubGoneReason::ShutDown), "{gone:?}");
        let expected = "the protocol stub of sp1.example has ended: the runtime is shutting down; start another runtime";
        assert_eq!(gone.to_string(), expected);
    }
}

/// Polls the future only after the other futures have been polled once.
async fn biased_after<T>(future: impl Future<Output = T>) -> T {
    tokio::task::yield_now().await;
    future.await
}
