//! `body.via`: the address of the stub that a message came through last. The original stubs write
//! one address there, and drop messages that have their own address there. This module splices the
//! body's text rather than writing it again, so all other bytes stay the same.

use protostub_sdk::Body;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct WithVia<'a> {
    // A `null` counts too.
    #[serde(borrow, default, deserialize_with = "some")]
    via: Option<&'a RawValue>,
}

fn some<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Returns `true` if a body may have a `via`. Most bodies have none, and this check avoids parsing
/// them.
pub(crate) fn may_be_in(body: Option<&Body>) -> bool {
    body.is_some_and(|body| body.may_have("via"))
}

/// Returns `true` if `body.via` is this address, or a list with it.
pub(crate) fn holds(body: Option<&Body>, address: &str) -> bool {
    let Some(Body::Json(text)) = body else { return false };
    match object(text).and_then(|object| serde_json::from_str(object.via?.get()).ok()) {
        Some(OneOrMany::One(via)) => via == address,
        Some(OneOrMany::Many(all)) => all.iter().any(|via| via == address),
        None => false,
    }
}

/// Sets `body.via` to this address. A body that is not an object has no place for `via`, and stays
/// the same. A body that is not JSON does not become valid JSON: writing the message reports the
/// fault. `may_have_one` is the result of [`may_be_in`].
pub(crate) fn set(body: &mut Option<Body>, address: &str, may_have_one: bool) {
    let Some(Body::Json(text)) = body else { return };
    let Some(brace) = text.find(|first: char| !first.is_ascii_whitespace()).filter(|first| text[*first..].starts_with('{'))
    else {
        return;
    };
    let Ok(value) = serde_json::to_string(address) else { return };
    let old = if may_have_one { object(text).and_then(|object| object.via) } else { None };
    if let Some(old) = old.map(RawValue::get) {
        // The old value is a slice of the text, so its address is the place to cut.
        let begin = old.as_ptr() as usize - text.as_ptr() as usize;
        text.replace_range(begin..begin + old.len(), &value);
    } else {
        let (before, behind) = text.split_at(brace + 1);
        let comma = if behind.trim_start().starts_with('}') { "" } else { "," };
        *text = [before, r#""via":"#, &value, comma, behind].concat();
    }
}

/// Reads the text of a JSON object. Returns `None` for any other text. (Serde would accept arrays.)
fn object(text: &str) -> Option<WithVia<'_>> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_via_keeps_the_rest_of_the_body() {
        let check = |before: &str, after: &str| {
            let mut body = Some(Body::Json(before.into()));
            let may_have_one = may_be_in(body.as_ref());
            set(&mut body, "s:1", may_have_one);
            assert_eq!(body, Some(Body::Json(after.into())));
            assert_eq!(holds(body.as_ref(), "s:1"), before != after);
        };
        check(r#"{ "b": 1.50, "a": {"via":"x"} }"#, r#"{"via":"s:1", "b": 1.50, "a": {"via":"x"} }"#);
        check(r#"{"a":1,"via": "s:2" ,"b":2}"#, r#"{"a":1,"via": "s:1" ,"b":2}"#);
        check(r#"{"via":["s:2","s:3"]}"#, r#"{"via":"s:1"}"#);
        check(r#"{"via":null,"a":1}"#, r#"{"via":"s:1","a":1}"#);
        check(" { } ", r#" {"via":"s:1" } "#);
        check("[1]", "[1]");
        check("\"{\"", "\"{\"");
        // Invalid JSON stays invalid.
        for no_json in ["{", "{]", "{,}", "{ \"a\" }", "{}}", "{a"] {
            let mut body = Some(Body::Json(no_json.into()));
            let may_have_one = may_be_in(body.as_ref());
            set(&mut body, "s:1", may_have_one);
            let Some(Body::Json(text)) = body else { panic!("{no_json}") };
            assert!(serde_json::from_str::<&RawValue>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn via_is_found_alone_and_in_a_list() {
        let holds = |text: &str| {
            let body = Some(Body::Json(text.into()));
            let holds = holds(body.as_ref(), "s:1");
            assert!(may_be_in(body.as_ref()) || !holds, "{text}");
            holds
        };
        assert!(holds(r#"{"via":"s:1"}"#) && holds(r#"{"via":["s:2","s:1"]}"#) && holds(r#"{"\u0076ia":"s:1"}"#));
        assert!(!holds(r#"{"via":"s:10"}"#) && !holds(r#"{"via":{"s:1":1}}"#) && !holds("7") && !super::holds(None, "s:1"));
    }
}
