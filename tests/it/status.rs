//! Tests of a stub's status as subscribers receive it (steps 21 and 22), and as the host program
//! reads it.

use std::time::Duration;

use protostub_runtime::{Decision, Hop, Message, Policy, StatusForm, StatusUpdate, StubStatus};
use serde_json::json;

use crate::support::{body, builder, component, domain, source};

#[tokio::test]
async fn status_message_has_the_json_of_the_specification() {
    let source = source(&["sp1.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let url = stub.url().expect("a URL").clone();
    let topic = url.join("status").expect("an address");
    let answer = app.subscribe(topic.clone()).await.expect("an answer");
    assert_eq!(answer.code(), Some(200));

    // The current status comes at once.
    let live = app.recv().await.expect("a status");
    let id = &live.id;
    let exact = format!(r#"{{"id":"{id}","type":"UPDATE","from":"{url}","to":"{topic}","body":{{"value":"LIVE"}}}}"#);
    assert_eq!(live.to_phase1_json().expect("JSON"), exact);

    // Later statuses follow in order.
    stub.disconnect().await.expect("disconnected");
    let mut disconnected = app.recv().await.expect("a status");
    // A subscription during a publication may get that status twice. Both copies have the same id.
    if disconnected.id == live.id {
        disconnected = app.recv().await.expect("a status");
    }
    assert_eq!(body(&disconnected), json!({ "value": "DISCONNECTED" }));
    assert_eq!(disconnected.from, url);
    stub.connect().await.expect("connected");
    assert_eq!(body(&app.recv().await.expect("a status")), json!({ "value": "IN-PROGRESS" }));
    assert_eq!(body(&app.recv().await.expect("a status")), json!({ "value": "LIVE" }));

    assert_eq!(
        app.request(Message::new(protostub_runtime::MessageType::Unsubscribe, topic)).await.expect("an answer").code(),
        Some(200)
    );
    stub.undeploy().await.expect("undeployed");
}

#[tokio::test]
async fn runtime_status_covers_all_stubs_in_phase_2_form() {
    let source = source(&["sp1.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).status_form(StatusForm::Phase2).build().await.expect("a runtime");
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let topic = runtime.url().join("status").expect("an address");
    assert_eq!(app.subscribe(topic).await.expect("an answer").code(), Some(200));
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let url = stub.url().expect("a URL").to_string();
    stub.undeploy().await.expect("undeployed");
    let mut seen = Vec::new();
    loop {
        let update = app.recv().await.expect("a status");
        let body = body(&update);
        assert_eq!(&update.from, runtime.url());
        if body["resource"] == url.as_str() {
            seen.push(body["value"].as_str().expect("a value").to_owned());
        } else {
            assert_eq!(body["domain"], "sp1.example");
        }
        if body["value"] == "dead" {
            break;
        }
    }
    assert_eq!(seen.last().map(String::as_str), Some("dead"));
    assert!(seen.contains(&"live".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn only_hyperties_of_the_runtime_may_subscribe() {
    let source = source(&["sp1.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let topic = stub.url().expect("a URL").join("status").expect("an address");
    let answer = runtime.request(Message::subscribe(topic)).await.expect("an answer");
    assert_eq!(answer.code(), Some(403));
    assert_eq!(stub.status().status, StubStatus::Live);
}

/// A policy that refuses every message.
struct RefuseAll;

impl Policy for RefuseAll {
    fn decide(&self, _: &Hop<'_>) -> Decision {
        Decision::Refuse("nothing is allowed".to_owned())
    }
}

#[tokio::test]
async fn status_changes_need_no_permission_and_end_in_order() {
    let source = source(&["sp1.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).policy(RefuseAll).build().await.expect("a runtime");
    let mut changes = runtime.status_changes();
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    runtime.shutdown(Duration::from_secs(60)).await;
    let mut reports = Vec::new();
    while let Some(update) = changes.recv().await {
        let StatusUpdate::Changed(change) = update else { panic!("{update:?} instead of a change") };
        assert_eq!(change.key.domain(), &domain("sp1.example"));
        assert_eq!(change.stub.as_ref(), stub.url().filter(|_| change.report.status != StubStatus::Deploying));
        reports.push(change.report);
    }
    // No change is missing, and none comes twice.
    let numbers: Vec<_> = reports.iter().map(|report| report.sequence).collect();
    assert_eq!(numbers, (0..).take(reports.len()).collect::<Vec<_>>());
    let statuses: Vec<_> = reports.iter().map(|report| report.status).collect();
    assert_eq!((statuses.first(), statuses.last()), (Some(&StubStatus::Deploying), Some(&StubStatus::Dead)), "{statuses:?}");
    assert!(statuses.contains(&StubStatus::Live), "{statuses:?}");
}
