//! Tests of faulty domains, and of the errors that senders get. No message is lost, and no state is
//! left.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protostub_runtime::{Document, Domain, Fault, Message, MessageType, Runtime, Source, SourceRequest};
use serde_json::{Value, json};

use crate::support::{answer, builder, component, descriptor, ok, serve};

const DESCRIPTOR: &str = "/.well-known/protostub/default";
const PACKAGE: &str = "/.well-known/protostub/component.wasm";

/// Starts a domain that publishes this component with this configuration.
async fn publishes(component: &[u8], configuration: Value) -> Domain {
    let descriptor = descriptor(component, configuration).to_json();
    serve(vec![(DESCRIPTOR, ok("application/json", descriptor.as_bytes())), (PACKAGE, ok("application/wasm", component))]).await
}

/// Starts a domain with this text as its descriptor.
async fn describes(text: &str) -> Domain {
    serve(vec![(DESCRIPTOR, ok("application/json", text.as_bytes()))]).await
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a text that is WebAssembly")
}

async fn cases() -> Vec<(&'static str, Domain)> {
    let echo = component("echo");
    let actor = component("actor");
    let domain = |text: &str| Domain::parse(text).expect("a domain");
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        domain(&listener.local_addr().expect("an address").to_string())
    };
    let described = descriptor(&echo, json!({})).to_json();
    let described = described.as_bytes();
    let thousand = [0; 1000];
    let for_thousand = descriptor(&thousand, json!({})).to_json();
    let mut truncated = ok("application/wasm", &thousand);
    truncated.truncate(truncated.len() - 400);
    let in_other_world = r#"(component (import "evil:host/shell" (instance (export "run" (func)))))"#;
    vec![
        ("a domain that does not exist", domain("nosuch.invalid")),
        ("a server that does not listen", nobody),
        ("a private address that is not granted", domain("10.0.0.1")),
        ("404", serve(vec![]).await),
        ("500", serve(vec![(DESCRIPTOR, answer("500 Internal Server Error", "text/plain", b"out of order"))]).await),
        ("HTML instead of JSON", serve(vec![(DESCRIPTOR, ok("text/html", b"<!DOCTYPE html><html><body>Welcome</body></html>"))]).await),
        ("a descriptor that is not JSON", describes("{\"objectName\": ").await),
        (
            "a descriptor with a wrong member",
            describes(r#"{"objectName":"default","version":"1","language":"WASM_COMPONENT","sourcePackageURL":"x.wasm","sourcePackage":{"sha256":"abc"}}"#).await,
        ),
        (
            "a stub in another language",
            describes(r#"{"objectName":"default","version":"1","language":"javascript","sourcePackageURL":"/sourcePackage"}"#).await,
        ),
        (
            "a component without a digest",
            describes(r#"{"objectName":"default","version":"1","language":"WASM_COMPONENT","sourcePackageURL":"component.wasm"}"#).await,
        ),
        (
            "a wrong digest",
            serve(vec![(DESCRIPTOR, ok("application/json", described)), (PACKAGE, ok("application/wasm", b"something else"))]).await,
        ),
        ("a truncated download", serve(vec![(DESCRIPTOR, ok("application/json", for_thousand.as_bytes())), (PACKAGE, truncated)]).await),
        ("a component that is not there", serve(vec![(DESCRIPTOR, ok("application/json", described))]).await),
        ("no WebAssembly", publishes(b"#!/bin/sh", json!({})).await),
        ("a core module", publishes(&wat("(module)"), json!({})).await),
        ("a component without the export", publishes(&wat("(component)"), json!({})).await),
        ("a component of another world", publishes(&wat(in_other_world), json!({})).await),
        ("start refuses", publishes(&actor, json!({ "start": { "do": "fail", "reason": "the configuration has no `url`" } })).await),
        ("a trap in start", publishes(&actor, json!({ "start": { "do": "panic", "reason": "index out of bounds" } })).await),
        ("a trap at once", publishes(&actor, json!({ "connect": { "do": "panic", "reason": "no more bytes" } })).await),
        (
            "a stub that reports a failure",
            publishes(&actor, json!({ "connect": { "do": "publish", "status": "failed", "reason": "wrong password" } })).await,
        ),
        ("a stub that is never live", publishes(&actor, json!({ "connect": { "do": "publish", "status": "in-progress" } })).await),
    ]
}

/// Replaces the parts of a text that differ in every run.
fn redact(text: &str, domain: &Domain) -> String {
    let text = if domain.port().is_some() { text.replace(domain.as_str(), "[domain]") } else { text.to_owned() };
    let mut redacted = String::new();
    for word in text.split_inclusive([' ', '/', ':', ',', '`']) {
        let core = word.trim_end_matches([' ', '/', ':', ',', '`']);
        let hex = core.len() >= 32 && core.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        redacted.push_str(if hex { "[id]" } else { core });
        redacted.push_str(&word[core.len()..]);
    }
    redacted
}

const A_MOMENT_AGO: &str = "the stub failed a moment ago, and a message can deploy it again in ";

/// Returns the cause of a failure, with or without the remark that it happened a moment ago.
fn itself(reason: &str) -> &str {
    match reason.split_once(A_MOMENT_AGO) {
        Some((_, after)) => after.split_once(" s: ").expect("what went wrong").1,
        None => reason,
    }
}

async fn told_error(runtime: &Runtime, domain: &Domain) -> String {
    let address = format!("hyperty://home.example/{domain}").replace(':', "-").replacen("hyperty-", "hyperty:", 1);
    let mut app = runtime.register_hyperty(address).await.expect("a hyperty");
    let to = format!("hyperty://{domain}/alice");
    // Three messages without a response, and a request. Each has one outcome.
    let ping = || Message::new(MessageType::Other("ping".into()), to.parse().unwrap());
    let outcomes = [(); 3].map(|()| app.post(ping()));
    let error = app.request(Message::read(to.parse().unwrap())).await.expect_err("no stub can be deployed");
    let reason = itself(&error.reason);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        // The deployment had failed before the next message was posted.
        assert_eq!(itself(&refused.reason), reason);
    }
    for _accepted in outcomes.iter().filter(|outcome| outcome.is_ok()) {
        let response = app.recv().await.expect("an error response");
        let body: Value = response.body.as_ref().expect("a body").parse().expect("JSON");
        assert_eq!((response.code(), body["desc"].as_str().map(itself)), (Some(error.code), Some(reason)), "{domain}");
    }
    // Until the pause is over, nothing is downloaded again, and the reason is the same. If the
    // pause is over already, the next one is longer.
    loop {
        let again = app.request(Message::read(to.parse().unwrap())).await.expect_err("still not");
        assert_eq!(itself(&again.reason), reason);
        if again.reason.contains(A_MOMENT_AGO) {
            break;
        }
    }
    format!("{} {}", error.code, redact(reason, domain))
}

#[tokio::test]
async fn domain_faults_have_clear_errors_and_lose_no_message() {
    let runtime = builder()
        .connect_timeout(Duration::from_secs(2))
        .request_timeout(Duration::from_secs(120))
        .build()
        .await
        .expect("a runtime");
    let mut told = String::new();
    for (name, domain) in cases().await {
        let _ = writeln!(told, "{name}\n    {}", told_error(&runtime, &domain).await);
    }
    assert!(runtime.protostubs().is_empty());
    let counts = runtime.counts();
    assert_eq!(counts.open, 0, "{counts:?}");
    insta::assert_snapshot!(told);
}

/// A source that fails, and counts its requests.
#[derive(Debug, Clone, Default)]
struct OutOfOrder(Arc<AtomicUsize>);

#[async_trait]
impl Source for OutOfOrder {
    async fn open(&self, _: &SourceRequest<'_>) -> Result<Document, Fault> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(Fault::Source("out of order".into()))
    }
}

/// The pause before the next attempt grows with each failure. `load_stub` ignores it.
#[tokio::test]
async fn failed_deployment_backs_off_except_for_load_stub() {
    let source = OutOfOrder::default();
    let runtime = builder().source(source.clone()).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let seconds_left = async || {
        let asked = source.0.load(Ordering::Relaxed);
        let error = app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("no stub");
        assert_eq!((error.code, source.0.load(Ordering::Relaxed)), (503, asked), "{error}");
        let (_, left) = error.reason.split_once("can deploy it again in ").unwrap_or_else(|| panic!("{error}"));
        left.split_once(" s: ").and_then(|(left, _)| left.parse::<f64>().ok()).unwrap_or_else(|| panic!("{error}"))
    };
    let fail = async |times: usize| {
        for _ in 0..times {
            let before = source.0.load(Ordering::Relaxed);
            runtime.load_stub("sp1.example").await.expect_err("no stub");
            assert_eq!(source.0.load(Ordering::Relaxed), before + 1, "who asks for the stub itself is not put off");
        }
    };
    fail(4).await;
    let after_4 = seconds_left().await;
    assert!(after_4 <= 8.0, "{after_4}");
    fail(2).await;
    let after_6 = seconds_left().await;
    assert!(after_6 > 16.0 && after_6 <= 32.0, "{after_6}");
    fail(4).await;
    let after_10 = seconds_left().await;
    assert!(after_10 > 32.0 && after_10 <= 60.0, "{after_10}");
}
