//! Each error that `wit/0.1/bus.wit` promises for `post`, by a real stub on a real runtime.

use protostub_runtime::{Domain, DomainSettings, LimitOverrides, Limits, Runtime};
use serde_json::{Value, json};

use crate::support::{body, builder, component, domain, order, source};

/// Returns the results of a post of a domain's stub.
async fn told(runtime: &Runtime, stub: &str, extra: Value) -> Vec<String> {
    let mut post = json!({ "do": "post" });
    post.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    let reply = runtime.request(order(&format!("hyperty://{stub}/actor"), post)).await.expect("an answer");
    let results = body(&reply)["value"].as_array().unwrap_or_else(|| panic!("{reply:?}")).clone();
    results.iter().map(|result| result.as_str().expect("a text").to_owned()).collect()
}

async fn check(runtime: &Runtime, stub: &str, extra: Value, expected: &str) {
    let results = told(runtime, stub, extra.clone()).await;
    assert!(results.last().is_some_and(|last| last.starts_with(expected)), "{extra}: {results:?}");
}

fn limits(change: impl FnOnce(&mut LimitOverrides)) -> DomainSettings {
    let mut settings = DomainSettings::default();
    change(&mut settings.limits);
    settings
}

/// Returns a runtime with the actor as the stub of each domain. The stub of `one.example` is
/// deployed.
async fn runtime(settings: Vec<(Domain, DomainSettings)>) -> Runtime {
    let domains = ["one.example", "two.example", "home.example"];
    let mut limits = Limits::default();
    (limits.inbox_messages, limits.inbox_bytes) = (4, 20_000);
    let built = builder().limits(limits).source(source(&domains, &component("actor"), &Value::Null));
    let built = settings.into_iter().fold(built, |built, (domain, settings)| built.domain(domain, settings));
    let runtime = built.build().await.expect("a runtime");
    runtime.deploy_protostub("one.example").await.expect("live");
    runtime
}

#[tokio::test]
async fn post_to_an_address_without_receiver_is_io() {
    let runtime = runtime(Vec::new()).await;
    let gone = runtime.register_hyperty("hyperty://home.example/gone").await.expect("a hyperty");
    check(&runtime, "one.example", json!({ "to": "hyperty://home.example/gone" }), "ok").await;
    drop(gone);
    for kind in ["update", "read"] {
        for to in [
            "hyperty://home.example/gone",
            "hyperty://home.example/nobody",
            "domain://registry.home.example",
            "global://registry",
            "mqtt://home.example/room/1",
            runtime.url().join("nobody").expect("an address").as_str(),
            "mn:/session",
        ] {
            check(&runtime, "one.example", json!({ "to": to, "type": kind }), "io: the ").await;
        }
        // Another domain stays closed, also one below the home domain.
        for to in ["hyperty://two.example/x", "hyperty://chat.home.example/x", "hyperty://nobody.example/x"] {
            check(&runtime, "one.example", json!({ "to": to, "type": kind }), "denied: failed to deploy the protocol stub of ")
                .await;
        }
    }
    assert_eq!(runtime.protostubs().len(), 1, "the posts trigger no deployment");
}

#[tokio::test]
async fn post_of_the_home_domains_stub_to_nobody_is_io() {
    let runtime = runtime(Vec::new()).await;
    runtime.deploy_protostub("home.example").await.expect("live");
    let _app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    check(&runtime, "home.example", json!({ "to": "hyperty://home.example/app" }), "ok").await;
    for to in ["hyperty://home.example/gone", "global://registry"] {
        check(&runtime, "home.example", json!({ "to": to }), "io: the address has no listener").await;
    }
    // Other stubs reach the domain through its stub.
    check(&runtime, "one.example", json!({ "to": "hyperty://home.example/gone" }), "ok").await;
}

/// `a_flood_of_posts_is_bounded` has the limit of posts per second.
#[tokio::test]
async fn post_errors_are_those_of_the_contract() {
    let small = (domain("two.example"), limits(|limits| limits.body_bytes = Some(500)));
    let runtime = runtime(vec![small]).await;
    let two = runtime.deploy_protostub("two.example").await.expect("live");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let app_is = |extra: Value| {
        let mut post = json!({ "to": "hyperty://home.example/app" });
        post.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        post
    };
    check(&runtime, "one.example", app_is(json!({ "from": "hyperty://two.example/x" })), "denied: `from` is").await;
    check(&runtime, "one.example", app_is(json!({ "to": "no address" })), "invalid: `to`").await;
    check(&runtime, "one.example", app_is(json!({ "bytes": (1 << 20) + 1 })), "invalid: `body` has 1048577 bytes").await;
    check(&runtime, "one.example", app_is(json!({ "headers": { "long": "x".repeat(9_000) } })), "invalid: the message's").await;
    check(&runtime, "one.example", app_is(json!({ "bytes": 30_000 })), "limit: the message has ").await;
    check(&runtime, "one.example", json!({ "to": "hyperty://two.example/x", "bytes": 501 }), "limit: the body has 501 bytes")
        .await;
    check(&runtime, "one.example", json!({ "to": "hyperty://two.example/x", "bytes": 500 }), "ok").await;
    // One sender gets half of the places, and one more.
    let accepted = ["ok", "ok", "ok", "busy", "busy"].map(str::to_owned);
    assert_eq!(told(&runtime, "one.example", app_is(json!({ "times": 5 }))).await, accepted);
    drop(app);
    check(&runtime, "one.example", app_is(json!({})), "io: the address has no listener").await;
    two.disconnect().await.expect("disconnected");
    check(&runtime, "one.example", json!({ "to": "hyperty://two.example/x" }), "io: the protocol stub of two.example").await;
}
