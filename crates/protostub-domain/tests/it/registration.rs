//! The upstream suite for registration, and additions to it.

use serde_json::{Value, json};

use crate::client::{Client, open, server};

const USER: &str = "user://google.com/openIdTest10";

async fn register(client: &mut Client, url: &str) -> Value {
    let value = json!({
        "url": url, "descriptor": "http://home.example/Hyperty", "user": USER, "expires": 3600, "status": "live",
        "dataSchemes": ["TestSchema"], "resources": ["testresource"], "runtime": client.runtime,
    });
    client.ask_registry("create", json!({ "value": value, "policyURL": "policyURL" })).await
}

#[tokio::test]
async fn registration_is_found_by_user_scheme_resource_and_url() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let address = client.allocate().await;
    assert_eq!(register(&mut client, &address).await, json!({ "code": 200 }));
    let (mut other, _) = open(&server, "2").await;
    let mut check = async |body: Value, code: u16| {
        let answer = other.ask_registry("read", body.clone()).await;
        assert_eq!(answer["code"], code, "{body}: {answer}");
        answer["value"].clone()
    };
    for (resource, criteria) in [
        (USER, json!({})),
        (USER, json!({ "dataSchemes": ["TestSchema"] })),
        (USER, json!({ "resources": ["testresource"] })),
        (USER, json!({ "resources": ["testresource"], "dataSchemes": ["TestSchema"] })),
        (&format!("/hyperty/user/{USER}"), json!({})),
    ] {
        let value = check(json!({ "resource": resource, "criteria": criteria }), 200).await;
        assert_eq!(value[&address]["url"], json!(address));
        assert!(value[&address]["lastModified"].is_string());
    }
    let identifier = address.rsplit('/').next().unwrap();
    for resource in
        [&address, &format!("/hyperty/{address}"), &format!("/hyperty/url/{address}"), &format!("/hyperty/{identifier}")]
    {
        assert_eq!(check(json!({ "resource": resource }), 200).await["user"], USER);
    }
    for body in [
        json!({ "resource": format!("schema://{}/non-existing-object", server.domain()) }),
        json!({ "resource": USER, "criteria": { "resources": ["other"] } }),
        json!({ "resource": USER, "criteria": { "dataSchemes": ["TestSchema", "other"] } }),
        json!({ "resource": format!("/dataobject/user/{USER}") }),
        json!({ "resource": "user://google.com/somebody" }),
        json!({}),
    ] {
        check(body, 404).await;
    }
}

#[tokio::test]
async fn status_update_reaches_its_subscribers() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let (mut watcher, _) = open(&server, "2").await;
    let address = client.allocate().await;
    register(&mut client, &address).await;
    let topic = format!("{address}/registration");
    assert_eq!(watcher.ask_node("subscribe", "sm", json!({ "resources": [topic] })).await["code"], 200);

    assert_eq!(client.ask_registry("update", json!({ "resource": address })).await["code"], 200, "a keep-alive");
    watcher.assert_no_message().await;
    let disconnected = json!({ "resource": address, "value": "disconnected", "attribute": "status" });
    assert_eq!(client.ask_registry("update", disconnected).await["code"], 200);
    let update = watcher.next().await;
    assert_eq!((&update["type"], &update["from"], &update["to"]), (&json!("update"), &json!(address), &json!(topic)));
    assert_eq!(update["body"], json!({ "resource": address, "attribute": "status", "value": "disconnected" }));

    let answer = watcher.ask_registry("read", json!({ "resource": address })).await;
    assert_eq!((&answer["code"], &answer["description"]), (&json!(408), &json!("Temporarily Unavailable")));
    assert_eq!(answer["value"]["status"], "disconnected");
    assert_eq!(watcher.ask_registry("read", json!({ "resource": USER })).await["code"], 408);

    assert_eq!(client.ask_registry("update", json!({ "resource": address })).await["code"], 200);
    assert_eq!(watcher.next().await["body"]["value"], "live", "a keep-alive makes the registration live");
    // The form of the specification names no entry, and means all entries of the runtime.
    let all = json!({ "value": "disconnected", "attribute": "status" });
    assert_eq!(client.ask_registry("update", all).await["code"], 200);
    assert_eq!(watcher.next().await["body"]["value"], "disconnected");
    assert_eq!(client.ask_registry("delete", json!({ "resource": address })).await["code"], 200);
    assert_eq!(watcher.next().await["body"]["value"], "dead");
    assert_eq!(watcher.ask_registry("read", json!({ "resource": address })).await["code"], 404);
    assert_eq!(client.ask_registry("update", json!({ "resource": address })).await["code"], 404);
}

#[tokio::test]
async fn registration_is_changed_by_its_owner_only() {
    let server = server().await;
    let (mut owner, token) = open(&server, "1").await;
    let (mut thief, _) = open(&server, "2").await;
    let address = owner.allocate().await;
    assert_eq!(register(&mut thief, &address).await["code"], 403);
    assert_eq!(register(&mut owner, &address).await["code"], 200);
    for (kind, body) in [
        ("update", json!({ "resource": address, "value": "disconnected", "attribute": "status" })),
        ("update", json!({ "resource": address })),
        ("delete", json!({ "resource": address })),
    ] {
        assert_eq!(thief.ask_registry(kind, body).await["code"], 403, "{kind}");
    }
    assert_eq!(thief.ask_registry("delete", json!({})).await["code"], 200, "the session has no registrations");
    // A session that ends sets its registrations to disconnected.
    owner.send(json!({ "id": 1, "type": "close", "from": format!("{}/{token}", owner.runtime), "to": "mn:/session" })).await;
    owner.closed().await;
    assert_eq!(thief.ask_registry("read", json!({ "resource": address })).await["code"], 408);
}

#[tokio::test]
async fn invalid_registration_is_answered() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let mut check = async |kind: &str, body: Value, code: u16| {
        let answer = client.ask_registry(kind, body).await;
        assert_eq!(answer["code"], code, "{answer}");
    };
    check("create", json!({}), 500).await;
    check("create", json!({ "value": {} }), 500).await;
    check("create", json!({ "value": { "url": "a b" } }), 500).await;
    check("create", json!({ "value": { "url": format!("domain://registry.{}", server.domain()) } }), 403).await;
    check("create", json!({ "value": { "url": "hyperty://a.example/1", "x": "y".repeat(20_000) } }), 500).await;
    check("update", json!({ "resource": "hyperty://a.example/1" }), 404).await;
    check("execute", json!({}), 500).await;
    assert_eq!(server.node().counts().borrow().registrations, 0);
}
