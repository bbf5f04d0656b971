//! Tests of an operator's rules on every hop.

use std::sync::Arc;

use protostub_runtime::{CedarPolicy, Decision, Hop, Message, MessageType, Origin, Policy, Receiver, Runtime};
use serde_json::{Value, json};

use crate::support::{body, builder, component, order, source};

/// A policy in Rust. The function returns the reason of a refusal.
struct Rule<F>(F);

impl<F: Fn(&Hop<'_>) -> Option<&'static str> + Send + Sync> Policy for Rule<F> {
    fn decide(&self, hop: &Hop<'_>) -> Decision {
        (self.0)(hop).map_or(Decision::Permit, |reason| Decision::Refuse(reason.to_owned()))
    }
}

fn rule(rule: impl Fn(&Hop<'_>) -> Option<&'static str> + Send + Sync + 'static) -> Option<Arc<dyn Policy>> {
    Some(Arc::new(Rule(rule)))
}

async fn runtime() -> Runtime {
    let source = source(&["sp1.example", "sp2.example"], &component("actor"), &json!({}));
    builder().source(source).build().await.expect("a runtime")
}

/// Returns the host's answer to a stub's post.
fn heard(reply: &Message) -> Value {
    body(reply)["value"][0].clone()
}

#[tokio::test]
async fn denied_request_gets_403_and_the_reason_and_deploys_no_stub() {
    let to_sp2 = |hop: &Hop<'_>| hop.domain_of(&hop.message.to).is_some_and(|domain| domain.as_str() == "sp2.example");
    let source = source(&["sp1.example", "sp2.example"], &component("actor"), &json!({}));
    let policy = Rule(move |hop: &Hop<'_>| to_sp2(hop).then_some("sp2.example is not to be talked to"));
    let runtime = builder().source(source).policy(policy).build().await.expect("a runtime");
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let refused = app.request(Message::read("hyperty://sp2.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "sp2.example is not to be talked to"));
    let refused = app.post(Message::update("domain://registry.sp2.example".parse().unwrap())).expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "sp2.example is not to be talked to"));
    assert!(runtime.protostubs().is_empty());
    app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect("a reply");
    assert_eq!(runtime.counts().denied, 2);

    // Rules are replaced while the runtime runs.
    runtime.set_policy(rule(|hop| matches!(hop.receiver, Receiver::Stub(_)).then_some("no stub is to be talked to")));
    let refused = app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "no stub is to be talked to"));
    runtime.set_policy(None);
    app.request(Message::read("hyperty://sp2.example/alice".parse().unwrap())).await.expect("a reply");
    let received = app.recv();
    tokio::pin!(received);
    assert!(futures_util::poll!(&mut received).is_pending(), "a refusal is told once");
}

#[tokio::test]
async fn policy_judges_posts_and_answers_of_stubs() {
    let runtime = runtime().await;
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let from_stub = |hop: &Hop<'_>| matches!(hop.origin, Origin::Stub(_));
    runtime
        .set_policy(rule(move |hop| (from_stub(hop) && hop.message.kind != MessageType::Response).then_some("it only answers")));
    for kind in ["update", "read"] {
        let post = json!({ "do": "post", "type": kind, "to": "hyperty://home.example/app" });
        let reply = app.request(order("hyperty://sp1.example/alice", post)).await.expect("a reply");
        assert_eq!(heard(&reply), "denied: it only answers");
    }
    // From one stub to another.
    runtime.deploy_protostub("sp2.example").await.expect("a stub");
    let post = json!({ "do": "post", "type": "update", "to": "hyperty://sp2.example/bob" });
    let reply = app.request(order("hyperty://sp1.example/alice", post)).await.expect("a reply");
    assert_eq!(heard(&reply), "denied: it only answers");

    runtime
        .set_policy(rule(move |hop| (from_stub(hop) && hop.message.kind == MessageType::Response).then_some("it never answers")));
    let refused = app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "the response was refused: it never answers"));
    let post = json!({ "do": "post", "type": "update", "to": "hyperty://home.example/app" });
    app.request(order("hyperty://sp1.example/alice", post)).await.expect_err("refused");
    assert_eq!(app.recv().await.expect("a message").kind, MessageType::Update);
}

#[tokio::test]
async fn policy_judges_messages_of_the_runtime() {
    let runtime = runtime().await;
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    runtime.set_policy(rule(|hop| (*hop.origin == Origin::Host).then_some("the runtime is silent")));
    let refused = app.subscribe(runtime.url().join("status").expect("an address")).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "the response was refused: the runtime is silent"));
    let refused = runtime.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!(refused.code, 403);
    // A refused status message does not affect the stub.
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    assert!(runtime.counts().denied > 2);
}

#[tokio::test]
async fn cedar_rules_are_reloaded_while_messages_flow() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.cedar");
    let rules = |text: &str| {
        std::fs::write(&file, text).expect("written");
        CedarPolicy::load(&file)
    };
    let policy = rules(
        r#"
        permit (principal is Hyperty in Domain::"home.example", action, resource);
        permit (principal is Stub, action, resource) when { context.receiver == "stub" };
        @reason("sp2.example is served by hyperties only")
        forbid (principal is Stub, action, resource in Domain::"sp2.example");
        "#,
    );
    let source = source(&["sp1.example", "sp2.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).policy(policy.expect("policies")).build().await.expect("a runtime");
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    // Deployment, status and answers need no rule in the file.
    let stub = runtime.deploy_protostub("sp2.example").await.expect("a stub");
    app.subscribe(stub.url().expect("a URL").join("status").expect("an address")).await.expect("an answer");
    assert_eq!(app.recv().await.expect("the status").from, *stub.url().expect("a URL"));

    let post = |to: &str| order("hyperty://sp1.example/alice", json!({ "do": "post", "type": "update", "to": to }));
    let reply = app.request(post("hyperty://sp2.example/bob")).await.expect("a reply");
    assert_eq!(heard(&reply), "denied: sp2.example is served by hyperties only");
    let reply = app.request(post("hyperty://home.example/app")).await.expect("a reply");
    let heard_by_stub = heard(&reply);
    let told = heard_by_stub.as_str().expect("a text");
    assert!(
        told.starts_with("denied: no policy permits `update` from ") && told.ends_with("to hyperty://home.example/app"),
        "{told}"
    );

    // After an error in a new file, the old rules stay in force.
    let fault = rules("permit (principal, action, ressource);").expect_err("a fault").to_string();
    assert!(fault.contains("rules.cedar:1:28: "), "{fault}");
    assert_eq!(heard(&app.request(post("hyperty://home.example/app")).await.expect("a reply")), heard_by_stub);

    let all_but_alice =
        r#"permit (principal, action, resource); forbid (principal, action, resource) when { resource.path == "/alice" };"#;
    runtime.set_policy(Some(Arc::new(rules(all_but_alice).expect("policies"))));
    let refused = app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (403, "policy 2 of rules.cedar forbids the message"));
    let say = json!({ "do": "post", "type": "update", "to": "hyperty://home.example/app" });
    assert_eq!(heard(&app.request(order("hyperty://sp1.example/bob", say)).await.expect("a reply")), "ok");
    assert_eq!(app.recv().await.expect("a message").kind, MessageType::Update);
}
