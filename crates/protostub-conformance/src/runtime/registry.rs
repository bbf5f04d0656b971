//! Registry, Runtime UA, bus, sandbox and catalogue, as the original runtime's tests require.

use std::time::Duration;

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

/// Time until a published status has reached its subscribers.
const WHILE: Duration = Duration::from_millis(100);

/// A case of the catalogue, and its script.
macro_rules! case {
    ($id:literal, $wanted:literal, $run:expr) => {
        Script {
            case: Case::new(concat!("runtime/", $id), $wanted, concat!("tests/CASES.md: ", $id)),
            run: |context| Box::pin($run(context)),
        }
    };
}

pub(super) const CASES: &[Script<RuntimeSuiteContext>] = &[
    case!(
        "C1",
        "A stub publishes in-progress and live, and disconnected after disconnect(). Each is an `update` to `<stub>/status`.",
        c1
    ),
    case!("C16", "A message after disconnect() is answered with an error, not lost.", c16),
    case!("R1", "The stub's URL is of its domain, below `protostub/`.", r1),
    case!("R5", "After `live`, the Registry finds the stub of the domain, and its status is live.", r5),
    case!("R6", "The domain, an address of it, and the stub's URL lead to one sandbox.", r6),
    case!("R7", "An address of a domain is resolved to the domain's stub.", r7),
    case!("R8", "The Registry does not find an undeployed stub.", r8),
    case!("L1", "Three loadStub calls, one after the other, succeed and return the same stub.", l1),
    case!("B5", "A response reaches its requester before the timeout.", b5),
    case!("B7", "A response reaches its requester only.", b7),
    case!("X1", "The sandbox has no component after its removal.", x1),
    case!("X3", "A message that the guest posts reaches the listener outside.", x3),
    case!("K1", "The runtime fetches the descriptor, and its configuration reaches the stub.", k1),
    case!("K-default", "Without a name in the address, the runtime looks up the stub `default`.", k_default),
    case!("K-missing", "A stub that the catalogue does not have is an error, not a deployment.", k_missing),
    case!(
        "K-unchanged",
        "If the version is unchanged, the component is not downloaded again, and the stub keeps running.",
        k_unchanged
    ),
    case!("K-bump", "A newer version is downloaded and replaces the old one.", k_bump),
    case!("K-unreachable", "While the catalogue is unreachable, the downloaded version keeps running.", k_unreachable),
    case!("K8", "An invalid descriptor is an error, not a deployment.", k8),
];

async fn statuses(fixture: &RuntimeFixture, url: &str, wanted: &[&str]) -> CaseResult<()> {
    for status in wanted {
        let update = fixture.next(status).await?;
        let body: Value = update.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        let is_it = update.from.as_str() == url
            && update.to.as_str() == format!("{url}/status")
            && update.kind.as_str() == "update"
            && body["value"].as_str().is_some_and(|value| value.eq_ignore_ascii_case(status));
        expect(is_it, &format!("`{status}` from {url}"), || update.to_json().unwrap_or_default())?;
    }
    Ok(())
}

async fn c1(context: &RuntimeSuiteContext) -> CaseResult {
    let timer = json!({ "do": "publish", "status": "live" });
    let connect = json!([{ "do": "publish", "status": "in-progress" }, { "do": "timer", "ms": 3000 }]);
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "connect": connect, "timer": timer })).await?;
    let stub = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
    with_time_limit("in-progress", fixture.subject.wait_for_status(DOMAIN, "in-progress")).await?;
    // A subscriber at the moment of a change may receive the status twice.
    tokio::time::sleep(WHILE).await;
    fixture.subject.subscribe(&format!("{}/status", stub.url)).await;
    statuses(&fixture, &stub.url, &["in-progress", "live"]).await?;
    with_time_limit("disconnected", fixture.subject.disconnect(DOMAIN)).await?;
    statuses(&fixture, &stub.url, &["disconnected"]).await?;
    Ok(None)
}

async fn c16(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    with_time_limit("disconnected", fixture.subject.disconnect(DOMAIN)).await?;
    fixture.refused(ALICE, 503, "disconnect").await?;
    Ok(None)
}

async fn r1(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let stub = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
    let (_, rest) = stub.url.split_once("://").unwrap_or_default();
    expect(rest.starts_with("foo.com/protostub/"), "…://foo.com/protostub/…", || stub.url.clone())?;
    let told = fixture.order(ALICE, json!({ "do": "url" })).await?;
    expect(told == stub.url.as_str(), &stub.url, || told.to_string())?;
    Ok(None)
}

async fn r5(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    let found = fixture.subject.stub(DOMAIN);
    expect(found.as_ref().is_some_and(|stub| stub.status == "live"), "a stub that is live", || format!("{found:?}"))?;
    Ok(None)
}

async fn r6(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let first = fixture.load(DOMAIN, LoadGoal::Live).await?;
    for target in [DOMAIN, ALICE, "domain://registry.foo.com", &first.url] {
        let again = fixture.load(target, LoadGoal::Live).await?;
        expect(again.sandbox == first.sandbox, &first.sandbox, || format!("{} for {target}", again.sandbox))?;
    }
    fixture.deployed_once().await?;
    Ok(None)
}

async fn r7(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let stub = fixture.load(DOMAIN, LoadGoal::Live).await?;
    let told = fixture.order("hyperty://foo.com/123-dhsdhsg", json!({ "do": "url" })).await?;
    expect(told == stub.url.as_str(), &stub.url, || told.to_string())?;
    Ok(None)
}

async fn r8(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    with_time_limit("undeployed", fixture.subject.undeploy(DOMAIN)).await?;
    let found = fixture.subject.stub(DOMAIN);
    expect(found.is_none(), "no stub", || format!("{found:?}"))?;
    Ok(None)
}

async fn l1(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let first = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
    for _ in 0..2 {
        let again = fixture.load(DOMAIN, LoadGoal::Deployed).await?;
        expect(again.url == first.url, &first.url, || again.url.clone())?;
    }
    fixture.deployed_once().await?;
    Ok(None)
}

async fn b5(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let answer = fixture.order(ALICE, json!({ "n": 7 })).await?;
    expect(answer["n"] == 7, "its own answer", || answer.to_string())?;
    Ok(None)
}

async fn b7(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.order(ALICE, json!({ "n": 7 })).await?;
    // A response would arrive before this message, which is sent later.
    fixture.order(ALICE, json!({ "do": "post", "id": "fence", "from": ALICE, "to": "hyperty://home.example/app" })).await?;
    let first = fixture.next("a message for the listener").await?;
    expect(first.kind.as_str() != "response", "no response of another requester", || first.to_json().unwrap_or_default())?;
    Ok(None)
}

async fn x1(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    fixture.registered(1, 1).await?;
    with_time_limit("undeployed", fixture.subject.undeploy(DOMAIN)).await?;
    fixture.registered(0, 0).await?;
    Ok(None)
}

async fn x3(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    for n in 0..3 {
        let post = json!({ "do": "post", "from": ALICE, "to": "hyperty://home.example/app", "body": { "n": n } });
        fixture.order(ALICE, post).await?;
        let message = fixture.next("the message that the guest posts").await?;
        let body: Value = message.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        expect(body["n"] == n, &format!("message {n}"), || body.to_string())?;
    }
    Ok(None)
}

async fn k1(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "colour": "blue" })).await?;
    let told = fixture.order(ALICE, json!({ "do": "configuration" })).await?;
    expect(told["colour"] == "blue", "the descriptor's configuration", || told.to_string())?;
    expect(told["runtimeURL"] == fixture.subject.url().as_str(), "the runtime's URL", || told.to_string())?;
    Ok(None)
}

async fn k_default(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[], json!({})).await?;
    for (name, colour) in [("another", "red"), ("default", "blue"), ("yet-another", "red")] {
        fixture.publish_as(DOMAIN, name, "1.0", &json!({ "colour": colour }))?;
    }
    let told = fixture.order(ALICE, json!({ "do": "configuration" })).await?;
    expect(told["colour"] == "blue", "the stub `default`", || told.to_string())?;
    fixture.deployed_once().await?;
    Ok(None)
}

async fn k_missing(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &["bar.com"], json!({})).await?;
    fixture.refused(ALICE, 503, "").await?;
    fixture.registered(0, 0).await?;
    let components = fixture.catalogue.asked().1;
    expect(components == 0, "no component asked for", || components.to_string())?;
    Ok(None)
}

async fn k_unchanged(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    let first = fixture.load(DOMAIN, LoadGoal::Live).await?;
    let version = fixture.updated(DOMAIN).await?;
    expect(version.as_deref() == Ok("1.0"), "version 1.0", || format!("{version:?}"))?;
    let components = fixture.catalogue.asked().1;
    expect(components == 1, "one component downloaded", || components.to_string())?;
    let again = fixture.load(DOMAIN, LoadGoal::Live).await?;
    expect(again.url == first.url, &first.url, || again.url.clone())?;
    fixture.registered(1, 1).await?;
    Ok(None)
}

async fn k_bump(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({ "colour": "red" })).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    fixture.publish_as(DOMAIN, "default", "1.1", &json!({ "colour": "blue" }))?;
    let version = fixture.updated(DOMAIN).await?;
    expect(version.as_deref() == Ok("1.1"), "version 1.1", || format!("{version:?}"))?;
    let told = fixture.order(ALICE, json!({ "do": "configuration" })).await?;
    expect(told["colour"] == "blue", "the configuration of version 1.1", || told.to_string())?;
    fixture.registered(1, 1).await?;
    Ok(None)
}

async fn k_unreachable(context: &RuntimeSuiteContext) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[DOMAIN], json!({})).await?;
    fixture.load(DOMAIN, LoadGoal::Live).await?;
    fixture.catalogue.set_availability(Availability::OutOfOrder);
    let version = fixture.updated(DOMAIN).await?;
    expect(version.is_err(), "an error of the update", || format!("{version:?}"))?;
    fixture.order(ALICE, json!({ "n": 1 })).await?;
    fixture.registered(1, 1).await?;
    Ok(None)
}

async fn k8(context: &RuntimeSuiteContext) -> CaseResult {
    for descriptor in ["<html>", "{}", r#"{"objectName":"default","version":"1","language":"javascript","sourcePackageURL":"x"}"#]
    {
        let fixture = RuntimeFixture::new(context, &[], json!({})).await?;
        fixture.catalogue.insert(DOMAIN, descriptor.to_owned(), b"")?;
        fixture.refused(ALICE, 503, "descriptor").await?;
        if let Ok(Ok(answer)) = with_time_limit("an error", fixture.subject.request(Message::read(address(ALICE)?))).await {
            return Err(Verdict::fail("no answer of a stub", answer.to_json().unwrap_or_default()));
        }
        fixture.registered(0, 0).await?;
    }
    Ok(None)
}
