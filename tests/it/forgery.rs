//! Tests of a stub's identity on the bus, from the receiver's side: a stub can be itself and its
//! domain only.

use protostub_runtime::{Address, DomainSettings, Hyperty, Message, Runtime, RuntimeBuilder, StatusForm};
use serde_json::{Value, json};

use crate::support::{TestRuntime, body, builder, domain, order};

const APP: &str = "hyperty://home.example/app";

/// Starts a runtime with live stubs of these domains. Its own domain is `home.example`.
async fn runtime(builder: RuntimeBuilder, domains: &[&str]) -> (Runtime, Hyperty) {
    let builder = builder.status_form(StatusForm::Phase2);
    let TestRuntime { runtime, app } = TestRuntime::of_actors(builder, domains, &json!({ "observer": APP })).await;
    for domain in domains {
        runtime.deploy_protostub(domain).await.expect("a stub");
    }
    (runtime, app)
}

/// Returns the host's answers to the posts of a domain's stub.
async fn posts(runtime: &Runtime, domain: &str, post: Value) -> Value {
    let mut post = post;
    post["do"] = "post".into();
    let response = runtime.request(order(&format!("hyperty://{domain}/somebody"), post)).await.expect("an answer");
    body(&response)["value"].clone()
}

/// Returns all messages that arrive until the registry has processed the earlier requests and its
/// notifications have reached the hyperty.
async fn heard(app: &mut Hyperty, runtime: &Runtime) -> Vec<Message> {
    let registry = runtime.url().join("registry").expect("an address");
    app.request(Message::read(registry)).await.expect("the registry answers");
    app.post(Message::update(app.address().clone()).with_body(json!("the end"))).expect("posted");
    let mut heard = Vec::new();
    loop {
        let message = app.recv().await.expect("the end comes");
        if message.body.as_ref().is_some_and(|body| body.parse::<Value>().is_ok_and(|body| body == "the end")) {
            return heard;
        }
        heard.push(message);
    }
}

fn stub_of(runtime: &Runtime, name: &str) -> Address {
    let stub = runtime.protostubs().into_iter().find(|stub| stub.key().domain() == &domain(name)).expect("it is there");
    stub.url().expect("a URL").clone()
}

#[tokio::test]
async fn status_of_another_stub_cannot_be_forged() {
    let (runtime, mut app) = runtime(builder(), &["sp1.example", "sp2.example"]).await;
    let (own, other) = (stub_of(&runtime, "sp1.example"), stub_of(&runtime, "sp2.example"));
    let of_runtime = runtime.url().join("status").expect("an address");
    for topic in [of_runtime.clone(), other.join("status").expect("an address"), own.join("status").expect("an address")] {
        assert_eq!(app.subscribe(topic).await.expect("an answer").code(), Some(200));
    }
    heard(&mut app, &runtime).await;
    let forged = json!({ "value": "failed", "domain": "sp2.example", "resource": other, "desc": "forged" });
    let registry = runtime.url().join("registry").expect("an address");
    for from in [own.as_str(), "hyperty://sp1.example/x"] {
        for to in [of_runtime.as_str(), &format!("{other}/status"), &format!("{own}/status"), registry.as_str()] {
            for headers in [json!({}), json!({ "expects-response": "true", "timeout-ms": "1" })] {
                posts(&runtime, "sp1.example", json!({ "from": from, "to": to, "body": forged, "headers": headers })).await;
            }
        }
    }
    // The registry does not forward a forged status either.
    let claims = |message: &Message| body(message).to_string().contains("forged");
    let heard = heard(&mut app, &runtime).await;
    assert!(!heard.iter().any(claims), "{heard:?}");
    // A post in another's name is refused before it reaches the receiver.
    for from in [other.as_str(), &format!("{other}/status"), runtime.url().as_str(), of_runtime.as_str()] {
        let refused = posts(&runtime, "sp1.example", json!({ "from": from, "to": of_runtime, "body": forged })).await;
        assert!(refused[0].as_str().expect("a text").starts_with("denied"), "{from}: {refused}");
    }
}

#[tokio::test]
async fn home_domain_stub_has_no_rights_of_hyperties() {
    let (runtime, mut app) = runtime(builder(), &["home.example"]).await;
    let stub = stub_of(&runtime, "home.example");
    let of_runtime = runtime.url().join("status").expect("an address");
    assert_eq!(app.subscribe(of_runtime.clone()).await.expect("an answer").code(), Some(200));
    heard(&mut app, &runtime).await;
    // The stub may send from addresses of its domain, including the app's. Its requests still count
    // as those of a stub.
    let addresses = ["registry", "status", "identity", "ua"].map(|name| runtime.url().join(name).expect("an address"));
    for (number, (to, kind, body)) in [
        (&addresses[0], "read", Value::Null),
        (&addresses[1], "subscribe", Value::Null),
        (&addresses[1], "unsubscribe", Value::Null),
        (&addresses[2], "execute", json!({ "method": "login", "params": { "domain": "home.example" } })),
        (&addresses[3], "execute", json!({ "method": "loadStub", "params": ["sp9.example"] })),
    ]
    .into_iter()
    .enumerate()
    {
        let post = json!({ "id": 100 + number, "from": APP, "to": to, "type": kind, "body": body });
        assert_eq!(posts(&runtime, "home.example", post).await, json!(["ok"]));
        let answer = loop {
            let message = app.recv().await.expect("an answer");
            let told = message.body.as_ref().expect("a body").parse::<Value>().expect("JSON");
            if let Some(response) = told.get("response") {
                break response.clone();
            }
        };
        assert_eq!(answer["code"], 403, "{to}: {answer}");
    }
    // The requests have neither subscribed nor unsubscribed a hyperty.
    let stub_topic = stub.join("status").expect("an address");
    assert_eq!(posts(&runtime, "home.example", json!({ "to": stub_topic, "type": "subscribe", "id": 200 })).await, json!(["ok"]));
    heard(&mut app, &runtime).await;
    runtime.protostubs()[0].undeploy().await.expect("undeployed");
    let told = heard(&mut app, &runtime).await;
    assert!(told.iter().any(|message| message.to == of_runtime), "{told:?}");
}

#[tokio::test]
async fn deploy_grant_of_another_stub_cannot_be_used() {
    let mut granted = DomainSettings::default();
    granted.may_deploy = vec!["sp3.example".parse().expect("a pattern")];
    let builder = builder().domain(domain("sp2.example"), granted);
    let (runtime, mut app) = runtime(builder, &["sp1.example", "sp2.example"]).await;
    let (own, other) = (stub_of(&runtime, "sp1.example"), stub_of(&runtime, "sp2.example"));
    let ua = runtime.url().join("ua").expect("an address");
    for (number, via) in [json!([]), json!([other]), json!([own, other]), json!([other, own])].into_iter().enumerate() {
        let load = json!({ "method": "loadStub", "params": ["sp3.example"] });
        let post = json!({ "id": number + 1, "from": own, "to": ua, "type": "execute", "via": via, "body": load });
        assert_eq!(posts(&runtime, "sp1.example", post).await, json!(["ok"]));
        let answer = body(&app.recv().await.expect("an answer"));
        assert_eq!(answer["response"]["code"], 403, "{via}: {answer}");
    }
    assert_eq!(runtime.protostubs().len(), 2);
}
