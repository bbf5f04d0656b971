//! Tests of `body.via`. The tests of `protostub-sdk`, which reads it too, use the same corpus.

use protostub_types::{Address, Message};
use serde::Deserialize;
use serde_json::value::RawValue;

const CORPUS: &str = include_str!("../../../../tests/corpus/body-via.json");

#[derive(Deserialize)]
struct Case<'a> {
    case: &'a str,
    #[serde(borrow)]
    message: &'a RawValue,
    via: Vec<String>,
}

#[test]
fn body_via_is_read_as_the_corpus_says() {
    let cases: Vec<Case<'_>> = serde_json::from_str(CORPUS).expect("a corpus");
    assert!(!cases.is_empty());
    for Case { case, message, via } in cases {
        let read = Message::from_json(message.get()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let found: Vec<_> = read[0].via.iter().map(Address::as_str).collect();
        assert_eq!(found, via, "{case}");
    }
}

#[test]
fn body_via_without_an_address_is_left_out() {
    let text = r#"{"type":"read","from":"a.example","to":"b.example","body":{"via":["a b","hyperty-runtime://x.example/1"]}}"#;
    let read = Message::from_json(text).expect("a message");
    assert_eq!(read[0].via, [Address::parse("hyperty-runtime://x.example/1").expect("an address")]);
}

#[test]
fn body_via_longer_than_the_limit_is_refused() {
    let all: Vec<_> = (0..17).map(|number| format!("hyperty-runtime://x.example/{number}")).collect();
    let text = serde_json::json!({ "type": "read", "from": "a.example", "to": "b.example", "body": { "via": all } }).to_string();
    let error = Message::from_json(&text).expect_err("too many").to_string();
    assert!(error.contains("17 addresses"), "{error}");
}
