//! The life of a usual stub: [`protostub_sdk::keep_connected`].

use std::time::Duration;

use protostub_sdk::{
    Credential, CredentialKind, DisconnectReason, Error, Event, Message, MessageType, Result, Stub, select,
    testing::{Host, ServerSocket},
    websocket,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Config {
    url: String,
    #[serde(default)]
    #[expect(dead_code, reason = "only its faults matter")]
    rooms: Vec<Room>,
}

#[derive(Deserialize)]
struct Room {
    #[expect(dead_code, reason = "only its absence matters")]
    name: String,
}

async fn run(stub: Stub, config: Config) -> Result<()> {
    let mut connect = websocket::Connect::new(&config.url);
    if let Some(credential) = stub.credential() {
        connect = connect.credential(credential);
    }
    let socket = match connect.open().await {
        Err(Error::Refused(401)) => return Err(Error::failed("wrong password")),
        opened => opened?,
    };
    stub.live();
    loop {
        select! {
            message = stub.next_message() => match message {
                Ok(message) => socket.send_text(message.to_json()?).await?,
                Err(told) => {
                    socket.send_text("bye").await?;
                    // A stubborn server keeps the connection open.
                    while config.url.ends_with("stubborn") {
                        socket.next().await?;
                    }
                    return Err(told);
                }
            },
            frame = socket.next() => for message in frame?.messages()? { stub.post(message)? },
        }
    }
}

fn started() -> Host {
    let host = Host::new();
    host.start(run, json!({ "url": "wss://sp1.example/ws" })).unwrap();
    host
}

fn ping() -> Message {
    Message::new(MessageType::from("ping"), "hyperty://sp1.example/bob").with_from("hyperty://home.example/alice").with_id(7)
}

#[test]
fn unfit_configuration_ends_the_deployment_with_its_path() {
    let check = |configuration, expected: &str| {
        let refused = Host::new().start(run, configuration).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    };
    check(json!({}), "at $: missing field `url`");
    check(json!({ "url": 7 }), "at $.url: invalid type");
    check(json!({ "url": "", "rooms": [{ "name": "a" }, {}] }), "at $.rooms[1]: missing field `name`");
}

#[test]
fn stub_connects_only_when_asked() {
    let host = started();
    host.deliver(ping());
    assert!(host.next_websocket().is_none());
    host.connect();
    let server = host.websocket();
    assert_eq!((server.url(), host.statuses()), ("wss://sp1.example/ws".into(), vec!["created".into(), "in-progress".into()]));
    assert_eq!(host.queued(), 1);
    server.accept();
    assert_eq!((host.statuses(), host.queued()), (vec!["live".into()], 0));
    assert_eq!(server.received_json()[0]["id"], 7);
    // The stub is connected already.
    host.connect();
    assert!(host.next_websocket().is_none() && host.statuses().is_empty());
}

#[test]
fn credential_is_sent_in_the_handshake() {
    let check = |kind, expected: &str| {
        let host = started();
        host.connect_with(Credential { kind, value: "alice:open sesame".into(), expires: None });
        assert_eq!(host.websocket().header("Authorization").unwrap(), expected);
    };
    check(CredentialKind::Basic, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    check(CredentialKind::Bearer, "Bearer alice:open sesame");
}

#[test]
fn stub_when_asked_disconnects_and_can_reconnect() {
    let host = started();
    host.connect();
    let server = host.websocket();
    server.accept();
    host.disconnect(DisconnectReason::Request);
    assert_eq!(server.received(), [websocket::Frame::Text("bye".into())]);
    assert_eq!(server.closed_by_stub(), Some((1000, String::new())));
    assert_eq!(host.statuses(), ["created", "in-progress", "live", "disconnected"]);
    assert_eq!((host.timers(), host.connections()), (0, 0));

    host.advance(Duration::from_secs(3600));
    assert!(host.next_websocket().is_none(), "the host did not ask for a connection");
    host.connect();
    host.websocket().accept();
    assert_eq!(host.statuses(), ["in-progress", "live"]);
}

#[test]
fn disconnect_and_connect_in_one_batch_both_happen() {
    let host = started();
    host.connect();
    let server = host.websocket();
    server.accept();
    host.tell([Event::Disconnect(DisconnectReason::Request), Event::Connect(None)]);
    assert!(server.closed_by_stub().is_some());
    host.websocket().accept();
    assert_eq!(host.statuses(), ["created", "in-progress", "live", "disconnected", "in-progress", "live"]);
}

#[test]
fn disconnect_while_connecting_drops_the_attempt() {
    let host = started();
    host.connect();
    let server = host.websocket();
    host.disconnect(DisconnectReason::Shutdown);
    assert!(server.closed_by_stub().is_some());
    assert_eq!(host.statuses(), ["created", "in-progress", "disconnected"]);
}

#[test]
fn slow_disconnect_times_out() {
    let host = Host::new();
    host.start(run, json!({ "url": "wss://sp1.example/stubborn" })).unwrap();
    host.connect();
    let server = host.websocket();
    server.accept();
    host.disconnect(DisconnectReason::Update);
    assert_eq!((server.received().len(), server.closed_by_stub()), (1, None));
    host.advance(Duration::from_secs(3));
    assert!(server.closed_by_stub().is_some());
    assert_eq!(host.statuses().last().unwrap(), "disconnected");
}

#[test]
fn broken_connection_reconnects_after_growing_delays() {
    let host = started();
    host.connect();
    for (shortest, longest) in [(1, 2), (2, 4), (4, 8)] {
        let server = host.websocket();
        server.accept();
        server.close(None, "");
        assert_eq!(host.statuses().last().unwrap(), "disconnected: No status code was actually present.");
        host.advance(Duration::from_millis(shortest * 1000 - 1));
        assert!(host.statuses().is_empty(), "not before {shortest} s");
        host.advance(Duration::from_secs(longest - shortest) + Duration::from_millis(1));
        assert_eq!(host.statuses(), ["in-progress"]);
    }
    // After a good connection, the delays start from the shortest.
    let server = host.websocket();
    server.accept();
    host.advance(Duration::from_secs(30));
    server.fail("connection reset");
    assert_eq!(host.statuses(), ["live", "disconnected: connection reset"]);
    host.advance(Duration::from_secs(2));
    assert_eq!(host.statuses(), ["in-progress"]);
}

/// A link that is cut again and again, and that carries messages each time.
#[test]
fn connection_that_carried_messages_resets_the_delays() {
    let host = started();
    host.connect();
    let carries: [fn(&Host, &ServerSocket); 2] = [
        |host, server| {
            host.deliver(ping());
            assert_eq!(server.received_json()[0]["id"], 7);
        },
        |host, server| {
            server.send_text(r#"{"id":1,"type":"pong","from":"hyperty://sp1.example/bob","to":"hyperty://home.example/alice"}"#);
            assert_eq!(host.posted().len(), 1);
        },
    ];
    for carry in carries.iter().cycle().take(6) {
        let server = host.websocket();
        server.accept();
        carry(&host, &server);
        server.fail("connection reset");
        assert_eq!(host.statuses().last().unwrap(), "disconnected: connection reset");
        host.advance(Duration::from_secs(2));
        assert_eq!(host.statuses(), ["in-progress"], "the shortest delay is 1 s to 2 s");
    }
    // An attempt that was never live carries nothing.
    for longest in [4, 8] {
        host.websocket().fail("no route");
        host.advance(Duration::from_secs(longest));
    }
    host.websocket().fail("no route");
    host.advance(Duration::from_secs(7));
    assert!(host.next_websocket().is_none(), "the delays have grown to 8 s");
}

#[test]
fn expired_credential_is_renewed_before_reconnecting() {
    let host = started();
    let credential = |value: &str, expires| Credential { kind: CredentialKind::Bearer, value: value.into(), expires };
    host.connect_with(credential("old", Some(1)));
    let server = host.websocket();
    assert_eq!(server.header("Authorization").unwrap(), "Bearer old");
    server.fail("no route");
    host.advance(Duration::from_secs(2));
    assert!(host.next_websocket().is_none(), "the stub renews the credential first");
    let request = host.identity_request();
    assert_eq!(request.scope(), None);
    request.grant(credential("new", None));
    let server = host.websocket();
    assert_eq!(server.header("Authorization").unwrap(), "Bearer new");
    server.fail("no route");
    // A credential without an expiry is used again.
    host.advance(Duration::from_secs(4));
    assert_eq!(host.websocket().header("Authorization").unwrap(), "Bearer new");
}

#[test]
fn connect_or_disconnect_ends_the_reconnect_delay() {
    let host = started();
    host.connect();
    host.websocket().fail("no route");
    host.connect();
    let server = host.websocket();
    assert_eq!(host.statuses(), ["created", "in-progress", "disconnected: no route", "in-progress"]);
    server.fail("no route");
    host.disconnect(DisconnectReason::Idle);
    host.advance(Duration::from_secs(3600));
    assert!(host.next_websocket().is_none());
    assert_eq!(host.statuses(), ["disconnected: no route"]);
}

#[test]
fn failed_error_ends_the_stub() {
    let host = started();
    host.connect();
    host.websocket().refuse(401);
    assert_eq!(host.statuses(), ["created", "in-progress", "failed: wrong password"]);
    host.connect();
    host.advance(Duration::from_secs(3600));
    assert!(host.next_websocket().is_none() && host.statuses().is_empty());
}

#[test]
fn disconnect_without_a_connection_is_published_once() {
    let host = started();
    host.disconnect(DisconnectReason::Request);
    assert_eq!(host.statuses(), ["created", "disconnected"]);
    host.disconnect(DisconnectReason::Request);
    assert!(host.statuses().is_empty());
}
