//! Tests of explicit logins: by the host program, and by a hyperty's message.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protostub_runtime::{CredentialKind, Message, RestartPolicy, StaticCredentials, StubStatus};
use serde_json::{Value, json};

use crate::{
    identity::{ALICE, asked, bearer, connected_with, credential, execute, login, runtime},
    support::{body, builder, domain, follow, order, soon},
};

#[tokio::test]
async fn host_program_logs_a_stub_in() {
    let mut policy = RestartPolicy::default();
    policy.first_pause = Duration::from_millis(1);
    let table = StaticCredentials::new().with(domain("sp1.example"), bearer("of the domain"));
    let (runtime, app) = runtime(builder().restart(policy).credentials(table), json!({ "refuses": "guess" })).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    assert_eq!(connected_with(&app).await["value"], "of the domain");

    let topic = stub.url().expect("a URL").join("status").expect("an address");
    let mut watcher = runtime.register_hyperty("hyperty://home.example/watcher").await.expect("a hyperty");
    watcher.subscribe(topic).await.expect("an answer");
    let alice = credential(CredentialKind::Basic, "alice:open sesame", None);
    stub.connect_with(alice.clone()).await.expect("told");
    stub.until_live().await.expect("live");
    assert_eq!(connected_with(&app).await["value"], "alice:open sesame");
    assert_eq!(asked(&app, None).await.expect("a credential")["kind"], "basic");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(body(&watcher.recv().await.expect("a status"))["value"].clone());
    }
    assert_eq!(seen, ["LIVE", "DISCONNECTED", "IN-PROGRESS", "LIVE"], "it said good-bye first");

    // Repeating the login changes nothing. The login survives a restart.
    stub.connect_with(alice).await.expect("told");
    assert!(app.request(order(ALICE, json!({ "do": "panic" }))).await.is_err());
    assert_eq!(connected_with(&app).await["value"], "alice:open sesame");
    assert_eq!(stub.restarts(), 1);

    // The stub does not use a refused credential a second time.
    stub.connect_with(bearer("guess")).await.expect("told");
    let connected = soon(async {
        loop {
            // The next instance connects again.
            match connected_with(&app).await {
                guess if guess["value"] == "guess" => {}
                other => break other,
            }
        }
    });
    assert_eq!(connected.await["value"], "of the domain");
}

#[tokio::test]
async fn hyperty_logs_a_stub_in_and_out() {
    let (runtime, app) = runtime(builder(), json!({ "refuses": "guess" })).await;
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 3600;
    let credential = json!({ "kind": "basic", "value": "alice:open sesame", "expires": expires });
    // The login deploys the stub, which connects with no other credential.
    let answer =
        app.request(login(&runtime, json!({ "domain": "sp1.example", "credential": credential }))).await.expect("an answer");
    assert_eq!(answer.code(), Some(200), "{:?}", answer.body);
    let stub = runtime.protostubs().remove(0);
    let told = body(&answer)["value"].clone();
    let url = stub.url().expect("a URL").as_str();
    assert_eq!((&told["url"], &told["status"]), (&json!(url), &json!("live")));
    assert_eq!(connected_with(&app).await, credential);
    assert!(!answer.to_json().expect("JSON").contains("sesame"));

    let logout = json!({ "method": "logout", "params": { "domain": ALICE } });
    assert_eq!(app.request(execute(&runtime, logout)).await.expect("an answer").code(), Some(200));
    assert_eq!(stub.status().status, StubStatus::Disconnected);
    assert_eq!(app.request(order(ALICE, json!({}))).await.expect_err("it was logged out").code, 503);
    // A login without a credential uses the domain's credential.
    let answer = app.request(login(&runtime, json!({ "domain": ALICE }))).await.expect("an answer");
    assert_eq!(answer.code(), Some(200));
    assert_eq!(connected_with(&app).await, Value::Null);
}

#[tokio::test]
async fn invalid_logins_have_distinct_errors() {
    let (runtime, app) = runtime(builder(), json!({ "refuses": "guess" })).await;
    let check = async |message: Message, code: u16, expected: &str| {
        let answer = app.request(message).await.expect("an answer");
        let description = body(&answer)["description"].as_str().unwrap_or_default().to_owned();
        assert!(answer.code() == Some(code) && description.contains(expected), "{:?} {description}", answer.code());
        assert!(!description.contains("guess"), "{description}");
    };
    let guess = json!({ "kind": "bearer", "value": "guess" });
    let understands = "the Identity Module takes only an execute with the body";
    check(login(&runtime, json!({ "domain": "sp1.example", "credential": "guess" })), 400, understands).await;
    check(login(&runtime, json!({ "domain": "sp1.example", "guess": "guess" })), 400, understands).await;
    check(execute(&runtime, json!({ "method": "guess" })), 400, understands).await;
    check(login(&runtime, json!({ "domain": "a b" })), 400, "a b").await;
    check(execute(&runtime, json!({ "method": "logout", "params": { "domain": "sp2.example" } })), 404, "no stub of sp2.example")
        .await;
    // The stub was never live, so its deployment has failed.
    let params = json!({ "domain": "sp1.example", "credential": guess });
    check(login(&runtime, params.clone()), 503, "the server does not know [secret]").await;

    // Other senders are refused: the runtime itself, and stubs.
    let answer = runtime.request(login(&runtime, params.clone())).await.expect("an answer");
    assert_eq!(answer.code(), Some(403));
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let identity = runtime.url().join("identity").expect("an address");
    let body = json!({ "method": "login", "params": params });
    let post = json!({ "do": "post", "type": "execute", "to": identity.as_str(), "from": app.address().as_str(), "body": body });
    let posted = follow(&app, ALICE, post).await.expect("what came of it");
    assert!(posted[0].as_str().is_some_and(|posted| posted.starts_with("denied")), "{posted}");
    assert_eq!(connected_with(&app).await, Value::Null);
}

#[tokio::test]
async fn refused_login_keeps_the_previous_one() {
    let mut policy = RestartPolicy::default();
    policy.first_pause = Duration::from_millis(1);
    let table = StaticCredentials::new().with(domain("sp1.example"), bearer("of the domain"));
    let (runtime, app) = runtime(builder().restart(policy).credentials(table), json!({ "refuses": "guess" })).await;
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let params = json!({ "domain": "sp1.example", "credential": { "kind": "bearer", "value": "guess" } });
    let answer = app.request(login(&runtime, params)).await.expect("an answer");
    let description = body(&answer)["description"].clone();
    assert_eq!(
        (answer.code(), description),
        (Some(401), json!("the protocol stub of sp1.example could not connect with the credential"))
    );
    assert_eq!(connected_with(&app).await["value"], "of the domain");
}
