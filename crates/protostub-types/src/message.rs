use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{Address, AddressError, SafeText, json_line};

/// Maximum number of addresses that a message may have come through. A longer path is a loop.
pub const MAX_VIA: usize = 16;
/// Maximum number of headers of a message.
pub const MAX_HEADERS: usize = 32;
/// Maximum length of a message's headers in bytes, names and values together.
pub const MAX_HEADERS_BYTES: usize = 8 * 1024;

/// Header that marks a message of any type as a request: it gets exactly one final response.
const EXPECTS_RESPONSE: &str = "expects-response";

/// One message of the bus.
///
/// Bodies are shared: the bus neither copies nor parses them. A response has its request's `from`
/// and `to` swapped, and its request's id.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a reader that copies a message has to copy all of it")]
pub struct Message {
    /// The sender's id of the message; unique among the sender's requests to one receiver.
    pub id: MessageId,
    /// The type of the message.
    pub kind: MessageType,
    /// Address of the sender.
    pub from: Address,
    /// Address of the receiver.
    pub to: Address,
    /// Addresses that the message came through, oldest first; at most [`MAX_VIA`].
    pub via: Vec<Address>,
    /// Metadata next to the body, with names in lower case; at most [`MAX_HEADERS`].
    pub headers: Vec<(String, String)>,
    /// The content of the message.
    pub body: Option<Body>,
}

/// The id that a sender gives to a message. A number on the wire stays a number, and each form is
/// written as it was read. `7` and `"7"` name the same request ([`Self::canonical`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "an id is a number or a text on the wire")]
pub enum MessageId {
    /// A JSON number.
    Number(u64),
    /// A JSON string.
    Text(Arc<str>),
}

/// The type of a message. Written in lower case, read in any case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the reTHINK message model")]
#[expect(clippy::exhaustive_enums, reason = "a new type is `Other`")]
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
    /// A type outside the reTHINK message model, in lower case, such as `ping`.
    Other(Arc<str>),
}

/// The content of a message.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a body is JSON or bytes in the contract")]
pub enum Body {
    /// RFC 8259 text. It is valid UTF-8; [`Self::parse`] finds out if it is JSON.
    Json(Arc<str>),
    /// Bytes that a JSON wire cannot hold unencoded.
    Bytes(Arc<[u8]>),
}

/// The reason why a text, or its content, is not a [`Message`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The text is not a JSON object with the members of a message.
    #[error("the text is not a message: {0}")]
    Json(SafeText),
    /// A member is not an address.
    #[error("the message's `{member}` is not an address")]
    Address {
        /// `from`, `to` or `via`.
        member: &'static str,
        /// The problem of the address.
        #[source]
        source: AddressError,
    },
    /// A member has an invalid value, or too many bytes or entries.
    #[error("the message's `{member}` {problem}")]
    Member {
        /// The member's name.
        member: &'static str,
        /// The problem of the member.
        problem: String,
    },
}

impl From<serde_json::Error> for MessageError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(SafeText::display(error))
    }
}

impl Message {
    /// Makes a message without a sender, an id and a body. Posting the message fills in the first
    /// two.
    ///
    /// ```
    /// use protostub_types::Message;
    ///
    /// let question = Message::read("hyperty://sp1.example/alice".parse()?);
    /// # assert_eq!(question.to.as_str(), "hyperty://sp1.example/alice");
    /// # Ok::<(), protostub_types::AddressError>(())
    /// ```
    #[must_use]
    pub fn new(kind: MessageType, to: Address) -> Self {
        Self { id: MessageId::Number(0), kind, from: Address::unset(), to, via: Vec::new(), headers: Vec::new(), body: None }
    }

    /// Makes a `create` message.
    #[must_use]
    pub fn create(to: Address) -> Self {
        Self::new(MessageType::Create, to)
    }

    /// Makes a `read` message.
    #[must_use]
    pub fn read(to: Address) -> Self {
        Self::new(MessageType::Read, to)
    }

    /// Makes an `update` message.
    #[must_use]
    pub fn update(to: Address) -> Self {
        Self::new(MessageType::Update, to)
    }

    /// Makes a `subscribe` message.
    #[must_use]
    pub fn subscribe(to: Address) -> Self {
        Self::new(MessageType::Subscribe, to)
    }

    /// Returns the message with this JSON body.
    #[must_use]
    pub fn with_body(mut self, body: Value) -> Self {
        self.body = Some(Body::from(body));
        self
    }

    /// Makes the final response to this request, or a provisional one (`code` below 200), with
    /// `value` in its body.
    #[must_use]
    pub fn response(&self, code: u16, value: Option<Value>) -> Self {
        let mut body = serde_json::Map::from_iter([("code".to_owned(), Value::from(code))]);
        body.extend(value.map(|value| ("value".to_owned(), value)));
        self.answered(body)
    }

    /// Makes the response that reports why this message was not delivered or not answered. `code`
    /// is as in RFC 9110, `reason` is a text for people. The body has `code`, and `desc` and
    /// `description` with the same text, since existing runtimes read either of them.
    #[must_use]
    pub fn error_response(&self, code: u16, reason: &str) -> Self {
        self.answered(serde_json::Map::from_iter([
            ("code".to_owned(), Value::from(code)),
            ("desc".to_owned(), Value::from(reason)),
            ("description".to_owned(), Value::from(reason)),
        ]))
    }

    fn answered(&self, body: serde_json::Map<String, Value>) -> Self {
        Self {
            id: self.id.clone(),
            kind: MessageType::Response,
            from: self.to.clone(),
            to: self.from.clone(),
            via: Vec::new(),
            headers: Vec::new(),
            body: Some(Body::from(Value::Object(body))),
        }
    }

    /// Returns `true` if exactly one final response is due: the message is a `create`, `read`,
    /// `delete`, `subscribe`, `unsubscribe` or `execute`, or has the header
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

    /// Makes the message a request, if its type does not make it one.
    pub fn expect_response(&mut self) {
        if !self.expects_response() {
            self.headers.push((EXPECTS_RESPONSE.to_owned(), "true".to_owned()));
        }
    }

    /// Returns the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the code of a response, if it has a numeric one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        #[derive(Deserialize)]
        struct Coded {
            code: u16,
        }
        self.body.as_ref()?.parse::<Coded>().ok().map(|body| body.code)
    }

    /// Returns `true` if this response leaves its request open: its code is below 200.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.kind == MessageType::Response && self.code().is_some_and(|code| code < 200)
    }

    /// Returns the approximate memory of the message in bytes, for limits on queues.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        let via: usize = self.via.iter().map(|address| address.as_str().len() + 24).sum();
        let body = self.body.as_ref().map_or(0, |body| body.as_bytes().len());
        size_of::<Self>() + self.from.as_str().len() + self.to.as_str().len() + headers + via + body
    }

    /// Checks the limits that hold for every message.
    ///
    /// # Errors
    /// If `via` or the headers exceed [`MAX_VIA`], [`MAX_HEADERS`] or [`MAX_HEADERS_BYTES`].
    pub fn check_limits(&self) -> Result<(), MessageError> {
        let fail = |member, problem| Err(MessageError::Member { member, problem });
        if self.via.len() > MAX_VIA {
            return fail(
                "via",
                format!("has {} addresses, more than {MAX_VIA}; the message may go round in circles", self.via.len()),
            );
        }
        if self.headers.len() > MAX_HEADERS {
            return fail("headers", format!("has {} entries, more than {MAX_HEADERS}", self.headers.len()));
        }
        let bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_HEADERS_BYTES {
            return fail("headers", format!("has {bytes} bytes, more than {MAX_HEADERS_BYTES}"));
        }
        Ok(())
    }

    /// Returns the message as JSON text: `id`, `type`, `from` and `to`, and, if present, `via`,
    /// `headers`, and `body` or, for [`Body::Bytes`], `bytes` in base64 (RFC 4648 section 4).
    ///
    /// # Errors
    /// If the body is text that is not JSON.
    pub fn to_json(&self) -> Result<String, MessageError> {
        self.to_json_of_type(self.kind.as_str())
    }

    /// Like [`Self::to_json`], with the type in upper case, as in the texts of the specification's
    /// first phase.
    ///
    /// # Errors
    /// As [`Self::to_json`].
    pub fn to_phase1_json(&self) -> Result<String, MessageError> {
        self.to_json_of_type(&self.kind.as_str().to_ascii_uppercase())
    }

    /// Writes the message for output: one line of JSON for any body.
    ///
    /// The line has the members of [`Self::to_json`], with numbers as the sender wrote them, and
    /// without characters that act on a terminal ([`json_line`]). A body that is not JSON is the
    /// string `text` in place of `body`.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        let kind = self.kind.as_str();
        let line = self.to_json_of_type(kind).ok().and_then(|json| json_line(&json));
        line.unwrap_or_else(|| {
            let text = String::from_utf8_lossy(self.body.as_ref().map_or(&[], Body::as_bytes));
            let json = serde_json::to_string(&WireOut { text: Some(&text), ..self.without_body(kind) });
            json.ok().and_then(|json| json_line(&json)).unwrap_or_default()
        })
    }

    fn to_json_of_type(&self, kind: &str) -> Result<String, MessageError> {
        let (body, bytes) = match &self.body {
            None => (None, None),
            Some(Body::Json(text)) => (Some(serde_json::from_str::<&RawValue>(text)?), None),
            Some(Body::Bytes(bytes)) => (None, Some(BASE64.encode(bytes))),
        };
        Ok(serde_json::to_string(&WireOut { body, bytes, ..self.without_body(kind) })?)
    }

    fn without_body<'a>(&'a self, kind: &'a str) -> WireOut<'a> {
        WireOut {
            id: &self.id,
            kind,
            from: &self.from,
            to: &self.to,
            via: &self.via,
            headers: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            body: None,
            bytes: None,
            text: None,
        }
    }

    /// Reads the output of [`Self::to_json`], and messages of other reTHINK runtimes. These have
    /// types in any case, an `id` that is a number or a text, and one address or an array in `to`.
    /// An array becomes one message for each address. The addresses in `body.via`, one or a list,
    /// are appended to `via`.
    ///
    /// # Errors
    /// If the text is not a JSON object with `type`, `from` and `to`, one of these is invalid, or a
    /// limit is exceeded.
    pub fn from_json(text: &str) -> Result<Vec<Self>, MessageError> {
        let wire: WireIn<'_> = serde_json::from_str(text)?;
        let address = |member, text: &str| Address::parse(text).map_err(|source| MessageError::Address { member, source });
        let body = match (wire.body, wire.bytes) {
            (Some(body), _) => Some(Body::Json(body.get().into())),
            (None, Some(bytes)) => Some(Body::Bytes(
                BASE64
                    .decode(&bytes)
                    .map_err(|error| MessageError::Member { member: "bytes", problem: format!("is not base64: {error}") })?
                    .into(),
            )),
            (None, None) => None,
        };
        let mut via = wire.via.iter().map(|text| address("via", text)).collect::<Result<Vec<_>, _>>()?;
        for address in body.as_ref().map(body_via).unwrap_or_default() {
            if !via.contains(&address) {
                via.push(address);
            }
        }
        let mut message = Self {
            id: wire.id.unwrap_or(MessageId::Number(0)),
            kind: wire.kind.parse()?,
            from: address("from", &wire.from)?,
            to: Address::unset(),
            via,
            headers: wire.headers.into_iter().collect(),
            body,
        };
        message.check_limits()?;
        let to = match wire.to {
            OneOrMany::One(to) => vec![to],
            OneOrMany::Many(all) => all,
        };
        if to.is_empty() || to.len() > 256 {
            return Err(MessageError::Member { member: "to", problem: format!("has {} addresses; use 1 to 256", to.len()) });
        }
        let mut messages = Vec::with_capacity(to.len());
        for to in to {
            message.to = address("to", &to)?;
            messages.push(message.clone());
        }
        Ok(messages)
    }
}

/// Returns the addresses in `body.via`. The original runtimes write one address there; their
/// specification has a list. Other values, and texts that are not addresses, are left out.
/// `protostub-sdk` reads the same: `tests/corpus/body-via.json` tests both.
fn body_via(body: &Body) -> Vec<Address> {
    #[derive(Deserialize)]
    struct Via {
        via: OneOrMany,
    }
    let all = match body {
        // serde would read an array as the members of a structure.
        Body::Json(text) if text.trim_start().starts_with('{') => match serde_json::from_str(text) {
            Ok(Via { via: OneOrMany::One(address) }) => vec![address],
            Ok(Via { via: OneOrMany::Many(all) }) => all,
            Err(_) => Vec::new(),
        },
        Body::Json(_) | Body::Bytes(_) => Vec::new(),
    };
    all.iter().filter_map(|text| Address::parse(text).ok()).collect()
}

#[derive(Serialize)]
struct WireOut<'a> {
    id: &'a MessageId,
    #[serde(rename = "type")]
    kind: &'a str,
    from: &'a Address,
    to: &'a Address,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    via: &'a [Address],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    headers: std::collections::BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

#[derive(Deserialize)]
struct WireIn<'a> {
    id: Option<MessageId>,
    #[serde(rename = "type")]
    kind: String,
    from: String,
    to: OneOrMany,
    #[serde(default)]
    via: Vec<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    bytes: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl MessageId {
    /// Returns the form of the id that is used for comparison: a text that is a number becomes that
    /// number.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::Text(text) => match text.parse::<u64>() {
                Ok(number) if number.to_string() == **text => Self::Number(number),
                _ => self.clone(),
            },
            Self::Number(_) => self.clone(),
        }
    }
}

impl fmt::Display for MessageId {
    /// Writes the id for people, as safe text: a stranger may have chosen it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => SafeText::quote(text).fmt(f),
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

impl FromStr for MessageType {
    type Err = MessageError;

    fn from_str(text: &str) -> Result<Self, MessageError> {
        let lower = text.to_ascii_lowercase();
        Ok(match lower.as_str() {
            "create" => Self::Create,
            "read" => Self::Read,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "response" => Self::Response,
            "forward" => Self::Forward,
            "execute" => Self::Execute,
            name if !name.is_empty() && name.len() <= 64 && name.chars().all(SafeText::is_shown) => Self::Other(name.into()),
            _ => {
                return Err(MessageError::Member { member: "type", problem: "must be a word of 1 to 64 bytes".into() });
            }
        })
    }
}

impl Body {
    /// Returns the text or the bytes, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Reads the JSON text.
    ///
    /// # Errors
    /// If the text is not JSON, or not of this shape. [`Body::Bytes`] are read as JSON text too.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.as_bytes())
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::Json(value.to_string().into())
    }
}

impl fmt::Debug for Body {
    /// Shows the kind and size of a body, but not its content, which may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(text) => write!(f, "Json({} bytes)", text.len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Message {
        Message::from_json(text).unwrap().remove(0)
    }

    #[test]
    fn message_json_round_trips() {
        for text in [
            r#"{"id":1,"type":"read","from":"hyperty://a.example/1","to":"hyperty://b.example/2"}"#,
            r#"{"id":"1","type":"ping","from":"hyperty://a.example/1","to":"hyperty://b.example/2","body":{"b":1,"a":[ 2.50 ]}}"#,
            r#"{"id":7,"type":"update","from":"hyperty://a.example/1","to":"mn:/session","via":["hyperty-runtime://a.example/x"],"headers":{"content-type":"text/plain"},"bytes":"AAEC"}"#,
        ] {
            assert_eq!(read(text).to_json().unwrap(), text);
        }
    }

    #[test]
    fn json_line_of_any_body_is_one_line() {
        let check = |body: Body, expected: &str| {
            let message =
                Message { body: Some(body), ..read(r#"{"id":"\u202e","type":"read","from":"a.example","to":"b.example"}"#) };
            let begin = r#"{"id":"\u202e","type":"read","from":"a.example","to":"b.example","#;
            assert_eq!(message.to_json_line(), format!("{begin}{expected}}}"));
        };
        check(Body::Json("{ \"a\":\n1e999 }".into()), r#""body":{"a":1e999}"#);
        check(Body::Json("hello\n\u{1b}[2J\u{2066}".into()), r#""text":"hello\n\u001b[2J\u2066""#);
        check(Body::Json(r#""\ud800""#.into()), r#""text":"\"\\ud800\"""#);
        check(Body::Bytes([0xff, 0].into()), r#""bytes":"/wA=""#);
    }

    #[test]
    fn message_of_other_runtimes_is_read() {
        let text = r#"{"type":"READ","from":"a.example","to":["hyperty://b.example/2","hyperty://c.example/3"],"body":{"via":"runtime://x.example/1"}}"#;
        let messages = Message::from_json(text).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].to.as_str(), "hyperty://c.example/3");
        assert_eq!(messages[0].kind, MessageType::Read);
        assert_eq!(messages[0].via, [Address::parse("runtime://x.example/1").unwrap()]);
    }

    #[test]
    fn malformed_message_is_rejected_with_the_reason() {
        let check = |text: &str, expected: &str| {
            let error = Message::from_json(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "not a message");
        check("[]", "not a message");
        check(r#"{"type":"read","from":"a.example"}"#, "missing field `to`");
        check(r#"{"type":"","from":"a.example","to":"b.example"}"#, "type");
        check(r#"{"type":"read","from":"a b","to":"b.example"}"#, "`from` is not an address");
        check(r#"{"type":"read","from":"a.example","to":[]}"#, "0 addresses");
        check(
            &format!(
                r#"{{"type":"read","from":"a.example","to":"b.example","via":[{}"a.example"]}}"#,
                r#""a.example","#.repeat(16)
            ),
            "circles",
        );
    }

    #[test]
    fn response_matches_its_request() {
        let request = read(r#"{"id":"x","type":"update","from":"hyperty://a.example/1","to":"hyperty://b.example/2"}"#);
        assert!(!request.expects_response());
        let response = request.error_response(404, "no listener");
        assert_eq!((&response.from, &response.to, &response.id), (&request.to, &request.from, &request.id));
        assert_eq!(response.code(), Some(404));
        assert!(!response.is_provisional());
        assert!(request.response(100, None).is_provisional());
        assert_eq!(MessageId::Text("7".into()).canonical(), MessageId::Number(7));
        assert_eq!(MessageId::Text("07".into()).canonical(), MessageId::Text("07".into()));
    }
}
