//! Conformance case C8, and the upstream suite for subscriptions.

use serde_json::{Value, json};

use crate::client::{open, server};

#[tokio::test]
async fn update_reaches_subscribers_until_they_unsubscribe() {
    let server = server().await;
    let (mut reporter, _) = open(&server, "reporter").await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    let object = reporter.allocate().await;
    let topic = format!("{object}/changes");
    let answer = first.ask_node("subscribe", "sm", json!({ "resources": [topic] })).await;
    assert_eq!(answer, json!({ "code": 200 }));
    let body = json!({ "resources": [topic], "source": "hyperty://home.example/x" });
    assert_eq!(second.ask_node("subscribe", "sm", body).await["code"], 200);

    let update = json!({ "id": 1, "type": "update", "from": object, "to": topic, "body": { "value": 1 } });
    reporter.send(update.clone()).await;
    assert_eq!(first.next().await, update);
    assert_eq!(second.next().await, update);
    reporter.assert_no_message().await;

    assert_eq!(first.ask_node("unsubscribe", "sm", json!({ "resources": [topic] })).await["code"], 200);
    reporter.send(update.clone()).await;
    assert_eq!(second.next().await, update);
    first.assert_no_message().await;
    assert_eq!(second.ask_node("unsubscribe", "sm", json!({ "subscribe": [topic] })).await["code"], 200);
    reporter.send(update).await;
    reporter.assert_no_message().await;
    second.assert_no_message().await;
    assert_eq!(server.node().counts().borrow().topics, 0);
}

#[tokio::test]
async fn subscription_addresses_are_in_one_of_two_fields() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let mut check = async |kind: &str, body: Value, code: u16, description: &str| {
        let answer = client.ask_node(kind, "sm", body).await;
        assert_eq!(answer["code"], code, "{answer}");
        assert_eq!(answer["desc"].as_str().unwrap_or_default(), description);
    };
    let both = "You cant use field body.resources' and 'body.subscribe' at the same time";
    check("subscribe", json!({ "resources": ["a://b/c"], "subscribe": ["a://b/d"] }), 500, both).await;
    check("subscribe", json!({}), 500, "No mandatory field 'body.resources' or 'body.subscribe'").await;
    check("unsubscribe", json!({}), 500, "No mandatory field 'body.resources' or 'body.subscribe'").await;
    check("subscribe", json!({ "subscribe": ["a://b/d"] }), 200, "").await;
    check("unsubscribe", json!({ "unsubscribe": ["a://b/d"] }), 200, "").await;
    check("subscribe", json!({ "resources": "a://b/c" }), 200, "").await;
    check("create", json!({}), 500, "Unrecognized type 'create'").await;
    check("subscribe", json!({ "resources": [7] }), 500, "Field 'body.resources' lists an item that is not a text").await;
    assert_eq!(server.node().counts().borrow().topics, 1);
}

#[tokio::test]
async fn message_to_a_subscribed_address_reaches_the_subscriber() {
    let server = server().await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    assert_eq!(first.ask_node("subscribe", "sm", json!({ "resources": ["hyperty://x.example/listener"] })).await["code"], 200);
    let ping = json!({ "id": 5, "type": "ping", "from": "hyperty://x.example/2", "to": "hyperty://x.example/listener" });
    second.send(ping.clone()).await;
    assert_eq!(first.next().await, ping);
    second.assert_no_message().await;
    let pong = json!({ "id": 5, "type": "response", "from": "hyperty://x.example/listener", "to": "hyperty://x.example/2",
        "body": { "code": 200 } });
    first.send(pong.clone()).await;
    assert_eq!(second.next().await, pong);
}
