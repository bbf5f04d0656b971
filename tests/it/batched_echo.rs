//! Tests of the stub that the benchmarks measure: it answers as the echo does, and loses no message
//! of a batch.

use protostub_runtime::{Address, Message, MessageType};
use serde_json::{Value, json};

use crate::support::{TestRuntime, body, builder, component, soon, source};

const ALICE: &str = "hyperty://sp1.example/alice";
/// Number of messages that arrive together: four times as many as one call of a stub takes.
const TOGETHER: usize = 4 * 64;

async fn live() -> TestRuntime {
    let test = TestRuntime::start(builder().source(source(&["sp1.example"], &component("batched-echo"), &json!({})))).await;
    test.runtime.deploy_protostub("sp1.example").await.expect("a stub");
    test
}

fn alice() -> Address {
    ALICE.parse().expect("an address")
}

fn update(n: usize) -> Message {
    Message::update(alice()).with_body(json!(n))
}

#[tokio::test]
async fn batched_echo_returns_each_message_in_order() {
    let TestRuntime { runtime: _runtime, mut app } = live().await;
    for posted in app.post_all((0..TOGETHER).map(update)) {
        posted.expect("it is accepted");
    }
    for n in 0..TOGETHER {
        let echo = soon(app.recv()).await.expect("the runtime lives");
        assert_eq!((echo.from.as_str(), &echo.kind, body(&echo)), (ALICE, &MessageType::Update, json!(n)));
    }
}

#[tokio::test]
async fn batched_echo_of_a_request_too_large_is_an_error() {
    let TestRuntime { runtime: _runtime, mut app } = live().await;
    // The body has the maximum size. The text around its echo exceeds the limit.
    let large = Message::read(alice()).with_body(Value::from("x".repeat((1 << 20) - 2)));
    let small = Message::read(alice()).with_body(json!([1]));
    app.post(update(1)).expect("it is accepted");
    let (large, small) = soon(async { tokio::join!(app.request(large), app.request(small)) }).await;
    assert_eq!(large.expect("a response").code(), Some(413));
    assert_eq!(body(&small.expect("a response")), json!({ "code": 200, "value": [1] }));
    assert_eq!(body(&soon(app.recv()).await.expect("the runtime lives")), json!(1));
}
