//! The conformance cases C1 to C3 and C11 to C16, and other functions of the two message nodes, on
//! the fake host.

use std::time::Duration;

use protostub_sdk::{
    Body, DisconnectReason, Error, Message, MessageId, MessageType,
    testing::{Host, ServerSocket},
};
use serde_json::{Value, json};

use crate::run;

const NORMAL: &str =
    "disconnected: Normal closure, meaning that the purpose for which the connection was established has been fulfilled.";
const NO_STATUS: &str = "disconnected: No status code was actually present.";
const ALICE: &str = "hyperty://home.example/alice";
const BOB: &str = "hyperty://sp1.example/bob";

fn started(flavour: &str) -> Host {
    let host = Host::new();
    host.start(run, json!({ "url": "wss://sp1.example/ws", "flavour": flavour })).unwrap();
    host
}

/// Answers a session message as the message node.
fn answer(server: &ServerSocket, asked: &Value, body: Value) {
    server.send_json(&json!({ "id": asked["id"], "type": "response", "from": "mn:/session", "to": asked["from"], "body": body }));
}

/// Opens the connection, and returns the session message that follows.
fn accept(host: &Host) -> (ServerSocket, Value) {
    let server = host.websocket();
    server.accept();
    let asked = server.received_json().remove(0);
    assert_eq!(asked["to"], "mn:/session");
    (server, asked)
}

/// Connects to a Vert.x message node, with the token `t`.
fn live() -> (Host, ServerSocket) {
    let host = started("vertx");
    host.connect();
    let (server, open) = accept(&host);
    answer(&server, &open, json!({ "code": 200, "runtimeToken": "t" }));
    assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
    (host, server)
}

fn session_url() -> String {
    format!("{}/t", Host::RUNTIME_URL)
}

fn ping() -> Message {
    Message::new(MessageType::from("ping"), BOB).with_from(ALICE).with_id(7).with_body(json!({ "n": 1 }))
}

#[test]
fn invalid_configuration_is_refused_with_its_path() {
    let check = |configuration, expected: &str| {
        let refused = Host::new().start(run, configuration).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    };
    check(json!({}), "at $: missing field `url`");
    check(json!({ "url": "https://sp1.example" }), "at $.url: \"https://sp1.example\" is not a ws:// or wss:// URL");
    check(json!({ "url": "wss://sp1.example/ws", "flavour": "matrix" }), "at $.flavour: unknown variant `matrix`");
    // Descriptors of the original stubs have further keys.
    Host::new().start(run, json!({ "url": "wss://sp1.example/ws", "maxBuffer": 1000000 })).unwrap();
}

#[test]
fn c1_connects_opens_and_is_live() {
    let host = started("vertx");
    assert_eq!(host.statuses(), ["created"]);
    host.connect();
    let (server, open) = accept(&host);
    assert_eq!(server.url(), "wss://sp1.example/ws");
    assert_eq!(
        open,
        json!({ "id": open["id"], "type": "open", "from": Host::RUNTIME_URL, "to": "mn:/session" }),
        "exactly what the message node reads"
    );
    assert!(open["id"].is_u64());
    assert_eq!(host.statuses(), ["in-progress"]);
    answer(&server, &open, json!({ "code": 200, "runtimeToken": "t" }));
    assert_eq!(host.statuses(), ["live"]);
}

#[test]
fn c2_closes_the_session_when_asked() {
    let (host, server) = live();
    host.disconnect(DisconnectReason::Request);
    let close = server.received_json().remove(0);
    assert_eq!((&close["type"], &close["from"], &close["to"]), (&json!("close"), &json!(session_url()), &json!("mn:/session")));
    assert!(host.statuses().is_empty(), "the stub waits for the message node");
    server.close(Some(1000), "");
    assert_eq!(host.statuses(), [NORMAL]);
    assert_eq!(host.session(), None);
}

#[test]
fn slow_close_of_the_message_node_times_out() {
    let (host, server) = live();
    host.disconnect(DisconnectReason::Shutdown);
    host.advance(Duration::from_secs(2));
    assert_eq!(server.closed_by_stub(), Some((1000, String::new())));
    assert_eq!((host.statuses(), host.timers()), (vec![NORMAL.to_owned()], 0));
}

#[test]
fn c3_resumes_the_session() {
    let (host, server) = live();
    server.close(None, "");
    assert_eq!(host.statuses(), [NO_STATUS]);
    host.connect();
    let (server, reopen) = accept(&host);
    assert_eq!((&reopen["type"], &reopen["from"]), (&json!("re-open"), &json!(session_url())));
    answer(&server, &reopen, json!({ "code": 200 }));
    assert_eq!(host.statuses(), ["in-progress", "live"]);
    host.disconnect(DisconnectReason::Request);
    assert_eq!(server.received_json()[0]["from"], session_url());
    server.close(Some(1000), "");
    assert_eq!(host.statuses(), [NORMAL]);
}

#[test]
fn new_instance_resumes_the_session() {
    for reason in [DisconnectReason::Update, DisconnectReason::Idle] {
        let (host, server) = live();
        host.disconnect(reason);
        assert!(server.received().is_empty(), "the session stays open");
        assert_eq!((server.closed_by_stub(), host.statuses()), (Some((1000, String::new())), vec![NORMAL.to_owned()]));
        host.start(run, json!({ "url": "wss://sp1.example/ws" })).unwrap();
        host.connect();
        assert_eq!(accept(&host).1["type"], "re-open");
        // The saved session belongs to another runtime.
        host.start(run, json!({ "url": "wss://sp1.example/ws", "runtimeURL": "hyperty-runtime://home.example/other" })).unwrap();
        host.connect();
        assert_eq!(accept(&host).1["type"], "open");
    }
}

#[test]
fn broken_connection_reconnects_by_itself() {
    let (host, mut server) = live();
    for most in [2, 4, 8, 16] {
        server.fail("connection reset");
        assert_eq!(host.statuses().last().unwrap(), "disconnected: connection reset");
        assert!(host.next_websocket().is_none());
        host.advance(Duration::from_secs(most));
        let (again, reopen) = accept(&host);
        answer(&again, &reopen, json!({ "code": 200 }));
        assert_eq!(host.statuses(), ["in-progress", "live"]);
        server = again;
    }
}

#[test]
fn c11_waits_three_seconds_for_the_session() {
    let host = started("vertx");
    host.connect();
    let (server, _) = accept(&host);
    host.advance(Duration::from_millis(2999));
    assert_eq!(host.statuses(), ["created", "in-progress"]);
    host.advance(Duration::from_millis(1));
    assert_eq!(host.statuses(), ["disconnected: Timeout from mn:/session"]);
    assert!(server.closed_by_stub().is_some());
}

#[test]
fn c12_a_refused_session_is_failed() {
    let host = started("vertx");
    host.connect();
    let (server, open) = accept(&host);
    answer(&server, &open, json!({ "code": 500, "desc": "No more sessions", "description": "No more sessions" }));
    assert_eq!(host.statuses(), ["created", "in-progress", "failed: No more sessions"]);
    assert!(server.closed_by_stub().is_some());
}

#[test]
fn c13_lost_session_is_replaced() {
    let (host, server) = live();
    server.close(None, "");
    host.connect();
    let (server, reopen) = accept(&host);
    let gone = "Reconnection fail. Incorrect runtime token!";
    answer(&server, &reopen, json!({ "code": 500, "desc": gone, "description": gone }));
    let open = server.received_json().remove(0);
    assert_eq!((&open["type"], &open["from"]), (&json!("open"), &json!(Host::RUNTIME_URL)));
    answer(&server, &open, json!({ "code": 200, "runtimeToken": "u" }));
    assert_eq!(host.statuses(), [NO_STATUS, "in-progress", "live"]);
    let saved: Value = serde_json::from_slice(&host.session().unwrap()).unwrap();
    assert_eq!(saved["token"], "u");
}

#[test]
fn c14_message_of_the_node_does_not_go_back() {
    let (host, server) = live();
    let stub = || Host::STUB_URL.to_owned();
    let via = |via: Value| ping().with_body(json!({ "via": via }));
    host.deliver_all([
        via(json!(Host::STUB_URL)),
        via(json!(["runtime://a.example/s", Host::STUB_URL])),
        Message { via: vec![stub()], kind: MessageType::Read, ..ping() },
        Message { via: vec!["runtime://a.example/s".into()], ..via(json!("runtime://a.example/s")) },
    ]);
    let sent = server.received_json();
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0]["body"]["via"], &sent[0]["via"][1]), (&json!(Host::STUB_URL), &json!(Host::STUB_URL)));
    let answers = host.posted();
    assert_eq!((answers.len(), answers[0].code()), (1, Some(508)));

    server.send_json(
        &json!({ "id": 1, "type": "update", "from": BOB, "to": ALICE, "body": { "via": "runtime://a.example/s", "a": 1 } }),
    );
    let posted = host.posted().remove(0);
    assert_eq!(posted.parse::<Value>().unwrap(), json!({ "via": Host::STUB_URL, "a": 1 }));
    assert_eq!(posted.via, ["runtime://a.example/s"]);
}

#[test]
fn c15_messages_wait_for_the_session_and_keep_their_order() {
    let host = started("vertx");
    host.deliver_all((0..100).map(|id| ping().with_id(id)));
    host.connect();
    let (server, open) = accept(&host);
    assert!(server.received().is_empty());
    answer(&server, &open, json!({ "code": 200, "runtimeToken": "t" }));
    let ids: Vec<_> = server.received_json().iter().map(|message| message["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
}

#[test]
fn c16_unsent_request_is_answered_503() {
    let (host, server) = live();
    let read = Message { kind: MessageType::Read, ..ping() };
    server.set_room(Some(0));
    host.deliver(read);
    assert!(host.posted().is_empty());
    server.fail("connection reset");
    let response = host.posted().remove(0);
    assert_eq!((response.code(), &*response.from, &*response.to, response.id), (Some(503), BOB, ALICE, MessageId::Number(7)));
}

#[test]
fn waiting_messages_are_sent_before_the_close() {
    let (host, server) = live();
    server.set_room(Some(0));
    host.deliver_all([ping(), ping().with_id("x")]);
    host.disconnect(DisconnectReason::Request);
    server.set_room(None);
    let sent = server.received_json();
    assert_eq!(sent.iter().map(|message| message["id"].clone()).collect::<Vec<_>>(), [json!(7), json!("x"), json!(3)]);
}

#[test]
fn messages_arrive_as_they_were_sent() {
    let (host, server) = live();
    server.send_text(
        r#"{"id":"a","type":"CREATE","from":"hyperty://sp1.example/bob","to":["hyperty://home.example/alice","hyperty://home.example/carol"],"body":{"value":1.50}}"#,
    );
    server.send_text("no message");
    server.send_text(r#"{"id":12,"type":"pong","from":"hyperty://sp1.example/bob","to":"hyperty://home.example/alice"}"#);
    let posted = host.posted();
    assert_eq!(posted.len(), 3);
    assert_eq!(
        (&posted[0].kind, &*posted[1].to, &posted[1].id),
        (&MessageType::Create, "hyperty://home.example/carol", &"a".into())
    );
    assert_eq!(
        posted[0].body,
        Some(Body::Json(format!(r#"{{"via":"{}","value":1.50}}"#, Host::STUB_URL))),
        "the body's text is spliced"
    );
    assert_eq!((&posted[2].id, &posted[2].body), (&MessageId::Number(12), &None));
    assert!(host.log().iter().any(|line| line.starts_with("WARN the message node sent an invalid message")));
}

#[test]
fn message_before_the_session_is_delivered() {
    let (host, server) = live();
    server.close(None, "");
    host.connect();
    let (server, reopen) = accept(&host);
    server.send_json(&json!({ "id": 5, "type": "update", "from": BOB, "to": ALICE }));
    answer(&server, &reopen, json!({ "code": 200 }));
    assert_eq!(host.posted()[0].id, MessageId::Number(5));
    assert_eq!(host.statuses().last().unwrap(), "live");
}

#[test]
fn node_error_is_matched_to_its_request() {
    let (host, server) = live();
    host.deliver(Message { kind: MessageType::Read, ..ping() });
    server.send_json(&json!({ "id": 7, "type": "response", "from": "mn:/policies", "to": ALICE, "body": { "code": 403, "desc": "Message blocked by policy" } }));
    let response = host.posted().remove(0);
    assert_eq!((&*response.from, response.code()), (BOB, Some(403)));
}

#[test]
fn request_refused_by_the_bus_is_answered_to_the_node() {
    let (host, server) = live();
    host.refuse_posts([Error::Busy, Error::Io("no listener".to_owned())]);
    for id in [5, 6] {
        server.send_json(&json!({ "id": id, "type": "read", "from": BOB, "to": ALICE }));
    }
    server.send_json(&json!({ "id": 7, "type": "read", "from": "hyperty://other.example/eve", "to": ALICE }));
    let answers = server.received_json();
    assert_eq!((&answers[0]["to"], &answers[0]["id"], &answers[0]["body"]["code"]), (&json!(BOB), &json!(5), &json!(429)));
    assert_eq!((&answers[1]["body"]["code"], &answers[2]["body"]["code"]), (&json!(404), &json!(403)));
}

#[test]
fn unwritable_message_does_not_affect_others() {
    let (host, server) = live();
    host.deliver_all([
        Message { kind: MessageType::Read, body: Some(Body::Json("{".into())), ..ping() },
        Message { kind: MessageType::Read, body: Some(json!("x".repeat(1024 * 1024)).into()), ..ping() },
        Message { body: Some(Body::Bytes(vec![0, 1, 2])), ..ping() },
        Message { body: None, ..ping() },
    ]);
    let sent = server.received_json();
    assert_eq!((sent.len(), &sent[0]["bytes"], &sent[1]["body"]), (2, &json!("AAEC"), &json!({ "via": Host::STUB_URL })));
    assert_eq!(host.posted().iter().map(Message::code).collect::<Vec<_>>(), [Some(400), Some(413)]);
}

#[test]
fn gateway_401_fails_the_stub_with_a_hint() {
    let host = started("vertx");
    host.connect();
    host.websocket().refuse(401);
    assert!(host.statuses().last().unwrap().starts_with("failed: the message node at wss://sp1.example/ws answered 401"));
    let host = started("vertx");
    host.connect();
    host.websocket().refuse(502);
    assert_eq!(host.statuses().last().unwrap(), "disconnected: the server refused the WebSocket with the HTTP status 502");
}

#[test]
fn nomatrix_is_live_once_connected() {
    let host = started("nomatrix");
    host.connect();
    let server = host.websocket();
    assert_eq!(server.url(), "wss://sp1.example/ws?runtimeURL=hyperty%2Druntime%3A%2F%2Fhome%2Eexample%2Fruntime");
    server.accept();
    assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
    host.deliver(ping());
    assert_eq!(server.received_json()[0]["to"], BOB);
    server.send_json(&json!({ "id": 1, "type": "pong", "from": BOB, "to": ALICE, "body": {} }));
    assert_eq!(host.posted()[0].body, Some(Body::Json(format!(r#"{{"via":"{}"}}"#, Host::STUB_URL))));

    host.disconnect(DisconnectReason::Request);
    assert_eq!(server.received_json(), [json!({ "cmd": "disconnect", "body": { "runtimeURL": Host::RUNTIME_URL } })]);
    assert_eq!((server.closed_by_stub(), host.statuses()), (Some((1000, String::new())), vec![NORMAL.to_owned()]));
}

#[test]
fn nomatrix_connects_again_under_the_same_url() {
    let host = started("nomatrix");
    host.connect();
    let server = host.websocket();
    server.accept();
    server.close(Some(1001), "");
    assert!(host.statuses().last().unwrap().starts_with("disconnected: An endpoint is \"going away\""));
    host.advance(Duration::from_secs(2));
    let again = host.websocket();
    assert_eq!(again.url(), server.url());
    again.accept();
    host.disconnect(DisconnectReason::Update);
    assert!(again.received().is_empty(), "the successor replaces it");
}
