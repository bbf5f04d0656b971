//! Conformance cases C1 to C3 and C11 to C13: sessions.

use protostub_domain::{DomainServer, Ending, Faults};
use protostub_types::Address;
use serde_json::json;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, client::IntoClientRequest as _},
};

use crate::client::{connect, open, server};

#[tokio::test]
async fn session_is_opened_and_closed() {
    let server = server().await;
    let mut client = connect(&server, "runtime://home.example/1").await;
    client.send(json!({ "id": 1, "type": "open", "from": client.runtime, "to": "mn:/session" })).await;
    let mut answer = client.next().await;
    let token = answer["body"]["runtimeToken"].take();
    assert_eq!(
        answer,
        json!({ "id": 1, "type": "response", "from": "mn:/session", "to": "runtime://home.example/1",
            "body": { "code": 200, "runtimeToken": null } })
    );
    let session = format!("{}/{}", client.runtime, token.as_str().unwrap());
    client.send(json!({ "id": 2, "type": "close", "from": session, "to": "mn:/session" })).await;
    assert_eq!(client.closed().await.unwrap().unwrap().code, 1000.into());
    server.node().counts().wait_for(|counts| counts.sessions == 0 && counts.connections == 0).await.unwrap();
}

#[tokio::test]
async fn reopened_session_keeps_its_addresses() {
    let server = server().await;
    let (mut client, token) = open(&server, "1").await;
    let address = client.allocate().await;
    let (mut other, _) = open(&server, "2").await;
    assert!(server.node().disconnect(&Address::parse(&client.runtime).unwrap(), Ending::Closed));
    assert_eq!(client.closed().await, Some(None), "a close frame without a code");

    // While the client is disconnected, the sender gets an error.
    server.node().counts().wait_for(|counts| counts.connected == 1).await.unwrap();
    let answer = other.ask(json!({ "id": 3, "type": "read", "from": other.runtime, "to": address })).await;
    assert_eq!(answer["body"]["code"], 503, "{answer}");

    let mut again = connect(&server, &client.runtime).await;
    let session = format!("{}/{token}", client.runtime);
    let answer = again.ask(json!({ "id": 1, "type": "re-open", "from": session, "to": "mn:/session" })).await;
    assert_eq!(answer["body"], json!({ "code": 200 }));
    other.send(json!({ "id": 4, "type": "read", "from": other.runtime, "to": address })).await;
    assert_eq!(again.next().await["id"], 4);
}

#[tokio::test]
async fn session_is_not_reopened_with_another_token() {
    let server = server().await;
    let (_client, token) = open(&server, "alice1").await;
    let (_longer, _) = open(&server, "alice10").await;
    let mut thief = connect(&server, "runtime://home.example/thief").await;
    for session in [
        "runtime://home.example/alice1/".to_owned(),
        "runtime://home.example/alice1".to_owned(),
        format!("runtime://home.example/alice10/{token}"),
        format!("runtime://home.example/alice/{token}"),
        format!("runtime://home.example/alice1/{}", &token[..8]),
        format!("runtime://home.example/alice1/x/{token}"),
    ] {
        let answer = thief.ask(json!({ "id": 1, "type": "re-open", "from": session, "to": "mn:/session" })).await;
        assert_eq!(answer["body"]["code"], 500, "{session}");
        assert_eq!(answer["body"]["desc"], "Reconnection fail. Incorrect runtime token!");
    }
}

#[tokio::test]
async fn second_session_of_a_runtime_replaces_the_first() {
    let server = server().await;
    let (mut earlier, token) = open(&server, "1").await;
    let address = earlier.allocate().await;
    let (mut later, other_token) = open(&server, "1").await;
    assert_ne!(token, other_token);
    assert_eq!(earlier.closed().await.unwrap().unwrap().code, 1008.into());
    let answer = later.ask(json!({ "id": 2, "type": "read", "from": later.runtime, "to": address })).await;
    assert_eq!(answer["body"]["code"], 404, "the addresses went with the session");
    // The same on one connection, which stays open.
    let answer = later.ask(json!({ "id": 3, "type": "open", "from": later.runtime, "to": "mn:/session" })).await;
    assert_eq!(answer["body"]["code"], 200);
}

#[tokio::test]
async fn invalid_message_is_answered_with_the_original_texts() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let mut check = async |text: &str, from: &str, description: &str| {
        client.send_text(text).await;
        let answer = client.next().await;
        assert_eq!((answer["type"].as_str(), answer["from"].as_str()), (Some("response"), Some(from)), "{text}");
        assert_eq!(answer["body"]["code"], 500, "{text}");
        assert!(answer["body"]["desc"].as_str().unwrap().starts_with(description), "{text}: {answer}");
        answer
    };
    let validator = "mn:/validator";
    check(r#"{"type":"read","from":"a.example","to":"b.example"}"#, validator, "No mandatory field 'id'").await;
    check(r#"{"id":1,"from":"a.example","to":"b.example"}"#, validator, "No mandatory field 'type'").await;
    check(r#"{"id":1,"type":"read","to":"b.example"}"#, validator, "No mandatory field 'from'").await;
    let answer = check(r#"{"id":1,"type":"read","from":"a.example"}"#, validator, "No mandatory field 'to'").await;
    assert_eq!((&answer["id"], &answer["to"]), (&json!(1), &json!("a.example")));
    check(r#"{"id":1,"type":"read","from":"a b","to":"b.example"}"#, validator, "`a b` is not an address").await;
    check(r#"{"id":1,"type":"read","from":"a.example","to":[]}"#, validator, "Field 'to' has 0 addresses").await;
    check("<html>", "mn:/pipeline", "the text is not a message").await;
    check(&"[".repeat(100_000), "mn:/pipeline", "the text is not a message").await;
    check(r#"{"id":1,"type":"ping","from":"a.example","to":"mn:/session"}"#, "mn:/session", "Unrecognized type 'ping'").await;
}

#[tokio::test]
async fn message_without_a_session_is_refused() {
    let server = server().await;
    let mut client = connect(&server, "runtime://home.example/1").await;
    client.send(json!({ "id": 1, "type": "read", "from": client.runtime, "to": "hyperty://x.example/1" })).await;
    let answer = client.next().await;
    assert_eq!((&answer["from"], &answer["body"]["code"]), (&json!("mn:/session"), &json!(500)));
    let (_owner, _) = open(&server, "2").await;
    client.send(json!({ "id": 2, "type": "close", "from": "runtime://home.example/2", "to": "mn:/session" })).await;
    assert_eq!(client.next().await["body"]["desc"], "No such session on this connection");
}

#[tokio::test]
async fn faults_make_the_node_fail() {
    let server = server().await;
    let mut client = connect(&server, "runtime://home.example/1").await;
    server.node().set_faults(Faults::refusing_open("closed today"));
    let answer = client.ask(json!({ "id": 1, "type": "open", "from": client.runtime, "to": "mn:/session" })).await;
    assert_eq!((&answer["body"]["code"], &answer["body"]["desc"]), (&json!(500), &json!("closed today")));
    server.node().set_faults(Faults::ignoring_open());
    client.send(json!({ "id": 2, "type": "open", "from": client.runtime, "to": "mn:/session" })).await;
    client.assert_no_message().await;
    server.node().set_faults(Faults::default());
    assert!(!server.node().disconnect(&Address::parse(&client.runtime).unwrap(), Ending::Lost));
}

#[tokio::test]
async fn connection_ends_in_each_way() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let runtime = Address::parse(&client.runtime).unwrap();
    assert!(server.node().disconnect(&runtime, Ending::Lost));
    assert_eq!(client.closed().await, None, "no close frame");
    let (mut client, _) = open(&server, "1").await;
    assert!(server.node().disconnect(&runtime, Ending::ClosedWith { code: 1011, reason: "broken".into() }));
    let frame = client.closed().await.unwrap().unwrap();
    assert_eq!((frame.code, frame.reason.as_str()), (1011.into(), "broken"));
    let (mut client, _) = open(&server, "1").await;
    client.send(json!({ "cmd": "disconnect", "body": { "runtimeURL": client.runtime } })).await;
    assert_eq!(client.closed().await.unwrap().unwrap().code, 1000.into());
}

/// A browser opens WebSockets for the pages of strangers, also those to this machine.
#[tokio::test]
async fn web_page_of_another_origin_is_refused() {
    let server = DomainServer::builder().allow_origin("https://app.example".parse().unwrap()).start().await.unwrap();
    let port = server.address().port();
    // The name of an attacker's page may resolve to this machine.
    let check = async |host: &str, origins: &[&str], expected: u16| {
        for path in ["ws", "stub/connect?runtimeURL=runtime%3A%2F%2Fhome.example%2F1"] {
            let mut request = format!("ws://127.0.0.1:{port}/{path}").into_client_request().unwrap();
            request.headers_mut().insert("host", host.parse().unwrap());
            for origin in origins {
                request.headers_mut().append("origin", origin.parse().unwrap());
            }
            let code = match connect_async(request).await {
                Ok(_) => 101,
                Err(Error::Http(response)) => response.status().as_u16(),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(code, expected, "{path} from {origins:?}");
        }
    };
    let own = format!("127.0.0.1:{port}");
    check(&own, &[], 101).await;
    check(&own, &[&format!("http://{own}")], 101).await;
    check(&own, &[&format!("http://localhost:{port}")], 101).await;
    check(&own, &["https://app.example"], 101).await;
    check(&own, &["https://evil.example"], 403).await;
    check(&own, &["http://127.0.0.1:1"], 403).await;
    check(&own, &["null"], 403).await;
    check(&own, &["https://app.example", "https://evil.example"], 403).await;
    check(&format!("evil.example:{port}"), &[&format!("http://evil.example:{port}")], 403).await;
}
