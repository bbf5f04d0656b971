use std::{sync::Arc, time::Duration};

use protostub_artifacts::component;
use protostub_bus::{InboxLimits, Origin};
use protostub_sandbox::{DisconnectReason, Engine, EngineConfig, InstanceEnded, SandboxError, StartErrorKind};
use protostub_types::{Message, Sha256Digest, StubStatus};
use serde_json::json;

use crate::support::{Fixture, address, bearer, observed};

#[tokio::test]
async fn a_stub_starts_connects_disconnects_and_stops() {
    let (fixture, mut listener) = observed(json!({}));
    let url = fixture.url.to_string();
    let mut actor = fixture.start().await.unwrap();
    assert_eq!(actor.status(StubStatus::Created).await, None);

    actor.handle.connect(Some(bearer("token"))).await.unwrap();
    assert_eq!(actor.status(StubStatus::Live).await.as_deref(), Some("[secret]"), "the actor tells its credential as the reason");
    assert_eq!(actor.told(json!({ "do": "credential" })).await, json!({ "kind": "bearer", "value": "token", "expires": null }));
    assert_eq!(actor.told(json!({ "do": "url" })).await, json!(url));

    actor.handle.disconnect(DisconnectReason::Idle).await.unwrap();
    assert_eq!(listener.hears().await, json!({ "disconnect": "idle" }));
    actor.status(StubStatus::Disconnected).await;
    let statuses: Vec<StubStatus> = actor.statuses.borrow().iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [StubStatus::Created, StubStatus::InProgress, StubStatus::Live, StubStatus::Disconnected]);

    let handle = actor.handle.clone();
    assert!(!handle.is_ended());
    handle.stop();
    let outcome = actor.outcome().await;
    assert!(outcome.is_orderly(), "{outcome}");
    assert!(handle.is_ended());
    handle.ended().await;
    assert_eq!(handle.connect(None).await, Err(InstanceEnded));
}

#[tokio::test]
async fn an_instance_ends_when_its_last_handle_is_dropped() {
    let actor = Fixture::new(json!({})).live().await;
    let (task, handle) = (actor.task, actor.handle);
    drop(handle);
    assert!(task.await.unwrap().outcome.is_orderly());
}

#[tokio::test]
async fn a_stub_may_refuse_to_start_and_the_inbox_comes_back() {
    let fixture = Fixture::new(json!({ "start": { "do": "fail", "reason": "`url` is missing: add it" } }));
    let bus = fixture.bus.clone();
    let inbox = bus.inbox(InboxLimits::default());
    let (kind, mut inbox) = fixture.start_with(inbox).await.err().unwrap();
    assert!(matches!(&kind, StartErrorKind::Refused(reason) if reason == "`url` is missing: add it"), "{kind}");
    assert_eq!(kind.to_string(), "the stub refused to start: `url` is missing: add it");

    let route = bus.attach(&address("hyperty://home.example/x"), &inbox.mailbox()).unwrap();
    bus.post(&Origin::Host, Message::update("hyperty://home.example/x".parse().unwrap())).unwrap();
    assert_eq!(inbox.recv().await.unwrap().to, address("hyperty://home.example/x"));
    drop(route);
}

#[tokio::test]
async fn a_stub_may_crash_while_it_starts() {
    let check = async |order, expected: &str| {
        let kind = Fixture::new(json!({ "start": order }))
            .limits(|limits| limits.cpu_per_call = Duration::from_millis(50))
            .start()
            .await
            .err()
            .unwrap();
        assert!(kind.to_string().contains(expected), "{kind}");
    };
    check(json!({ "do": "panic", "reason": "no idea" }), "the stub crashed while it started: ").await;
    check(json!({ "do": "panic", "reason": "no idea" }), "no idea").await;
    check(json!({ "do": "exit", "code": 3 }), "the stub exited with code 1").await;
    check(
        json!({ "do": "spin" }),
        "the stub exceeded a limit while it started: a call computed for more than 50ms (`cpu-per-call-milliseconds`)",
    )
    .await;
}

#[tokio::test]
async fn status_before_start_returns_is_refused() {
    let kind = Fixture::new(json!({ "start": { "do": "publish", "status": "live" } })).start().await.err().unwrap();
    assert!(kind.to_string().contains("`live` cannot be published before `start` has returned"), "{kind}");
}

#[tokio::test]
async fn a_stub_may_post_from_start() {
    let (mut fixture, mut listener) = observed(json!({}));
    fixture.configuration["start"] = json!({ "do": "post", "to": "hyperty://home.example/listener", "body": "early" });
    let actor = fixture.start().await.unwrap();
    let message = listener.message().await;
    assert_eq!((message.from, message.via), (actor.url.clone(), vec![actor.url.clone()]));
}

#[tokio::test]
async fn exit_ends_the_instance() {
    let actor = Fixture::new(json!({})).live().await;
    assert_eq!(actor.fatal(json!({ "do": "exit", "code": 3 })).await, 502);
    assert_eq!(actor.outcome().await.to_string(), "the stub crashed: the stub exited with code 1");
}

#[tokio::test]
async fn a_stub_that_is_stopped_in_a_call_gets_a_second() {
    let (fixture, mut listener) = observed(json!({}));
    let actor = fixture.live().await;
    let order =
        json!([{ "do": "post", "to": "hyperty://home.example/listener", "body": "begun" }, { "do": "sleep", "ms": 9_000 }]);
    let begun = std::time::Instant::now();
    let (code, _) = tokio::join!(actor.fatal(order), async {
        assert_eq!(listener.hears().await, json!("begun"));
        actor.handle.stop();
    });
    assert_eq!(code, 502);
    assert!(actor.outcome().await.is_orderly());
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn sandboxes_are_counted() {
    let mut config = EngineConfig::default();
    config.max_sandboxes = 1;
    let engine = Engine::new(&config).unwrap();
    let bytes = component("actor");
    let digest = Sha256Digest::of(&bytes);
    let mut fixture = Fixture::new(json!({}));
    fixture.program = Some(engine.compile(bytes, digest).await.unwrap());
    let (first, _statuses) = fixture.sandbox().await;
    assert_eq!(engine.sandboxes(), 1);
    let (second, _statuses) = fixture.sandbox().await;
    assert!(matches!(second, Err(SandboxError::TooMany { limit: 1 })), "{second:?}");
    drop(first);
    assert_eq!(engine.sandboxes(), 0);
    let (third, _statuses) = fixture.sandbox().await;
    assert!(third.is_ok());
}

#[tokio::test]
async fn settings_beyond_the_engine_are_refused_by_name() {
    let check = async |fixture: Fixture, expected: &str| {
        let (sandbox, _statuses) = fixture.sandbox().await;
        let error = sandbox.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(Fixture::new(json!({})).limits(|limits| limits.memory_bytes = 4 << 30), "`memory-bytes` is 4294967296, more than")
        .await;
    check(Fixture::new(json!({})).limits(|limits| limits.batch_events = 0), "`batch-events` is 0").await;
    check(Fixture::new(json!({ "x": "x".repeat(65 << 10) })), "`configuration` has 66568 bytes").await;
}

#[tokio::test]
async fn the_same_code_is_compiled_once() {
    let bytes: Arc<[u8]> = component("actor").into();
    let digest = Sha256Digest::of(&bytes);
    let engine = Engine::new(&EngineConfig::default()).unwrap();
    let begun = std::time::Instant::now();
    let first = engine.compile(Arc::clone(&bytes), digest).await.unwrap();
    let once = begun.elapsed();
    let again = std::time::Instant::now();
    let second = engine.compile(bytes, digest).await.unwrap();
    assert!(again.elapsed() < once, "{:?} after {once:?}", again.elapsed());
    assert_eq!((first.digest(), first.track()), (digest, "0.1"));
    assert_eq!(first.imports(), second.imports());
    assert!(first.imports().iter().any(|import| import == "rethink:protostub/bus@0.1.0"), "{:?}", first.imports());
    assert_eq!(*first.exports(), ["rethink:protostub/stub@0.1.0"]);
}

#[tokio::test]
async fn dropped_task_answers_its_open_requests() {
    let actor = Fixture::new(json!({})).live().await;
    let (response, _) = tokio::join!(actor.request(json!({ "do": "keep" })), async {
        actor.told(json!({})).await;
        actor.task.abort();
    });
    assert_eq!(response.unwrap_err().code, 502);
}

#[tokio::test]
async fn stubs_run_without_a_pool() {
    let mut config = EngineConfig::default();
    // More address space than the machine has.
    config.max_memory_bytes = 1 << 46;
    let engine = Engine::new(&config).unwrap();
    assert!(!engine.is_pooled());
    let bytes = component("actor");
    let digest = Sha256Digest::of(&bytes);
    let mut fixture = Fixture::new(json!({ "n": 1 }));
    fixture.program = Some(engine.compile(bytes, digest).await.unwrap());
    let actor = fixture.live().await;
    assert_eq!(actor.told(json!({ "do": "configuration" })).await["n"], json!(1));
}
