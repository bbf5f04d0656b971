//! The messages of the bus, and their JSON form.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{
    Error, Result,
    wire::{Addresses, Headers, write_headers},
};

/// Maximum number of receivers of one message on a wire.
const MAX_RECEIVERS: usize = 256;

/// Marks a message of any type as a request.
const EXPECTS_RESPONSE: &str = "expects-response";

/// A message of the bus.
///
/// A response has `from` and `to` of its request swapped, and its request's `id`:
/// [`Message::response`] sets them.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the message of the contract, whose shape never changes within a track")]
pub struct Message {
    /// The sender's id of the message, unique among its own requests to one receiver.
    pub id: MessageId,
    /// The type of the message.
    pub kind: MessageType,
    /// The sender's address. If it is empty when the message is [posted](crate::Stub::post), it
    /// becomes the stub's URL.
    pub from: String,
    /// The receiver's address.
    pub to: String,
    /// The addresses that the message came through, oldest first; at most 16. The host adds the
    /// stub's own URL to the messages that the stub posts.
    pub via: Vec<String>,
    /// Metadata next to the body, with names in lower case; at most 32, and 8 KiB in all.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Option<Body>,
}

/// The id that a sender gives a message. An id that is a number on a wire stays a number; `7` and
/// `"7"` name the same request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum MessageId {
    /// A JSON number.
    Number(u64),
    /// A JSON string.
    Text(String),
}

/// The type of a message. It is written in lower case, and read in any case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the reTHINK message model")]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum MessageType {
    Create,
    Read,
    Update,
    Delete,
    Subscribe,
    Unsubscribe,
    Response,
    Forward,
    Execute,
    /// A type outside the reTHINK message model, such as `ping`, in lower case.
    Other(String),
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's variant, which never changes within a track")]
pub enum Body {
    /// RFC 8259 text. The sender claims that it is valid; [`Body::parse`] finds out.
    Json(String),
    /// Bytes that no JSON wire can hold as they are.
    Bytes(Vec<u8>),
}

impl Message {
    /// Makes a message from the stub itself, without a body and with the id 0.
    #[must_use]
    pub fn new(kind: MessageType, to: impl Into<String>) -> Self {
        Self {
            id: MessageId::Number(0),
            kind,
            from: String::new(),
            to: to.into(),
            via: Vec::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the sender: the stub's URL, a path below it, or an address of the stub's domain.
    #[must_use]
    pub fn with_from(mut self, from: impl Into<String>) -> Self {
        self.from = from.into();
        self
    }

    /// Sets the body: a [`Body`], or a [`serde_json::Value`].
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// Makes the response to this request. It is final or, with a `code` below 200, provisional.
    /// The codes are those of RFC 9110. `value`, if present, becomes the `value` of the response's
    /// body: a [`Body`] or a [`serde_json::Value`]. A body that is not JSON becomes a JSON string
    /// (bytes: in base64).
    #[must_use]
    pub fn response(&self, code: u16, value: Option<Body>) -> Self {
        let body = match value.map(Body::into_json) {
            Some(value) => format!(r#"{{"code":{code},"value":{value}}}"#),
            None => format!(r#"{{"code":{code}}}"#),
        };
        self.answered(Body::Json(body))
    }

    /// Makes the response that refuses this request: `code` as in RFC 9110, `reason` for people.
    /// Its body has `desc` and `description` with the same text, since existing runtimes read
    /// either.
    #[must_use]
    pub fn error_response(&self, code: u16, reason: &str) -> Self {
        let reason = quoted(reason);
        self.answered(Body::Json(format!(r#"{{"code":{code},"desc":{reason},"description":{reason}}}"#)))
    }

    fn answered(&self, body: Body) -> Self {
        Self::new(MessageType::Response, self.from.clone()).with_from(self.to.clone()).with_id(self.id.clone()).with_body(body)
    }

    /// Returns the message without its body, which a response does not need.
    pub(crate) fn without_body(&self) -> Self {
        Self {
            id: self.id.clone(),
            kind: self.kind.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            via: self.via.clone(),
            headers: self.headers.clone(),
            body: None,
        }
    }

    /// Returns `true` if exactly one final response is due: the message is a `create`, `read`,
    /// `delete`, `subscribe`, `unsubscribe` or `execute`, or carries the header
    /// `expects-response: true`.
    #[must_use]
    pub fn expects_response(&self) -> bool {
        use MessageType::{Create, Delete, Execute, Read, Response, Subscribe, Unsubscribe};
        match self.kind {
            Create | Read | Delete | Subscribe | Unsubscribe | Execute => true,
            Response => false,
            _ => self.header(EXPECTS_RESPONSE) == Some("true"),
        }
    }

    /// Returns the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the code of a response, or `None` if the body has no `code` that is a number.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        #[derive(Deserialize)]
        struct Coded {
            code: u16,
        }
        self.parse::<Coded>().ok().map(|body| body.code)
    }

    /// Reads the body as JSON. A message without a body reads as `null`.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the body is not JSON, or not of this shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let body = self.body.as_ref().map_or(Ok("null"), Body::text)?;
        serde_json::from_str(body).map_err(|error| Error::Invalid(format!("the body of a `{}` message: {error}", self.kind)))
    }

    /// Returns roughly how much memory the message takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let body = self.body.as_ref().map_or(0, |body| body.as_bytes().len());
        size_of::<Self>() + self.from.len() + self.to.len() + body
    }

    /// Writes the message as JSON text: `id`, `type`, `from`, `to`, and where there are any, `via`,
    /// `headers`, and `body` or, for [`Body::Bytes`], `bytes` in base64 (RFC 4648 section 4).
    ///
    /// # Errors
    /// [`Error::Invalid`], if the body is text that is not JSON.
    pub fn to_json(&self) -> Result<String> {
        const MEMBER: &str = r#","body":"#;

        let (body, bytes) = match &self.body {
            None => (None, None),
            Some(Body::Json(text)) => (Some(serde_json::from_str::<&RawValue>(text)?.get()), None),
            Some(Body::Bytes(bytes)) => (None, Some(BASE64.encode(bytes))),
        };
        let mut json = serde_json::to_string(&WireOut {
            id: &self.id,
            kind: self.kind.as_str(),
            from: &self.from,
            to: &self.to,
            via: &self.via,
            headers: &self.headers,
            bytes,
        })?;
        if let Some(body) = body {
            // The end of the object. Written in one piece, the body is not copied again while the
            // text grows.
            json.truncate(json.len() - 1);
            json.reserve_exact(MEMBER.len() + body.len() + 1);
            json.extend([MEMBER, body, "}"]);
        }
        Ok(json)
    }

    /// Reads the format of [`Self::to_json`], and the formats of the reTHINK runtimes and message
    /// nodes. These have types in any case, and an `id` that is a number or a text (0 if it is
    /// missing). A `to` array becomes one message for each address. The `body.via` of existing
    /// runtimes, one address or a list, becomes the end of `via`.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the text is no JSON object with `type`, `from` and `to`, or a member
    /// has the wrong form.
    pub fn from_json(text: &str) -> Result<Vec<Self>> {
        let wire: WireIn<'_> = serde_json::from_str(text)?;
        let body = match (wire.body, wire.bytes) {
            (Some(body), _) => Some(Body::Json(body.get().to_owned())),
            (None, Some(bytes)) => Some(Body::Bytes(
                BASE64.decode(&*bytes).map_err(|error| Error::Invalid(format!("`bytes` is not base64: {error}")))?,
            )),
            (None, None) => None,
        };
        let mut via = wire.via;
        for address in body.as_ref().map(body_via).unwrap_or_default() {
            if !via.contains(&address) {
                via.push(address);
            }
        }
        let mut message = Self {
            id: wire.id.unwrap_or(MessageId::Number(0)),
            kind: MessageType::from(&*wire.kind),
            from: wire.from,
            to: String::new(),
            via,
            headers: wire.headers.0,
            body,
        };
        let Addresses(mut to) = wire.to;
        if !(1..=MAX_RECEIVERS).contains(&to.len()) {
            return Err(Error::Invalid(format!("`to` has {} addresses; use 1 to {MAX_RECEIVERS}", to.len())));
        }
        let last = to.pop().unwrap_or_default();
        let mut messages: Vec<_> = to.into_iter().map(|to| Self { to, ..message.clone() }).collect();
        message.to = last;
        messages.push(message);
        Ok(messages)
    }
}

/// Returns the `body.via` that the original runtimes write: one address, where their specification
/// has a list. `protostub-types` reads the same: `tests/corpus/body-via.json` tests both.
fn body_via(body: &Body) -> Vec<String> {
    #[derive(Deserialize)]
    struct Via {
        via: Addresses,
    }
    match body {
        // Most bodies have no `via`: they are not parsed. Serde would read an array as the members
        // of a structure.
        Body::Json(text) if text.trim_start().starts_with('{') && body.may_have("via") => {
            serde_json::from_str::<Via>(text).map(|body| body.via.0).unwrap_or_default()
        }
        Body::Json(_) | Body::Bytes(_) => Vec::new(),
    }
}

/// All members but a JSON body, which comes last.
#[derive(Serialize)]
struct WireOut<'a> {
    id: &'a MessageId,
    #[serde(rename = "type")]
    kind: &'a str,
    from: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    via: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "write_headers")]
    headers: &'a Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Deserialize)]
struct WireIn<'a> {
    id: Option<MessageId>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    from: String,
    to: Addresses,
    #[serde(default)]
    via: Vec<String>,
    #[serde(default)]
    headers: Headers,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    bytes: Option<Cow<'a, str>>,
}

impl Clone for Message {
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), ..self.without_body() }
    }
}

impl From<u64> for MessageId {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl MessageType {
    /// Returns the name on the wire, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Response => "response",
            Self::Forward => "forward",
            Self::Execute => "execute",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for MessageType {
    fn from(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "create" => Self::Create,
            "read" => Self::Read,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "response" => Self::Response,
            "forward" => Self::Forward,
            "execute" => Self::Execute,
            _ => Self::Other(lower),
        }
    }
}

impl Body {
    /// Makes a JSON body of any value that serde can write.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the value has no JSON form, for example a map whose keys are no
    /// strings.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self::Json(serde_json::to_string(value)?))
    }

    /// Reads the JSON text. [`Body::Bytes`] are read as JSON text too.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the text is not JSON, or not of this shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_str(self.text()?)?)
    }

    /// Returns the text, or the bytes if they are UTF-8.
    fn text(&self) -> Result<&str> {
        match self {
            Self::Json(text) => Ok(text),
            Self::Bytes(bytes) => text_of(bytes),
        }
    }

    /// Returns `true` if the body may be a JSON object with this member, at any depth, and `false`
    /// if it certainly is not. This check takes a small part of the time that reading the text
    /// takes, for a member that hardly any message has.
    #[must_use]
    pub fn may_have(&self, member: &str) -> bool {
        let text = self.as_bytes();
        // The name occurs literally, or with an escape.
        memchr::memchr2_iter(b'"', b'\\', text).any(|at| text[at] == b'\\' || text[at + 1..].starts_with(member.as_bytes()))
    }

    /// Returns the text or the bytes, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Returns text that is certainly JSON.
    fn into_json(self) -> String {
        match self {
            Self::Json(text) if serde_json::from_str::<&RawValue>(&text).is_ok() => text,
            Self::Json(text) => quoted(&text),
            Self::Bytes(bytes) => quoted(&BASE64.encode(bytes)),
        }
    }
}

/// Reads the bytes as text.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| Error::Invalid(format!("the bytes are not UTF-8 text: {error}")))
}

/// Writes the text as a JSON string.
fn quoted(text: &str) -> String {
    // Every text has a JSON form.
    serde_json::to_string(text).unwrap_or_default()
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::Json(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Message {
        Message::from_json(text).unwrap().remove(0)
    }

    #[test]
    fn body_without_a_member_is_recognised_unread() {
        let may_have = |text: &str| Body::Json(text.into()).may_have("via");
        assert!(
            may_have(r#"{"via":1}"#) && may_have(r#"{"a":{"via" : 1}}"#) && may_have(r#"{"\u0076ia":1}"#) && may_have(r#""via"#)
        );
        assert!(!may_have(r#"{"a":"trivia, via"}"#) && !may_have("{}") && !may_have("") && !may_have("\"vi"));
    }

    #[test]
    fn message_survives_writing_and_reading() {
        for text in [
            r#"{"id":1,"type":"read","from":"hyperty://a.example/1","to":"hyperty://b.example/2"}"#,
            r#"{"id":"1","type":"ping","from":"hyperty://a.example/1","to":"hyperty://b.example/2","body":{"b":1,"a":[ 2.50 ]}}"#,
            r#"{"id":7,"type":"update","from":"hyperty://a.example/1","to":"mn:/session","via":["runtime://a.example/x"],"headers":{"content-type":"text/plain"},"bytes":"AAEC"}"#,
        ] {
            assert_eq!(read(text).to_json().unwrap(), text);
        }
    }

    #[test]
    fn message_of_existing_runtimes_is_read() {
        let text = r#"{"type":"READ","from":"a.example","to":["hyperty://b.example/2","hyperty://c.example/3"],"body":{"via":"runtime://x.example/1"}}"#;
        let messages = Message::from_json(text).unwrap();
        assert_eq!(
            messages.iter().map(|message| &*message.to).collect::<Vec<_>>(),
            ["hyperty://b.example/2", "hyperty://c.example/3"]
        );
        assert_eq!(messages[0].kind, MessageType::Read);
        assert_eq!(messages[1].via, ["runtime://x.example/1"]);
        let text = r#"{"id":1,"type":"ping","from":"a","to":"b","via":["s:1"],"body":{"via":["s:1","s:2"]}}"#;
        assert_eq!(read(text).via, ["s:1", "s:2"]);
        let text = r#"{"id":1,"type":"ping","from":"a","to":"b","body":{"a":1,"\u0076ia":"s:1"}}"#;
        assert_eq!(read(text).via, ["s:1"]);
        let text = r#"{"id":1,"type":"ping","from":"a","to":"b","body":{"a":"via"}}"#;
        assert!(read(text).via.is_empty());
    }

    #[test]
    fn malformed_message_is_refused_with_a_reason() {
        let check = |text: &str, expected: &str| {
            let error = Message::from_json(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "EOF");
        check(r#"{"type":"read","from":"a.example"}"#, "missing field `to`");
        check(r#"{"type":"read","from":"a.example","to":[]}"#, "0 addresses");
        check(r#"{"type":"read","from":"a.example","to":"b.example","bytes":"?"}"#, "base64");
    }

    #[test]
    fn response_with_any_value_answers_its_request() {
        let request = Message::new(MessageType::Read, "hyperty://b.example/2").with_from("hyperty://a.example/1").with_id("x");
        let check = |value: Option<Body>, expected: &str| {
            let response = request.response(200, value);
            assert_eq!((&response.from, &response.to, &response.id), (&request.to, &request.from, &request.id));
            assert_eq!(response.body, Some(Body::Json(expected.to_owned())));
            assert_eq!(response.code(), Some(200));
        };
        check(None, r#"{"code":200}"#);
        check(Some(Body::Json(r#"{"a": 1}"#.into())), r#"{"code":200,"value":{"a": 1}}"#);
        check(Some(Body::Json(r#"1},"code":500"#.into())), r#"{"code":200,"value":"1},\"code\":500"}"#);
        check(Some(Body::Bytes(vec![0, 1, 2])), r#"{"code":200,"value":"AAEC"}"#);
        assert_eq!(request.error_response(404, "nobody").code(), Some(404));
        assert!(request.expects_response() && !request.response(200, None).expects_response());
        assert!(Message::new(MessageType::from("Ping"), "x").with_header("Expects-Response", "true").expects_response());
    }
}
