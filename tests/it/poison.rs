//! Tests of messages that end their receiver, or would.

use std::time::Duration;

use protostub_runtime::{
    DomainSettings, Hyperty, Message, MessageId, MessageType, RequestError, RestartPolicy, Runtime, RuntimeBuilder, StubStatus,
};
use serde_json::{Value, json};

use crate::support::{TestRuntime, body, builder, domain, follow, order, soon};

const ALICE: &str = "hyperty://sp1.example/alice";
/// The contract's limit of a body.
const MAX_BODY_BYTES: usize = 1 << 20;

async fn start(builder: RuntimeBuilder) -> (Runtime, Hyperty) {
    TestRuntime::of_actors(builder, &["sp1.example"], &Value::Null).await.into_parts()
}

async fn hyperty(runtime: &Runtime, name: &str) -> Hyperty {
    runtime.register_hyperty(format!("hyperty://home.example/{name}")).await.expect("a hyperty")
}

/// Returns an order whose JSON text has this many bytes.
fn order_of(bytes: usize) -> Value {
    let fixed = json!({ "do": "echo", "padding": "" }).to_string().len();
    json!({ "do": "load", "padding": "x".repeat(bytes - fixed) })
}

fn code(outcome: Result<Message, RequestError>) -> u16 {
    outcome.map_or_else(|error| error.code, |response| response.code().expect("a code"))
}

#[tokio::test]
async fn body_over_the_stubs_limit_is_refused_with_413() {
    let mut settings = DomainSettings::default();
    settings.limits.body_bytes = Some(2 * MAX_BODY_BYTES);
    let built = builder().domain(domain("sp2.example"), settings);
    let (runtime, mut app) = TestRuntime::of_actors(built, &["sp1.example", "sp2.example"], &Value::Null).await.into_parts();
    // The first message deploys the stub, and its limit holds already.
    for _ in 0..6 {
        let error = app.request(order(ALICE, order_of(MAX_BODY_BYTES + 1))).await.expect_err("refused");
        let expected =
            "the body has 1048577 bytes, more than the 1048576 that the receiving stub takes (`body-bytes`); send a smaller one";
        assert_eq!((error.code, error.reason.as_str()), (413, expected));
    }
    assert_eq!(code(app.request(order(ALICE, order_of(MAX_BODY_BYTES))).await), 200);
    let raised = order("hyperty://sp2.example/alice", order_of(2 * MAX_BODY_BYTES));
    assert_eq!(code(app.request(raised).await), 200);

    // A response to the stub has the same limit, and its request stays open for another response.
    let asked = json!({ "do": "post", "type": "read", "to": app.address().as_str() });
    assert_eq!(follow(&app, ALICE, asked).await, Ok(json!(["ok"])));
    let request = soon(app.recv()).await.expect("a request");
    let error = app.post(request.response(200, Some("x".repeat(MAX_BODY_BYTES).into()))).expect_err("refused");
    assert_eq!(error.code, 413, "{error}");
    app.post(request.response(200, None)).expect("accepted");

    // Hyperties take what their inbox holds.
    let mut bob = hyperty(&runtime, "bob").await;
    let large = Message::update(bob.address().clone()).with_body(Value::from("x".repeat(3 * MAX_BODY_BYTES)));
    app.post(large).expect("accepted");
    assert!(bob.recv().await.expect("a message").body.is_some());
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Live, 0));
}

#[tokio::test]
async fn sender_that_ends_two_instances_gets_503_and_others_go_on() {
    let mut restart = RestartPolicy::default();
    (restart.first_pause, restart.longest_pause) = (Duration::from_millis(1), Duration::from_millis(1));
    let (runtime, app) = start(builder().restart(restart)).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mallory = hyperty(&runtime, "mallory").await;
    let poison = || order(ALICE, json!({ "do": "trap" }));
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(code(mallory.request(poison()).await));
        assert_eq!(code(app.request(order(ALICE, json!({}))).await), 200);
    }
    assert_eq!(codes, [502, 502, 503, 503, 503, 503]);
    let error = mallory.request(order(ALICE, json!({}))).await.expect_err("refused");
    let expected = "messages of hyperty://home.example/mallory ended two instances of the receiving stub; try again in ";
    assert!(error.reason.starts_with(expected), "{error}");
    assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Live, 2));
    // Another stub takes the sender's messages, and so does this one after another deployment.
    stub.undeploy().await.expect("undeployed");
    assert_eq!(code(mallory.request(order(ALICE, json!({}))).await), 200);
}

/// The sender's two messages are in batches with messages of others.
#[tokio::test]
async fn poison_among_other_messages_is_traced_to_its_sender() {
    let mut restart = RestartPolicy::default();
    (restart.first_pause, restart.longest_pause) = (Duration::from_millis(1), Duration::from_millis(1));
    let (runtime, app) = start(builder().restart(restart)).await;
    let mallory = hyperty(&runtime, "mallory").await;
    let poison = || mallory.request(order(ALICE, json!({ "do": "trap" })));
    let harmless = || app.request(order(ALICE, json!({ "n": 1 })));
    // All of them wait for the deployment, and come in one batch.
    let (before, first, after) = tokio::join!(harmless(), poison(), harmless());
    assert_eq!((code(before), code(first), code(after)), (200, 502, 502));
    // From now on the poison comes alone, also after ten messages of the other sender.
    for _ in 0..12 {
        assert_eq!(code(harmless().await), 200);
    }
    let (before, second, after) = tokio::join!(harmless(), poison(), harmless());
    assert_eq!((code(before), code(second), code(after)), (200, 502, 200));
    assert_eq!((code(poison().await), code(harmless().await)), (503, 200));
    assert_eq!(runtime.protostubs()[0].restarts(), 2);
}

#[tokio::test]
async fn crash_hands_out_no_message_twice_and_then_one_at_a_time() {
    let mut restart = RestartPolicy::default();
    (restart.first_pause, restart.longest_pause) = (Duration::from_secs(3600), Duration::from_secs(3600));
    let (runtime, app) = start(builder().restart(restart)).await;
    let mut mallory = hyperty(&runtime, "mallory").await;
    let post = |sender: &Hyperty, n: u64, order: Value| {
        let mut message = Message::new(MessageType::Update, ALICE.parse().expect("an address")).with_body(order);
        message.id = MessageId::Number(n);
        // Only a stub may not post such a header.
        message.headers.push(("Upper-Case".to_owned(), "x".to_owned()));
        sender.post(message).expect("accepted");
    };
    // All of these wait for the deployment, and come in one batch.
    for n in 1..=3 {
        post(&mallory, n, json!({ "n": n }));
    }
    post(&mallory, 4, json!({ "do": "trap" }));
    for n in 5..=6 {
        post(&mallory, n, json!({ "n": n }));
    }
    let mut failed = Vec::new();
    for _ in 1..=6 {
        let error = soon(mallory.recv()).await.expect("an error response");
        failed.push((error.id.clone(), error.code()));
    }
    assert_eq!(failed, (1..=6).map(|n| (MessageId::Number(n), Some(502))).collect::<Vec<_>>());

    let stub = &runtime.protostubs()[0];
    stub.watch().until(|report| report.status == StubStatus::Disconnected).await;
    for n in 11..=23 {
        post(&app, n, json!({ "n": n }));
    }
    let (calls, connected) = tokio::join!(app.request(order(ALICE, json!({ "do": "calls" }))), stub.connect());
    connected.expect("a new instance");
    let calls = body(&calls.expect("an answer"))["value"].clone();
    let mut expected = vec![json!(["connect"])];
    expected.extend((11..=20).map(|n| json!([n])));
    expected.push(json!([21, 22, 23, "message"]));
    assert_eq!(calls, Value::from(expected));
    assert_eq!(runtime.counts().open, 0);
}
