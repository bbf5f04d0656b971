//! Conformance case C7 and more: messages from client to client.

use serde_json::json;

use crate::client::{nomatrix, open, server};

#[tokio::test]
async fn hyperties_of_two_runtimes_talk() {
    let server = server().await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    let alice = first.allocate().await;
    // The sender's address is not allocated: the node learns it.
    let ping = json!({ "id": 1, "type": "ping", "from": "hyperty://unknown-url", "to": alice, "body": { "text": "é\u{1F600}" } });
    second.send(ping.clone()).await;
    assert_eq!(first.next().await, ping);
    let pong = json!({ "id": 1, "type": "response", "from": alice, "to": "hyperty://unknown-url", "body": { "code": 200 } });
    first.send(pong.clone()).await;
    assert_eq!(second.next().await, pong);
}

#[tokio::test]
async fn message_text_is_passed_on_verbatim() {
    let server = server().await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    let alice = first.allocate().await;
    let text = format!(
        r#"{{ "to":"{alice}", "id": "x", "type":"CREATE", "from":"hyperty://b.example/2", "body":{{"b":1.50,"a":[]}}, "extra":null}}"#
    );
    second.send_text(&text).await;
    assert_eq!(first.raw().await.unwrap().unwrap().into_text().unwrap().as_str(), text);
}

#[tokio::test]
async fn several_receivers_get_a_message_each() {
    let server = server().await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    let (alice, bob) = (first.allocate().await, second.allocate().await);
    let (mut third, _) = open(&server, "3").await;
    let to = json!([alice, bob, "hyperty://nobody.example/1"]);
    third.send(json!({ "id": 1, "type": "create", "from": "hyperty://c.example/3", "to": to, "body": {} })).await;
    assert_eq!(first.next().await["to"], json!(alice));
    assert_eq!(second.next().await["to"], json!(bob));
    let answer = third.next().await;
    assert_eq!((&answer["from"], &answer["body"]["code"]), (&json!("hyperty://nobody.example/1"), &json!(404)));
}

#[tokio::test]
async fn message_to_an_unknown_address_is_answered() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let nobody = "hyperty://nobody.example/1";
    for kind in ["read", "create", "subscribe", "execute", "ping"] {
        let answer = client.ask(json!({ "id": 2, "type": kind, "from": "hyperty://a.example/1", "to": nobody })).await;
        assert_eq!(answer["body"]["code"], 404, "{answer}");
        assert_eq!(answer["body"]["desc"], answer["body"]["description"]);
    }
    // Publications may have no subscriber, and responses no waiting client.
    for kind in ["update", "response"] {
        client.send(json!({ "id": 3, "type": kind, "from": "hyperty://a.example/1", "to": nobody })).await;
    }
    client.assert_no_message().await;
    assert_eq!(server.node().counts().borrow().undelivered, 7);
    let function = format!("domain://msg-node.{}/what", server.domain());
    let answer = client.ask(json!({ "id": 4, "type": "read", "from": "hyperty://a.example/1", "to": function })).await;
    assert_eq!(answer["body"]["code"], 404);
}

#[tokio::test]
async fn address_of_another_session_is_refused_as_sender() {
    let server = server().await;
    let (mut owner, _) = open(&server, "1").await;
    let (mut thief, _) = open(&server, "2").await;
    let allocated = owner.allocate().await;
    owner
        .ask(json!({ "id": 1, "type": "read", "from": "hyperty://a.example/learned", "to": "hyperty://nobody.example/1" }))
        .await;
    for from in [
        allocated.as_str(),
        &format!("{allocated}/below"),
        "hyperty://a.example/learned",
        &owner.runtime,
        &format!("{}/registry", owner.runtime),
        &format!("domain://registry.{}", server.domain()),
        "mn:/session",
    ] {
        thief.send(json!({ "id": 1, "type": "read", "from": from, "to": "hyperty://nobody.example/1" })).await;
        let answer = thief.next().await;
        assert_eq!((&answer["from"], &answer["body"]["code"]), (&json!("mn:/policies"), &json!(403)), "{from}");
        assert_eq!(answer["body"]["desc"], "Message blocked by policy");
    }
    // A runtime whose URL has the same beginning is another one.
    let (mut similar, _) = open(&server, "10").await;
    let answer = similar
        .ask(json!({ "id": 1, "type": "read", "from": "runtime://home.example/10/x", "to": "hyperty://nobody.example/1" }));
    assert_eq!(answer.await["body"]["code"], 404);
}

#[tokio::test]
async fn runtime_gets_messages_below_its_url() {
    let server = server().await;
    let (mut first, _) = open(&server, "1").await;
    let (mut second, _) = open(&server, "2").await;
    let ping = json!({ "id": 1, "type": "read", "from": second.runtime, "to": format!("{}/discovery/x", first.runtime) });
    second.send(ping.clone()).await;
    assert_eq!(first.next().await, ping);
}

#[tokio::test]
async fn clients_of_both_flavours_talk() {
    let server = server().await;
    let (mut vertx, _) = open(&server, "1").await;
    let mut other = nomatrix(&server, "2").await;
    let alice = vertx.allocate().await;
    let ping = json!({ "id": 1, "type": "read", "from": "hyperty://b.example/bob", "to": alice });
    other.send(ping.clone()).await;
    assert_eq!(vertx.next().await, ping);
    let pong = json!({ "id": 1, "type": "response", "from": alice, "to": "hyperty://b.example/bob", "body": { "code": 200 } });
    vertx.send(pong.clone()).await;
    assert_eq!(other.next().await, pong);

    // A new connection takes over the addresses that were learned from the earlier one.
    let mut again = nomatrix(&server, "2").await;
    assert_eq!(other.closed().await.unwrap().unwrap().code, 1008.into());
    vertx.send(json!({ "id": 2, "type": "read", "from": alice, "to": "hyperty://b.example/bob" })).await;
    assert_eq!(again.next().await["id"], 2);
    again.send(json!({ "cmd": "disconnect", "body": { "runtimeURL": again.runtime } })).await;
    assert_eq!(again.closed().await.unwrap().unwrap().code, 1000.into());
    server.node().counts().wait_for(|counts| counts.sessions == 1).await.unwrap();

    // A session with a token is not taken over without the token.
    let mut thief = nomatrix(&server, "1").await;
    assert_eq!(thief.closed().await.unwrap().unwrap().code, 1008.into());
    vertx.assert_no_message().await;
}
