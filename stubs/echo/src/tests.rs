use protostub_sdk::{Body, Error, Message, MessageType, testing::Host};
use serde_json::json;

use crate::run;

const ALICE: &str = "hyperty://home.example/alice";
const BOB: &str = "hyperty://sp1.example/bob";

fn message(kind: &str) -> Message {
    Message::new(MessageType::from(kind), BOB).with_from(ALICE).with_id(7).with_body(json!([1]))
}

fn live() -> Host {
    let host = Host::new();
    host.start(run, json!({ "anything": true })).unwrap();
    host.connect();
    assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
    host
}

#[test]
fn request_is_answered_with_its_body() {
    let host = live();
    host.deliver_all([message("read"), message("ping").with_header("expects-response", "true")]);
    for response in host.posted() {
        assert_eq!((response.kind, &*response.from, &*response.to, response.id), (MessageType::Response, BOB, ALICE, 7.into()));
        assert_eq!(response.body, Some(Body::Json(r#"{"code":200,"value":[1]}"#.into())));
    }
}

#[test]
fn other_message_comes_back() {
    let host = live();
    host.deliver(Message { via: vec!["runtime://a.example/s".into()], ..message("ping") });
    let back = Message { from: BOB.into(), to: ALICE.into(), ..message("ping") };
    assert_eq!(host.posted(), [back]);
}

#[test]
fn refused_echo_leaves_the_stub_live() {
    let host = live();
    host.refuse_posts([Error::Busy]);
    host.deliver_all([message("ping"), message("ping")]);
    assert_eq!(host.posted().len(), 1);
    assert!(host.statuses().is_empty());
}

#[test]
fn request_with_a_refused_echo_gets_413() {
    let host = live();
    host.refuse_posts([Error::Limit("the body has 1048600 bytes".into())]);
    host.deliver(message("read"));
    assert_eq!(host.posted().iter().map(Message::code).collect::<Vec<_>>(), [Some(413)]);
    assert!(host.statuses().is_empty());
}
