//! Tests of messages that wait: their memory, the shares of their senders, and copies that a
//! subscriber missed.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use protostub_runtime::{Body, Hyperty, Limits, Message, Runtime};
use serde_json::{Value, json};

use crate::support::{TestRuntime, body, builder, follow, order, soon};

const MIB: usize = 1 << 20;

fn name(nth: usize) -> String {
    format!("sp{nth}.example")
}

/// Starts a runtime with this many actors, all live.
async fn actors(built: protostub_runtime::RuntimeBuilder, count: usize) -> (Runtime, Hyperty) {
    let names: Vec<_> = (0..count).map(name).collect();
    let domains: Vec<_> = names.iter().map(String::as_str).collect();
    let (runtime, app) = TestRuntime::of_actors(built, &domains, &Value::Null).await.into_parts();
    let deployments = domains.iter().map(|domain| runtime.deploy_protostub(domain));
    let deployed: Vec<_> = stream::iter(deployments).buffered(8).collect().await;
    deployed.into_iter().for_each(|stub| drop(stub.expect("a stub")));
    (runtime, app)
}

fn alice(nth: usize) -> String {
    format!("hyperty://{}/alice", name(nth))
}

/// Sixty stubs take no messages, and hyperties post to them as much as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_sleeping_stubs_stays_within_the_limit() {
    const STUBS: usize = 60;
    const LIMIT: usize = 64 * MIB;
    let (runtime, app) = actors(builder().max_queued_bytes(LIMIT), STUBS + 1).await;
    for nth in 0..STUBS {
        assert_eq!(follow(&app, &alice(nth), json!({ "do": "pause" })).await, Ok(Value::Null));
    }
    let large: Body = Body::Json(Value::from("y".repeat(MIB - 300)).to_string().into());
    let small: Body = Body::Json("{}".into());
    let flood = |sender: &Hyperty, body: &Body| {
        let mut queued = 0;
        for nth in 0..STUBS {
            loop {
                let mut message = Message::update(alice(nth).parse().expect("an address"));
                message.body = Some(body.clone());
                let size = message.size() + sender.address().as_str().len();
                match sender.post(message) {
                    Ok(()) => queued += size,
                    Err(error) => {
                        assert_eq!(error.code, 429, "{error}");
                        break;
                    }
                }
            }
        }
        queued
    };
    // One hyperty put 960 MiB there before.
    let mut queued = flood(&app, &large) + flood(&app, &small);
    assert!((LIMIT / 3..LIMIT / 2).contains(&queued), "{queued} bytes of one sender");
    for other in 0..3 {
        let other = runtime.register_hyperty(format!("hyperty://home.example/other{other}")).await.expect("a hyperty");
        let accepted = flood(&other, &large);
        assert!(accepted > 0, "another sender has no share");
        queued += accepted;
    }
    assert!((LIMIT / 2..=LIMIT).contains(&queued), "{queued} bytes of all senders");
    // A stub that takes its messages gets them, also from the flooder.
    for _ in 0..20 {
        let echo = json!({ "do": "echo", "text": "z".repeat(1000) });
        assert_eq!(follow(&app, &alice(STUBS), echo.clone()).await, Ok(echo));
    }
}

/// A hyperty that reads nothing for a while learns the newest status of each stub.
#[tokio::test]
async fn unread_statuses_keep_the_newest_of_each_stub() {
    const STUBS: usize = 3;
    const ROUNDS: usize = 10;
    let mut limits = Limits::default();
    limits.inbox_messages = 12;
    let (runtime, app) = actors(builder().limits(limits), STUBS).await;
    let mut reader = runtime.register_hyperty("hyperty://home.example/reader").await.expect("a hyperty");
    let all = runtime.url().join("status").expect("an address");
    assert_eq!(reader.subscribe(all.clone()).await.expect("a response").code(), Some(200));
    let stubs = runtime.protostubs();
    // The Registry has published all statuses before once it answers a request.
    let registry = runtime.url().join("registry").expect("an address");
    let published = async || {
        let response = app.request(Message::read(registry.clone())).await.expect("a response");
        assert_eq!(response.code(), Some(200));
    };
    for round in 0..ROUNDS {
        for stub in &stubs {
            let status = json!({ "do": "publish", "status": "live", "reason": round.to_string() });
            let to = format!("hyperty://{}/alice", stub.domain());
            assert_eq!(app.request(order(&to, status)).await.expect("a response").code(), Some(200));
        }
        published().await;
    }
    for stub in &stubs {
        soon(stub.disconnect()).await.expect("disconnected");
    }
    published().await;
    let (mut newest, mut told) = (BTreeMap::new(), 0);
    while newest.len() < STUBS || newest.values().any(|value| value != "DISCONNECTED") {
        let copy = soon(reader.recv()).await.expect("a copy");
        assert_eq!(copy.to, all);
        told += copy.header("missed-copies").map_or(0, |missed| missed.parse::<u64>().expect("a number"));
        let body = body(&copy);
        let text = |key: &str| body[key].as_str().expect("a text").to_owned();
        newest.insert(text("resource"), text("value"));
    }
    assert!(told > 0 && told == reader.missed_copies(), "{told} of {} missed copies", reader.missed_copies());
}
