//! Each guest of the repository is deployed once: a guest without a test does not compile.

use protostub_artifacts::for_each_guest;
use serde_json::{Value, json};

use crate::support::{TestRuntime, builder, component, follow, source};

const DOMAIN: &str = "sp1.example";
const ALICE: &str = "hyperty://sp1.example/alice";

macro_rules! require_test {
    ($($name:ident,)*) => {
        $(
            #[expect(unused_imports, reason = "the test with this name exists")]
            use self::$name as _;
        )*
    };
}
for_each_guest!(require_test);

/// Starts a runtime for which a guest is the stub of the domain.
async fn runtime_with(guest: &str, configuration: Value) -> TestRuntime {
    TestRuntime::start(builder().source(source(&[DOMAIN], &component(guest), &configuration))).await
}

/// Checks that a guest is not deployed with this configuration, and that the error has this text.
async fn refused(guest: &str, configuration: Value, expected: &str) {
    let test = runtime_with(guest, configuration).await;
    let error = anyhow::Error::new(test.runtime.load_stub(DOMAIN).await.expect_err("refused"));
    let error = format!("{error:#}");
    assert!(error.contains(expected), "{error}");
}

/// Checks that a guest answers a request.
async fn answers(guest: &str) {
    let test = runtime_with(guest, json!({})).await;
    follow(&test.app, ALICE, json!({})).await.expect("code 200");
}

#[tokio::test]
async fn actor() {
    answers("actor").await;
}

#[tokio::test]
async fn batched_echo() {
    answers("batched-echo").await;
}

#[tokio::test]
async fn caller() {
    answers("caller").await;
}

#[tokio::test]
async fn echo() {
    answers("echo").await;
}

#[tokio::test]
async fn hostile() {
    refused("hostile", json!({ "program": "unknown" }), "there is no program `unknown`").await;
}

#[tokio::test]
async fn key_value() {
    refused("key-value", json!({}), "acme:store/kv@1.0.0").await;
}

#[tokio::test]
async fn message_node() {
    refused("message-node", json!({}), "missing field `url`").await;
}

#[tokio::test]
async fn misfit() {
    refused("misfit", json!({}), "`url` has to be a ws:// or a tcp:// URL").await;
}

#[tokio::test]
async fn mqtt() {
    refused("mqtt", json!({}), "missing field `url`").await;
}
