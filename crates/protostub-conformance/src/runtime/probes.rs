//! Scenarios that were measured with the original runtime, each with the wanted result.

use std::time::Duration;

use futures_util::future::join_all;
use protostub_runtime::Message;
use serde_json::{Value, json};

use super::{
    LoadGoal, RuntimeSuiteContext,
    fixture::{ALICE, Availability, DOMAIN, RuntimeFixture, address, with_time_limit},
};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// A probe: the wanted result, and its script.
macro_rules! probe {
    ($id:literal, $wanted:literal, $run:expr) => {
        Script {
            case: Case::new(concat!("runtime/probe-", $id), $wanted, concat!("tests/CASES.md: probe-", $id)),
            run: |context| Box::pin($run(context)),
        }
    };
}

pub(super) const CASES: &[Script<RuntimeSuiteContext>] = &[
    probe!("A", "A message to an unknown domain leads to one descriptor, one sandbox and one deployment, and is delivered.", a),
    probe!("B", "Five concurrent messages to one domain lead to one deployment, and are delivered in order.", b),
    probe!("V", "Twenty messages during and after a deployment are delivered in order.", v),
    probe!("T", "Addresses of a domain's functions and schemes lead to one deployment.", t),
    probe!("U", "`global://registry/` leads to the home domain's stub.", u),
    probe!("C", "Two concurrent `loadStub` calls for a domain lead to one deployment.", c),
    probe!("D", "`loadStub` of a stub that is created, in progress or disconnected returns the same stub.", d),
    probe!("E", "A message to a stub that is in progress waits and is delivered.", e),
    probe!("F", "A message to a failed stub gets an error at once; a deployment on request succeeds.", f),
    probe!("G", "If the catalogue fails once, an error and `deployment-failed` follow at once; a later deployment succeeds.", g),
    probe!("H", "If the stub's start fails, the requester gets an error, and nothing of the stub remains.", h),
    probe!("I-K", "A stub that never publishes `created`, or publishes `live` first, gets its first message.", i_k),
    probe!("J", "A stub that publishes created, in-progress and live in one call gets its first message.", j),
    probe!("L", "A message that a stub posts as another domain's stub is rejected.", l),
    probe!("N", "evilfoo.com and foo.com get a stub and a sandbox each.", n),
    probe!("S", "A message to an address of the runtime without a listener is answered with 404.", s),
    probe!("W", "After undeployment, a new message deploys a new stub, and nothing of the old one remains.", w),
];

async fn a(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.post(ALICE, 1)?;
    fixture.received(&[1]).await?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn b(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    (0..5).try_for_each(|n| fixture.post(ALICE, n))?;
    fixture.received(&[0, 1, 2, 3, 4]).await?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn v(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    (0..10).try_for_each(|n| fixture.post(ALICE, n))?;
    fixture.load(DOMAIN, LoadGoal::Deployed).await?;
    (10..20).try_for_each(|n| fixture.post(ALICE, n))?;
    fixture.received(&(0..20).collect::<Vec<_>>()).await?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn t(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let all = [
        "domain://msg-node.foo.com/sm",
        "domain://registry.foo.com",
        "hyperty://foo.com/1",
        "comm://foo.com/2",
        "runtime://foo.com/3",
    ];
    for answer in join_all(all.map(|to| fixture.order(to, json!({ "n": 1 })))).await {
        answer?;
    }
    fixture.deployed_once().await?;
    Ok(None)
}

async fn u(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &["home.example"], json!({})).await?;
    fixture.order("global://registry/", json!({ "n": 1 })).await?;
    fixture.deployed_once().await?;
    expect(fixture.subject.stub("home.example").is_some(), "the stub of home.example", || "none".to_owned())?;
    Ok(None)
}

async fn c(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let (one, two) = tokio::join!(fixture.load(DOMAIN, LoadGoal::Deployed), fixture.load(DOMAIN, LoadGoal::Deployed));
    let (one, two) = (one?, two?);
    expect(one.url == two.url, "one stub", || format!("{} and {}", one.url, two.url))?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn d(context: &RuntimeSuiteContext) -> CaseResult {
    for status in ["created", "in-progress", "disconnected"] {
        let fixture =
            RuntimeFixture::new(context, &[DOMAIN], json!({ "connect": { "do": "publish", "status": status } })).await?;
        let first = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
        with_time_limit(status, fixture.subject.wait_for_status(DOMAIN, status)).await?;
        let second = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
        expect(first.url == second.url, &format!("the same stub, which is {status}"), || {
            format!("{} and {}", first.url, second.url)
        })?;
        fixture.deployed_once().await?;
    }
    Ok(None)
}

async fn e(context: &RuntimeSuiteContext) -> CaseResult {
    let connect = json!([{ "do": "publish", "status": "in-progress" }, { "do": "timer", "ms": 30 }]);
    let configuration = json!({ "connect": connect, "timer": { "do": "publish", "status": "live" } });
    let fixture = RuntimeFixture::new(context, &[DOMAIN], configuration).await?;
    fixture.load(DOMAIN, LoadGoal::Deployed).await?;
    fixture.post(ALICE, 1)?;
    fixture.received(&[1]).await?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn f(context: &RuntimeSuiteContext) -> CaseResult {
    let failing = json!({ "connect": { "do": "publish", "status": "failed", "reason": "wrong password" } });
    let fixture = RuntimeFixture::new(context, &[DOMAIN], failing).await?;
    fixture.refused(ALICE, 503, "wrong password").await?;
    fixture.refused(ALICE, 503, "wrong password").await?;
    fixture.publish(DOMAIN, &json!({}))?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    fixture.order(ALICE, json!({ "n": 1 })).await?;
    fixture.registered(1, 1).await?;
    Ok(None)
}

async fn g(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.subject.subscribe(&format!("{}/status", fixture.subject.url())).await;
    fixture.catalogue.set_availability(Availability::OutOfOrder);
    fixture.refused(ALICE, 503, "out of order").await?;
    for wanted in ["DEPLOYING", "DEPLOYMENT-FAILED"] {
        let message = fixture.next(wanted).await?;
        let body: Value = message.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        expect(body["value"] == wanted, wanted, || body.to_string())?;
    }
    fixture.catalogue.set_availability(Availability::Available);
    // The runtime remembers a failure for a moment. A later message deploys the stub.
    let alice = address(ALICE)?;
    let recovered = async {
        loop {
            if let Ok(answer) = fixture.subject.request(Message::read(alice.clone())).await {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    with_time_limit("a later message deploys the stub", recovered).await?;
    fixture.registered(1, 1).await?;
    Ok(None)
}

async fn h(context: &RuntimeSuiteContext) -> CaseResult {
    for what in ["fail", "panic"] {
        let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "start": { "do": what, "reason": "no `url`" } })).await?;
        let loaded = with_time_limit("an error", fixture.subject.load_stub(DOMAIN, LoadGoal::Deployed)).await?;
        if let Ok(stub) = loaded {
            return Err(Verdict::fail("an error of `loadStub`", stub.url));
        }
        fixture.registered(0, 0).await?;
        fixture.refused(ALICE, 503, "no `url`").await?;
        fixture.publish(DOMAIN, &json!({}))?;
        fixture.load(DOMAIN, LoadGoal::Live).await?;
        fixture.registered(1, 1).await?;
    }
    Ok(None)
}

async fn i_k(context: &RuntimeSuiteContext) -> CaseResult {
    first_message(context, json!({ "do": "publish", "status": "live" })).await
}

async fn j(context: &RuntimeSuiteContext) -> CaseResult {
    let all = ["created", "in-progress", "live"].map(|status| json!({ "do": "publish", "status": status }));
    first_message(context, json!(all)).await
}

/// Checks that a stub receives its first message if it publishes these statuses at `connect`.
async fn first_message(context: &RuntimeSuiteContext, connect: Value) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "connect": connect })).await?;
    fixture.post(ALICE, 1)?;
    fixture.received(&[1]).await?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn l(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN, "bar.com"], json!({})).await?;
    let other = fixture.load("bar.com", LoadGoal::Live).await?;
    let forged = json!({ "do": "post", "from": other.url, "to": "hyperty://home.example/app" });
    let outcome = fixture.order(ALICE, forged).await?;
    let is_denied = outcome[0].as_str().is_some_and(|told| told.starts_with("denied: "));
    expect(is_denied, "denied", || outcome.to_string())?;
    fixture.order(ALICE, json!({ "do": "post", "from": ALICE, "to": "hyperty://home.example/app" })).await?;
    let first = fixture.next("a message from an allowed sender").await?;
    expect(first.from.as_str() == ALICE, ALICE, || first.from.to_string())?;
    Ok(None)
}

async fn n(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &["evilfoo.com", DOMAIN], json!({})).await?;
    let (evil, good) = (fixture.load("evilfoo.com", LoadGoal::Live).await?, fixture.load(DOMAIN, LoadGoal::Live).await?);
    let differ = evil.url != good.url && evil.sandbox != good.sandbox;
    expect(differ, "two stubs in two sandboxes", || format!("{evil:?} and {good:?}"))?;
    fixture.registered(2, 2).await?;
    Ok(None)
}

async fn s(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &["home.example"], json!({})).await?;
    fixture.refused(&format!("{}/nowhere", fixture.subject.url()), 404, "").await?;
    expect(fixture.catalogue.asked().0 == 0, "no deployment", || "a descriptor was fetched".to_owned())?;
    Ok(None)
}

async fn w(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "observer": "hyperty://home.example/app" })).await?;
    let first = fixture.load(DOMAIN, LoadGoal::Live).await?;
    with_time_limit("undeployed", fixture.subject.undeploy(DOMAIN)).await?;
    let goodbye = fixture.next("a message about the shutdown").await?;
    let body: Value = goodbye.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
    expect(body == json!({ "disconnect": "request" }), "a `disconnect` event", || body.to_string())?;
    fixture.registered(0, 0).await?;
    fixture.order(ALICE, json!({ "n": 1 })).await?;
    let second = fixture.subject.stub(DOMAIN);
    let is_new = second.as_ref().is_some_and(|second| second.url != first.url);
    expect(is_new, "a new stub", || format!("{second:?}"))?;
    fixture.registered(1, 1).await?;
    Ok(None)
}
