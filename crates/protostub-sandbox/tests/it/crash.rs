//! Reports of instances that crashed.

use std::{sync::Arc, time::Duration};

use protostub_bus::Origin;
use protostub_sandbox::{ActivityKind, CallError, CrashKind, CrashReport, GuestCall, Outcome};
use protostub_types::Message;
use serde_json::{Value, json};

use crate::support::{Fixture, RunningActor, bearer};

/// Gives an order that the actor does not survive. Returns the outcome and the report.
async fn crash(actor: RunningActor, order: Value) -> (Outcome, Arc<CrashReport>) {
    assert_eq!(actor.fatal(order).await, 502);
    let ended = actor.ended().await;
    (ended.outcome, ended.crash.expect("a crash report"))
}

#[tokio::test]
async fn crash_report_has_the_panic_and_the_functions() {
    let actor = Fixture::new(json!({})).live().await;
    let (outcome, report) = crash(actor, json!({ "do": "panic", "reason": "out of ideas" })).await;
    let message = report.message.as_deref().unwrap_or_default();
    assert!(message.contains("src/orders.rs") && message.ends_with("out of ideas"), "{message}");
    assert_eq!(outcome.to_string(), format!("the stub crashed: {message} (wasm `unreachable` instruction executed)"));

    let frame = report.backtrace.iter().find(|frame| frame.function == "actor::orders::follow").expect("the actor's function");
    assert_eq!(frame.to_string(), "actor.wasm!actor::orders::follow");
    assert!(frame.offset.is_some());
}

#[tokio::test]
async fn flight_recorder_has_events_and_calls_without_contents() {
    let actor = Fixture::new(json!({})).start().await.unwrap();
    actor.handle.connect(Some(bearer("s3cret"))).await.unwrap();
    let orders = json!([
        { "do": "post", "to": "hyperty://home.example/nobody", "body": "s3cret" },
        { "do": "log", "text": "s3cret", "times": 100 },
        { "do": "save", "bytes": 70 },
        { "do": "trap" },
    ]);
    let bytes = orders.to_string().len();
    let (_, report) = crash(actor, orders).await;

    let json = serde_json::to_value(&*report).unwrap();
    assert!(!json.to_string().contains("s3cret"), "{json:#}");
    let mut activities = json["activities"].as_array().unwrap().clone();
    for activity in &mut activities {
        assert!(activity.as_object_mut().unwrap().remove("before_us").is_some_and(|before| before.is_u64()), "{activity}");
    }
    let (from, to) = ("hyperty-runtime://home.example/r", "hyperty://sp1.example/actor");
    let expected = [
        json!({ "kind": "call", "name": "configuration.get" }),
        json!({ "kind": "event", "name": "connect", "detail": "with a credential" }),
        json!({ "kind": "call", "name": "presence.publish", "detail": "in-progress" }),
        json!({ "kind": "call", "name": "presence.publish", "detail": "live" }),
        json!({ "kind": "event", "name": "message", "detail": "read", "from": from, "to": to, "bytes": bytes }),
        json!({ "kind": "call", "name": "bus.post", "detail": "update", "from": "hyperty-runtime://sp1.example/protostub/1",
            "to": "hyperty://home.example/nobody", "bytes": 8, "error": "io" }),
        json!({ "kind": "call", "name": "log.write", "detail": "info", "bytes": 890, "times": 100 }),
        json!({ "kind": "call", "name": "session.save", "bytes": 70 }),
    ];
    assert_eq!(activities, expected);
}

#[tokio::test]
async fn flight_recorder_has_server_and_error_of_a_connection() {
    let actor = Fixture::new(json!({})).live().await;
    actor.order(json!({ "do": "websocket", "url": "wss://sp1.example:8443/secret?token=secret" })).await.unwrap_err();
    let (_, report) = crash(actor, json!({ "do": "trap" })).await;
    let opened = report.activities.iter().find(|activity| activity.name == "websocket.open").expect("it was called");
    assert_eq!((opened.to.as_deref(), opened.error), (Some("sp1.example:8443"), Some(CallError::Denied)));
}

#[tokio::test]
async fn crash_report_json_has_the_documented_shape() {
    let (_, report) = crash(Fixture::new(json!({})).live().await, json!({ "do": "trap" })).await;
    let mut json = serde_json::to_value(&*report).unwrap();
    for (name, varies) in [("component", "string"), ("time_ms", "number"), ("uptime_us", "number"), ("call_us", "number")] {
        let value = json[name].take();
        assert_eq!((value.is_string(), value.is_u64()), (varies == "string", varies == "number"), "{name}: {value}");
    }
    let backtrace = json["backtrace"].take();
    assert!(backtrace[0]["function"].is_string() && backtrace[0]["offset"].is_u64(), "{backtrace}");
    assert!(json["activities"].take().is_array());
    let expected = json!({
        "stub": "hyperty-runtime://sp1.example/protostub/1",
        "domain": "sp1.example",
        "component": null,
        "time_ms": null,
        "during": "handle",
        "kind": "trap",
        "reason": "wasm `unreachable` instruction executed",
        "backtrace": null,
        "uptime_us": null,
        "call_us": null,
        "activities": null,
        "lost_events": 0,
        "lost_calls": 0,
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn crash_report_of_a_limit_names_limit_and_place() {
    let fixture = Fixture::new(json!({})).limits(|limits| limits.cpu_per_call = Duration::from_millis(50));
    let (_, report) = crash(fixture.live().await, json!({ "do": "spin" })).await;
    assert_eq!((report.kind, report.limit, report.during), (CrashKind::Limit, Some("cpu_per_call"), GuestCall::Handle));
    assert!(report.backtrace.iter().any(|frame| frame.function.contains("follow")), "{:?}", report.backtrace);
    assert!(report.call >= Duration::from_millis(40) && report.call <= report.uptime, "{report:?}");

    let fixture = Fixture::new(json!({})).limits(|limits| limits.memory_bytes = 8 << 20);
    let (_, report) = crash(fixture.live().await, json!({ "do": "allocate", "bytes": 16 << 20 })).await;
    assert_eq!((report.limit, report.backtrace.is_empty()), (Some("memory_bytes"), false));
    assert!(report.message.as_deref().is_some_and(|message| message.contains("memory allocation of")), "{report:?}");
}

#[tokio::test]
async fn crash_in_start_is_reported() {
    let fixture = Fixture::new(json!({ "start": [{ "do": "load" }, { "do": "panic", "reason": "no idea" }] }));
    let (sandbox, _statuses) = fixture.sandbox().await;
    let inbox = fixture.bus.inbox(protostub_bus::InboxLimits::default());
    let error = sandbox.unwrap().deploy_component(inbox).await.expect_err("it does not start");
    let report = error.crash.expect("a crash report");
    assert_eq!((report.during, report.kind), (GuestCall::Start, CrashKind::Trap));
    let calls: Vec<&str> = report.activities.iter().map(|activity| activity.name).collect();
    assert_eq!(calls, ["configuration.get", "session.load"]);

    let fixture = Fixture::new(json!({ "start": { "do": "fail", "reason": "`url` is missing" } }));
    let (sandbox, _statuses) = fixture.sandbox().await;
    let inbox = fixture.bus.inbox(protostub_bus::InboxLimits::default());
    let error = sandbox.unwrap().deploy_component(inbox).await.expect_err("it does not start");
    assert!(error.crash.is_none(), "a refusal is no crash");
}

#[tokio::test]
async fn flood_of_calls_does_not_push_out_events() {
    let actor = Fixture::new(json!({})).live().await;
    let update = Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(json!({ "do": "resume" }));
    actor.bus.post(&Origin::Host, update).unwrap();
    let flood = json!({ "do": "post", "to": "hyperty://sp2.example/x", "from": "hyperty://sp2.example/forged", "times": 500 });
    let (_, report) =
        crash(actor, json!([{ "do": "pause" }, flood, { "do": "timer", "ms": 1, "times": 100 }, { "do": "trap" }])).await;
    let calls: Vec<_> = report.activities.iter().filter(|activity| activity.kind == ActivityKind::Call).collect();
    assert_eq!((calls.len(), report.lost_calls), (64, 42));
    let events: Vec<_> = report.activities.iter().filter(|activity| activity.kind == ActivityKind::Event).collect();
    assert_eq!(events.len(), 3, "connect, the update and the order");
}

#[tokio::test]
async fn an_orderly_end_leaves_no_report() {
    let actor = Fixture::new(json!({})).live().await;
    actor.handle.stop();
    assert!(actor.ended().await.crash.is_none());
}
