//! `body.via`, as `protostub-types` reads it too: its tests have the same corpus.

use protostub_sdk::Message;
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
        let found = &read[0].via;
        assert_eq!(*found, via, "{case}");
    }
}
