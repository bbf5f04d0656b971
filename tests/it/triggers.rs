//! Tests of step 1: triggers of deployments, and registrations at the domain.

use std::{sync::Arc, time::Duration};

use protostub_domain::{DomainServer, Limits, Memory};
use protostub_runtime::{
    Domain, DomainPattern, DomainSettings, HypertyDescriptor, Message, MessageType, Registration, Runtime, StubStatus,
};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::{
    support::{body, builder, component, domain, order, source},
    two_runtimes::{runtime, server_with},
};

fn execute(runtime: &Runtime, target: &str) -> Value {
    json!({ "do": "post", "type": "read", "to": runtime.url().join("ua").expect("an address").as_str(), "body": { "method": "loadStub", "params": [target] } })
}

/// Returns the host's answer to a post of the stub of `one.example`.
async fn told(runtime: &Runtime, post: Value) -> String {
    let reply = runtime.request(order("hyperty://one.example/x", post)).await.expect("an answer");
    body(&reply)["value"][0].as_str().unwrap_or_else(|| panic!("{reply:?}")).to_owned()
}

#[tokio::test]
async fn stub_deploys_others_only_with_a_grant() {
    let observer = json!({ "observer": "hyperty://home.example/observer" });
    let domains = ["one.example", "two.example", "chat.two.example", "three.example"];
    let mut settings = DomainSettings::default();
    settings.may_deploy = vec!["two.example".parse::<DomainPattern>().expect("a pattern")];
    let runtime = builder().source(source(&domains, &component("actor"), &observer)).domain(domain("one.example"), settings);
    let runtime = runtime.build().await.expect("a runtime");
    let mut observer = runtime.register_hyperty("hyperty://home.example/observer").await.expect("a hyperty");
    let post = |to: &str| json!({ "do": "post", "to": to, "body": { "do": "echo" } });

    for refused in ["hyperty://three.example/x", "hyperty://chat.two.example/x"] {
        let reason = told(&runtime, post(refused)).await;
        assert!(reason.starts_with("denied: ") && reason.contains("may-deploy"), "{reason}");
    }
    // `loadStub` does not bypass the grant, regardless of its `from`. It does not return a stub
    // that another sender deployed either.
    runtime.deploy_protostub("three.example").await.expect("live");
    for target in ["chat.two.example", "three.example"] {
        let mut load = execute(&runtime, target);
        load["type"] = "execute".into();
        load["headers"] = json!({ "expects-response": "true" });
        assert_eq!(told(&runtime, load).await, "ok");
        let response = body(&observer.recv().await.expect("a response"));
        assert_eq!(response["response"]["code"], 403, "{response}");
    }
    assert_eq!(runtime.protostubs().len(), 2);

    assert_eq!(told(&runtime, post("hyperty://two.example/x")).await, "ok");
    let two = runtime.deploy_protostub("two.example").await.expect("live");
    assert_eq!(two.status().status, StubStatus::Live);
    assert_eq!(runtime.protostubs().len(), 3);
}

#[tokio::test]
async fn deployments_per_minute_limits_each_hyperty() {
    let domains = ["one.example", "two.example", "three.example", "four.example"];
    let runtime = builder().source(source(&domains, &component("actor"), &Value::Null)).deployments_per_minute(2);
    let runtime = runtime.build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let ask = |domain: &str| Message::read(format!("hyperty://{domain}/x").parse().unwrap());
    for domain in &domains[..2] {
        assert_eq!(app.request(ask(domain)).await.expect("an answer").code(), Some(200));
    }
    let error = app.request(ask("three.example")).await.expect_err("a third one");
    assert_eq!(error.code, 429);
    assert!(error.reason.contains("2 deployments per minute"), "{}", error.reason);
    // Deployed stubs do not count, and each hyperty has its own count.
    assert_eq!(app.request(ask("one.example")).await.expect("an answer").code(), Some(200));
    let other = runtime.register_hyperty("hyperty://home.example/other").await.expect("a hyperty");
    assert_eq!(other.request(ask("three.example")).await.expect("an answer").code(), Some(200));
    runtime.deploy_protostub("four.example").await.expect("live");
}

/// If several hyperties request the same stub at the same time, only the one whose trigger starts
/// the deployment is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_askers_trigger_one_counted_deployment() {
    const ASKERS: usize = 12;
    let own: Vec<_> = (0..ASKERS).map(|number| format!("own{number}.example")).collect();
    let domains: Vec<_> = own.iter().map(String::as_str).chain(["shared.example"]).collect();
    let runtime = builder().source(source(&domains, &component("actor"), &Value::Null)).deployments_per_minute(1);
    let runtime = runtime.build().await.expect("a runtime");
    let mut askers = Vec::new();
    for number in 0..ASKERS {
        askers.push(runtime.register_hyperty(format!("hyperty://home.example/{number}")).await.expect("a hyperty"));
    }
    let barrier = Arc::new(Barrier::new(ASKERS));
    let asking = askers.into_iter().map(|asker| {
        let barrier = Arc::clone(&barrier);
        tokio::spawn(async move {
            barrier.wait().await;
            (asker.request(Message::read("hyperty://shared.example/x".parse().unwrap())).await.expect("an answer"), asker)
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut refused = 0;
    for (asking, own) in asking.into_iter().zip(&own) {
        let (reply, asker) = asking.await.expect("no panic");
        assert_eq!(reply.code(), Some(200));
        match asker.request(Message::read(format!("hyperty://{own}/x").parse().unwrap())).await {
            Ok(reply) => assert_eq!(reply.code(), Some(200)),
            Err(error) => {
                assert_eq!(error.code, 429, "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, runtime.protostubs().len()), (1, ASKERS), "the shared stub, and one of each other asker");
}

/// Returns the answer of a domain's Registry about an address.
async fn looked_up(runtime: &Runtime, domain: &Domain, url: &str) -> Value {
    let registry = format!("domain://registry.{domain}");
    let reply =
        runtime.request(Message::read(registry.parse().unwrap()).with_body(json!({ "resource": url }))).await.expect("an answer");
    body(&reply)
}

async fn registrations(server: &DomainServer, expected: usize) {
    server.node().counts().wait_for(|counts| counts.registrations == expected).await.expect("the node is there");
}

#[tokio::test]
async fn described_hyperty_deploys_its_domain_stub_and_is_registered() {
    let (server, _folder) = server_with(Limits::default()).await;
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let address = format!("hyperty://{}/bob", server.domain());
    let mut descriptor = HypertyDescriptor::default();
    descriptor.resources = vec!["chat".to_owned()];
    let mut hyperty = bob.register_hyperty_with(address.as_str(), descriptor).await.expect("a hyperty");
    assert_eq!(bob.protostubs().len(), 1, "its domain's stub is there, or will be");
    assert_eq!(hyperty.until_registered().await, Some(Registration::Registered));

    let found = looked_up(&alice, server.domain(), &address).await;
    assert_eq!(
        (&found["value"]["status"], &found["value"]["resources"], &found["value"]["runtime"]),
        (&json!("live"), &json!(["chat"]), &json!(bob.url().as_str())),
        "{found}"
    );
    let (reply, ()) = tokio::join!(alice.request(Message::read(address.parse().unwrap())), async {
        let question = hyperty.recv().await.expect("a message");
        hyperty.post(question.response(200, None)).expect("accepted");
    });
    assert_eq!(reply.expect("an answer").code(), Some(200));

    // After a server has lost its registrations, the runtime registers again.
    server.stop().await.expect("stopped");
    bob.protostubs()[0].watch().until(|report| report.status == StubStatus::Disconnected).await;
    server.start_again(Memory::Lost).await.expect("started again");
    registrations(&server, 1).await;

    drop(hyperty);
    registrations(&server, 0).await;
    assert_eq!(looked_up(&alice, server.domain(), &address).await["code"], 404);
}

#[tokio::test]
async fn unregistrable_hyperty_gets_the_reason_and_works_locally() {
    let (server, _folder) = server_with(Limits::default()).await;
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let address = format!("hyperty://{}/bob", server.domain());
    let first = bob.register_hyperty_with(address.as_str(), HypertyDescriptor::default()).await.expect("a hyperty");
    assert_eq!(first.until_registered().await, Some(Registration::Registered));
    let second = alice.register_hyperty_with(address.as_str(), HypertyDescriptor::default()).await.expect("it is nobody's here");
    let Some(Registration::Failed { reason }) = second.until_registered().await else { panic!("{second:?}") };
    assert!(reason.contains("answers with code 403"), "{reason}");

    let nowhere = alice.register_hyperty_with("mn:/x", HypertyDescriptor::default()).await.expect_err("it has no domain");
    assert!(format!("{nowhere:?}").contains("mn:/x"), "{nowhere:?}");
    let mut local = HypertyDescriptor::default();
    local.register = false;
    let local = bob.register_hyperty_with(format!("hyperty://{}/local", server.domain()), local).await.expect("a hyperty");
    assert_eq!((local.registration(), local.until_registered().await), (None, None));
}

#[tokio::test]
async fn deployed_stub_is_registered_at_its_domain() {
    let (server, _folder) = server_with(Limits::default()).await;
    let mut settings = DomainSettings::default();
    settings.register = true;
    let bob = builder().home_domain(server.domain().as_str()).grace(Duration::from_secs(30));
    let bob = bob.domain(server.domain().clone(), settings).build().await.expect("a runtime");
    let alice = runtime(&server).await;
    for ends_by_shutdown in [false, true] {
        let stub = bob.deploy_protostub(server.domain().as_str()).await.expect("live");
        registrations(&server, 1).await;
        let found = looked_up(&alice, server.domain(), stub.url().expect("an address").as_str()).await;
        assert_eq!(found["value"]["descriptor"], json!(stub.descriptor_url().expect("a URL").as_str()), "{found}");
        if ends_by_shutdown {
            break;
        }
        stub.undeploy().await.expect("undeployed");
        assert_eq!(stub.registration(), Some(Registration::Removed));
        registrations(&server, 0).await;
    }
    let outcome = bob.shutdown(Duration::from_secs(10)).await;
    assert_eq!((outcome.stopped.len(), outcome.abandoned.len()), (1, 0));
    registrations(&server, 0).await;
}

#[tokio::test]
async fn response_message_deploys_no_stub() {
    let runtime = builder().source(source(&["one.example"], &component("actor"), &Value::Null)).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    app.post(Message::new(MessageType::Response, "hyperty://one.example/x".parse().unwrap())).expect("counted and dropped");
    assert_eq!(runtime.protostubs().len(), 0);
}
