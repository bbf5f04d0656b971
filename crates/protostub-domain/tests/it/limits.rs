//! No client can make the node grow without bound, or impair other clients.

use std::time::Duration;

use protostub_domain::{DomainServer, Limits};
use serde_json::json;
use tokio_tungstenite::{connect_async, tungstenite::Error};

use crate::client::{connect, open};

async fn server(change: impl FnOnce(&mut Limits)) -> DomainServer {
    let mut limits = Limits::default();
    change(&mut limits);
    DomainServer::builder().limits(limits).start().await.unwrap()
}

#[tokio::test]
async fn connections_and_sessions_are_limited() {
    let server = server(|limits| {
        limits.max_connections = 3;
        limits.max_sessions = 1;
    })
    .await;
    let (_first, _) = open(&server, "1").await;
    let mut second = connect(&server, "runtime://home.example/2").await;
    let answer = second.ask(json!({ "id": 1, "type": "open", "from": second.runtime, "to": "mn:/session" })).await;
    assert_eq!(answer["body"]["code"], 500, "{answer}");
    let third = connect(&server, "runtime://home.example/3").await;
    server.node().counts().wait_for(|counts| counts.connections == 3).await.unwrap();
    match connect_async(format!("ws://{}/ws", server.address())).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other:?}"),
    }
    drop(third);
    server.node().counts().wait_for(|counts| counts.connections == 2).await.unwrap();
    connect(&server, "runtime://home.example/4").await;
}

#[tokio::test]
async fn addresses_and_subscriptions_of_a_session_are_limited() {
    let server = server(|limits| {
        limits.max_addresses_per_session = 3;
        limits.max_subscriptions_per_session = 2;
        limits.max_registrations = 1;
    })
    .await;
    let (mut client, _) = open(&server, "1").await;
    let wanted = json!({ "value": { "number": 4 } });
    assert_eq!(client.ask_node("create", "address-allocation", wanted).await["code"], 429);
    assert_eq!(server.node().counts().borrow().addresses, 0, "the request allocates all addresses or none");
    for _ in 0..3 {
        client.allocate().await;
    }
    client.send(json!({ "id": 1, "type": "read", "from": "hyperty://a.example/new", "to": "hyperty://b.example/1" })).await;
    assert_eq!(client.next().await["body"]["code"], 429);
    let topics = json!({ "resources": ["a://b/1", "a://b/2", "a://b/3"] });
    assert_eq!(client.ask_node("subscribe", "sm", topics).await["code"], 429);
    assert_eq!(server.node().counts().borrow().topics, 0);

    let (mut other, _) = open(&server, "2").await;
    for (name, code) in [("1", 200), ("2", 429), ("1", 200)] {
        let value = json!({ "value": { "url": format!("hyperty://b.example/{name}") } });
        assert_eq!(other.ask_registry("create", value).await["code"], code, "{name}");
    }
    // An entry that is not live makes room.
    let gone = json!({ "resource": "hyperty://b.example/1", "attribute": "status", "value": "disconnected" });
    assert_eq!(other.ask_registry("update", gone).await["code"], 200);
    assert_eq!(other.ask_registry("create", json!({ "value": { "url": "hyperty://b.example/2" } })).await["code"], 200);
}

/// A client sends from ever new addresses, like a program that makes one for each message.
#[tokio::test]
async fn least_recently_used_learned_address_gives_way() {
    let server = server(|limits| limits.max_addresses_per_session = 5).await;
    let (mut client, _) = open(&server, "1").await;
    let (mut other, _) = open(&server, "2").await;
    let allocated = client.allocate().await;
    let value = json!({ "value": { "url": "hyperty://a.example/registered" } });
    assert_eq!(client.ask_registry("create", value).await["code"], 200);
    let from = |number: usize| format!("hyperty://a.example/{number}");
    let to_other = other.runtime.clone();
    for number in [1, 2, 3] {
        client.send(json!({ "id": number, "type": "read", "from": from(number), "to": to_other })).await;
        assert_eq!(other.next().await["id"], number);
    }
    // The client sends from the first address, and gets a message for the second one.
    client.send(json!({ "id": 4, "type": "read", "from": from(1), "to": to_other })).await;
    assert_eq!(other.next().await["id"], 4);
    other.send(json!({ "id": 5, "type": "read", "from": other.runtime, "to": from(2) })).await;
    assert_eq!(client.next().await["id"], 5);
    client.send(json!({ "id": 6, "type": "read", "from": from(4), "to": to_other })).await;
    assert_eq!(other.next().await["id"], 6);
    let answer = other.ask(json!({ "id": 7, "type": "read", "from": other.runtime, "to": from(3) })).await;
    assert_eq!(answer["body"]["code"], 404, "{answer}");

    // A thousand more addresses displace neither the allocated address nor the registered one.
    for number in 100..1100 {
        client.send(json!({ "id": number, "type": "read", "from": from(number), "to": to_other })).await;
        assert_eq!(other.next().await["id"], number);
    }
    for (id, to) in [(8, allocated), (9, "hyperty://a.example/registered".to_owned()), (10, from(1099))] {
        other.send(json!({ "id": id, "type": "read", "from": other.runtime, "to": to })).await;
        assert_eq!(client.next().await["id"], id, "{to}");
    }
    assert_eq!(server.node().counts().borrow().addresses, 5);
    // Allocated addresses take the places of learned ones, and keep them.
    let wanted = json!({ "value": { "number": 3 } });
    assert_eq!(client.ask_node("create", "address-allocation", wanted).await["code"], 200);
    client.send(json!({ "id": 11, "type": "read", "from": from(1100), "to": to_other })).await;
    assert_eq!(client.next().await["body"]["code"], 429);
}

#[tokio::test]
async fn too_long_message_ends_the_connection() {
    let server = server(|limits| limits.max_message_bytes = 1000).await;
    let (mut client, _) = open(&server, "1").await;
    client.send_text(&"x".repeat(2000)).await;
    assert_eq!(client.closed().await.unwrap().unwrap().code, 1009.into());
}

#[tokio::test]
async fn copies_of_a_message_are_limited() {
    let server = server(|_| {}).await;
    let (mut client, _) = open(&server, "1").await;
    let to = |count| vec!["hyperty://nobody.example/1"; count];
    client.send(json!({ "id": 1, "type": "read", "from": client.runtime, "to": to(64) })).await;
    for _ in 0..64 {
        assert_eq!(client.next().await["body"]["code"], 404);
    }
    let body = "x".repeat(200_000);
    for (to, description) in
        [(to(65), "Field 'to' has 65 addresses; use 1 to 64"), (to(64), "Field 'to' has 64 addresses, which is too many")]
    {
        client.send(json!({ "id": 2, "type": "read", "from": client.runtime, "to": to, "body": body })).await;
        let answer = client.next().await;
        assert!(answer["body"]["desc"].as_str().unwrap().starts_with(description), "{answer}");
    }
}

#[tokio::test]
async fn client_that_does_not_read_affects_only_its_senders() {
    let server = server(|limits| {
        limits.max_queued_messages = 4;
        limits.write_timeout = Duration::from_secs(60);
    })
    .await;
    let (mut slow, _) = open(&server, "slow").await;
    let (mut sender, _) = open(&server, "sender").await;
    let address = slow.allocate().await;
    // The messages are more than the sockets' buffers hold.
    let body = "x".repeat(200_000);
    let mut refused = 0;
    for id in 0..200 {
        sender.send(json!({ "id": id, "type": "read", "from": sender.runtime, "to": address, "body": body })).await;
        sender.send(json!({ "id": "fence", "type": "fence", "from": sender.runtime, "to": "mn:/session" })).await;
        loop {
            let answer = sender.next().await;
            if answer["id"] == "fence" {
                break;
            }
            assert_eq!(answer["body"]["code"], 429);
            refused += 1;
        }
    }
    assert!(refused > 0, "some messages should be refused");
    for _ in refused..200 {
        assert_eq!(slow.next().await["type"], "read");
    }
    slow.assert_no_message().await;
}

#[tokio::test]
async fn idle_connections_and_sessions_expire() {
    let server = server(|limits| limits.session_linger = Duration::from_millis(10)).await;
    let idle = connect(&server, "runtime://home.example/idle");
    let mut idle = idle.await;
    let (mut client, _) = open(&server, "1").await;
    client.allocate().await;
    assert_eq!(idle.closed().await.unwrap().unwrap().reason, "no session was opened");
    drop(client);
    let mut counts = server.node().counts();
    let counts = *counts.wait_for(|counts| counts.sessions == 0).await.unwrap();
    assert_eq!((counts.addresses, counts.connections), (0, 0));
}

#[tokio::test]
async fn silent_client_is_pinged_and_disconnected() {
    let server = server(|limits| limits.keep_alive = Duration::from_millis(200)).await;
    let (mut client, _) = open(&server, "1").await;
    // A client that reads also answers pings, and stays.
    for _ in 0..5 {
        assert!(client.raw().await.unwrap().unwrap().is_ping());
    }
    // A client that does not read is disconnected. Its session waits.
    let mut counts = server.node().counts();
    counts.wait_for(|counts| counts.connected == 0 && counts.sessions == 1).await.unwrap();
}
