//! Tests of the MQTT stub with a real broker.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use protostub_runtime::{
    Body, Credential, CredentialKind, DomainSettings, Hyperty, MemorySource, Message, MessageType, Runtime, RuntimeBuilder,
    StaticCredentials, StatusForm, StubStatus,
};
use serde_json::{Value, json};

use crate::{
    mosquitto::{HOST, Mosquitto},
    support::{TestRuntime, builder, component, descriptor, domain},
};

const DOMAIN: &str = "sp1.example";

pub(crate) fn tcp(broker: &Mosquitto) -> Value {
    json!({ "url": format!("mqtt://{HOST}:{}", broker.tcp) })
}

pub(crate) fn tls(broker: &Mosquitto) -> Value {
    json!({ "url": format!("mqtts://{HOST}:{}", broker.tls) })
}

fn websocket(broker: &Mosquitto) -> Value {
    json!({ "url": format!("ws://{HOST}:{}/mqtt", broker.websocket) })
}

/// Returns a builder of a runtime that may connect to the broker. The catalogue has the stub under
/// the name for the domain's `mqtt` addresses.
pub(crate) fn runtime_of(broker: &Mosquitto, configuration: Value) -> RuntimeBuilder {
    let stub = component("mqtt");
    let source = MemorySource::new();
    source.insert(&domain(DOMAIN), &format!("mqtt.{DOMAIN}"), descriptor(&stub, configuration).to_json(), stub);
    let mut settings = DomainSettings::default();
    let rule = format!("{HOST}:{},{},{}", broker.tcp, broker.tls, broker.websocket);
    settings.grants.push(rule.parse().expect("a rule"));
    settings.allow_loopback = true;
    builder().source(source).domain(domain(DOMAIN), settings).trust_roots(broker.certificate.clone())
}

/// Starts a runtime with one app.
pub(crate) async fn mqtt_app(broker: &Mosquitto, configuration: Value) -> (Runtime, Hyperty) {
    TestRuntime::start(runtime_of(broker, configuration)).await.into_parts()
}

fn topic(name: &str) -> String {
    format!("mqtt://{DOMAIN}/{name}")
}

pub(crate) fn create(name: &str, body: Body) -> Message {
    let mut message = Message::create(topic(name).parse().unwrap());
    message.body = Some(body);
    message
}

async fn ask(app: &Hyperty, message: Message) -> u16 {
    let answer = app.request(message).await.expect("an answer");
    let code = answer.code().expect("a code");
    assert!(code == 200 || answer.body.is_some());
    code
}

pub(crate) async fn subscribe(app: &Hyperty, name: &str) {
    assert_eq!(ask(app, Message::subscribe(topic(name).parse().unwrap())).await, 200);
}

/// Returns the sender and the body of the next update.
async fn update(app: &mut Hyperty) -> (String, Body) {
    let message = tokio::time::timeout(Duration::from_secs(60), app.recv()).await.expect("an update").expect("an update");
    assert_eq!(message.kind, MessageType::Update, "{message:?}");
    (message.from.to_string(), message.body.expect("a body"))
}

#[tokio::test]
async fn both_mqtt_versions_work_over_every_transport() {
    let broker = Mosquitto::start().await.expect("a broker");
    for (transport, version) in [(tcp(&broker), 4), (tls(&broker), 5), (websocket(&broker), 4), (websocket(&broker), 5)] {
        let mut configuration = transport;
        configuration["version"] = json!(version);
        let (runtime, mut app) = mqtt_app(&broker, configuration).await;
        subscribe(&app, "room/1").await;
        assert_eq!(ask(&app, create("room/1", json!({ "n": version }).into())).await, 200);
        let (from, body) = update(&mut app).await;
        assert_eq!((from, body.parse::<Value>().expect("JSON")), (topic("room/1"), json!({ "n": version })));
        let outcome = runtime.shutdown(Duration::from_secs(5)).await;
        assert!(outcome.abandoned.is_empty(), "{outcome:?}");
    }
}

#[tokio::test]
async fn wildcards_match_in_the_address_and_in_the_body() {
    let broker = Mosquitto::start().await.expect("a broker");
    let (_runtime, mut app) = mqtt_app(&broker, tcp(&broker)).await;
    subscribe(&app, "sensors/+/temperature").await;
    let below = Message::subscribe(topic("").parse().unwrap()).with_body(json!({ "topic": "doors/#" }));
    assert_eq!(ask(&app, below).await, 200);
    for name in ["sensors/1/temperature", "sensors/1/humidity", "doors", "doors/a/b%20c", "sensors/2/temperature"] {
        assert_eq!(ask(&app, create(name, json!(name).into())).await, 200);
    }
    for expected in ["sensors/1/temperature", "doors", "doors/a/b%20c", "sensors/2/temperature"] {
        assert_eq!(update(&mut app).await.0, topic(expected));
    }
    let unsubscribe = || Message::new(MessageType::Unsubscribe, topic("doors/%23").parse().unwrap());
    assert_eq!(ask(&app, unsubscribe()).await, 200);
    assert_eq!(ask(&app, unsubscribe()).await, 404);
}

#[tokio::test]
async fn retained_message_reaches_later_subscribers() {
    let broker = Mosquitto::start().await.expect("a broker");
    let (_runtime, mut app) = mqtt_app(&broker, tls(&broker)).await;
    let mut kept = create("state", json!("open").into());
    kept.headers.push(("retain".into(), "true".into()));
    assert_eq!(ask(&app, kept).await, 200);
    subscribe(&app, "state").await;
    let message = app.recv().await.expect("an update");
    assert_eq!(message.header("retain"), Some("true"));
    assert_eq!(message.body.expect("a body").parse::<Value>().expect("JSON"), json!("open"));
    // An empty retained message removes the retained one.
    let mut gone = create("state", Body::Bytes(Arc::from([])));
    gone.headers.push(("retain".into(), "true".into()));
    assert_eq!(ask(&app, gone).await, 200);
    assert_eq!(update(&mut app).await.1, Body::Bytes(Arc::from([])));
    assert_eq!(ask(&app, Message::new(MessageType::Unsubscribe, topic("state").parse().unwrap())).await, 200);
    subscribe(&app, "state").await;
    assert_eq!(ask(&app, create("state", json!("live").into())).await, 200);
    assert_eq!(app.recv().await.expect("an update").header("retain"), None);
}

#[tokio::test]
async fn payloads_of_1_mib_pass() {
    let broker = Mosquitto::start().await.expect("a broker");
    let bytes = |length: usize| Body::Bytes((0..length).map(|n| (n % 251) as u8).collect());
    let (_tcp, mut by_tcp) = mqtt_app(&broker, tcp(&broker)).await;
    let (_websocket, mut by_websocket) = mqtt_app(&broker, websocket(&broker)).await;
    subscribe(&by_tcp, "large").await;
    let whole = bytes(1 << 20);
    for publisher in [&by_tcp, &by_websocket] {
        assert_eq!(ask(publisher, create("large", whole.clone())).await, 200);
    }
    for _ in 0..2 {
        assert!(update(&mut by_tcp).await.1 == whole);
    }
    // A broker sends a message over WebSocket in one frame of at most 1 MiB. The broker does not
    // send larger ones.
    subscribe(&by_websocket, "large").await;
    let fits = bytes((1 << 20) - 100);
    assert_eq!(ask(&by_tcp, create("large", whole)).await, 200);
    assert_eq!(ask(&by_tcp, create("large", fits.clone())).await, 200);
    assert!(update(&mut by_websocket).await.1 == fits);
}

#[tokio::test]
async fn wrong_password_fails_with_the_reason_of_the_broker() {
    let broker = Mosquitto::start_with(Some(("alice", "secret"))).await.expect("a broker");
    let with = |value: &str| {
        let credential = Credential { kind: CredentialKind::Basic, value: value.to_owned(), expires: None };
        StaticCredentials::new().with(domain(DOMAIN), credential)
    };
    for version in [4, 5] {
        let mut configuration = tcp(&broker);
        configuration["version"] = json!(version);
        let wrong = runtime_of(&broker, configuration.clone()).credentials(with("alice:guess")).status_form(StatusForm::Phase2);
        let runtime = wrong.build().await.expect("a runtime");
        let mut watcher = runtime.register_hyperty("hyperty://home.example/watcher").await.expect("a hyperty");
        watcher.subscribe(runtime.url().join("status").expect("an address")).await.expect("an answer");
        let error = runtime.deploy_protostub(&topic("a")).await.expect_err("a wrong password");
        let expected = format!("the broker at mqtt://{HOST}:{} refused the connection: not authorized", broker.tcp);
        assert!(error.kind.to_string().contains(&expected), "{:?}", error.kind);
        let failed = loop {
            let status = watcher.recv().await.expect("a status");
            let body: Value = status.body.as_ref().expect("a body").parse().expect("JSON");
            if body["value"] == "failed" {
                break body;
            }
        };
        assert!(failed.to_string().contains(&expected), "{failed}");

        let right = runtime_of(&broker, configuration).credentials(with("alice:secret"));
        let runtime = right.build().await.expect("a runtime");
        let stub = runtime.deploy_protostub(&topic("a")).await.expect("a stub");
        stub.until_live().await.expect("live");
        assert_eq!(stub.status().status, StubStatus::Live);
    }
}

#[tokio::test]
async fn qos_1_holds_across_a_restart_of_the_broker() {
    let mut broker = Mosquitto::start().await.expect("a broker");
    let (_alice, alice) = mqtt_app(&broker, tcp(&broker)).await;
    let (bob, mut bob_app) = mqtt_app(&broker, tls(&broker)).await;
    subscribe(&bob_app, "orders/#").await;
    let order = |n: u64| ask(&alice, create("orders/new", json!(n).into()));
    assert_eq!(order(0).await, 200);
    let bob_stub = bob.protostubs().remove(0);
    let mut status = bob_stub.watch();
    let before: Vec<_> = (1..=10).map(order).collect();
    let after: Vec<_> = (11..=20).map(order).collect();
    let restart = async {
        broker.stop().await.expect("stopped");
        status.until(|report| report.status == StubStatus::Disconnected).await;
        broker.resume().await.expect("started again");
        futures_util::future::join_all(after).await
    };
    // All requests are concurrent: some are acknowledged before the broker stops, some are in
    // flight, some begin during the outage.
    let (before, after) = tokio::join!(futures_util::future::join_all(before), restart);
    assert!(before.iter().chain(&after).all(|code| *code == 200), "{before:?} {after:?}");
    let mut missing: BTreeSet<u64> = (0..=20).collect();
    while !missing.is_empty() {
        let (_, body) = update(&mut bob_app).await;
        missing.remove(&body.parse().expect("a number"));
    }
}

/// The hyperty's domain is the runtime's, and no stub of it is deployed.
#[tokio::test]
async fn gone_subscriber_of_the_home_domain_is_unsubscribed() {
    let broker = Mosquitto::start().await.expect("a broker");
    let (runtime, mut app) = mqtt_app(&broker, tcp(&broker)).await;
    let register = || runtime.register_hyperty("hyperty://home.example/leaver");
    let leaver = register().await.expect("a hyperty");
    for subscriber in [&leaver, &app] {
        subscribe(subscriber, "room").await;
    }
    subscribe(&app, "lobby").await;
    drop(leaver);
    // The second update shows that the stub has posted the first one.
    for name in ["room", "lobby"] {
        assert_eq!(ask(&app, create(name, json!(1).into())).await, 200);
        assert_eq!(update(&mut app).await.0, topic(name));
    }
    let mut leaver = register().await.expect("the address is free");
    for name in ["room", "lobby"] {
        assert_eq!(ask(&app, create(name, json!(2).into())).await, 200);
        assert_eq!(update(&mut app).await.0, topic(name));
    }
    assert_eq!(leaver.recv().now_or_never(), None);
    assert_eq!(runtime.protostubs().len(), 1, "the post to the address deploys nothing");
}
