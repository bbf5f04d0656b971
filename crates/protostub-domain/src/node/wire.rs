//! The content of a frame: one message as JSON text, or one of the NoMatrix flavour's commands.

use std::collections::BTreeMap;

use axum::extract::ws::Utf8Bytes;
use protostub_types::Address;
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

/// The address that opens and closes sessions.
pub(super) const SESSION_ADDRESS: &str = "mn:/session";
/// Maximum number of addresses in the `to` of one message. The sender's queue must have room for as
/// many answers.
const MAX_RECEIVERS: usize = 64;
/// Maximum length of the copies for the receivers of one message together, in bytes. It keeps one
/// frame from causing a flood.
const MAX_COPIES_BYTES: usize = 8 * 1024 * 1024;

/// A parsed frame of a client.
pub(crate) enum Input {
    Message(Box<Frame>),
    /// `{"cmd":"disconnect"}`: the client is about to disconnect.
    Disconnect,
}

/// A message with its sender and its receivers. Its text is passed on verbatim.
pub(crate) struct Frame {
    text: Utf8Bytes,
    /// A number or a text. Answers repeat it verbatim.
    pub(crate) id: Value,
    /// The type, in lower case.
    pub(crate) kind: String,
    pub(crate) from: Address,
    pub(crate) to: Vec<Address>,
}

/// A text that is not a message, with the error that the Vert.x message node gives for it.
pub(crate) struct Invalid {
    id: Value,
    to: Option<String>,
    component: &'static str,
    description: String,
}

#[derive(Deserialize)]
struct Wire<'a> {
    id: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
    from: Option<String>,
    to: Option<OneOrMany>,
    cmd: Option<String>,
    #[serde(borrow, rename = "body")]
    _body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct WireBody {
    body: Option<Value>,
}

impl Input {
    pub(crate) fn parse(text: Utf8Bytes) -> Result<Self, Box<Invalid>> {
        let wire: Wire<'_> = serde_json::from_str(text.as_str()).map_err(|error| {
            let description = format!("the text is not a message: {error}");
            Box::new(Invalid { id: Value::Null, to: None, component: "mn:/pipeline", description })
        })?;
        if wire.cmd.as_deref() == Some("disconnect") {
            return Ok(Self::Disconnect);
        }
        let id = wire.id.filter(|id| id.is_number() || id.is_string());
        let invalid = |description: String| {
            let (id, to) = (id.clone().unwrap_or_default(), wire.from.clone());
            Box::new(Invalid { id, to, component: "mn:/validator", description })
        };
        let missing = |member: &str| invalid(format!("No mandatory field '{member}'"));
        let id = id.as_ref().ok_or_else(|| missing("id"))?;
        let kind = wire.kind.as_deref().filter(|kind| !kind.is_empty()).ok_or_else(|| missing("type"))?;
        let from = wire.from.as_deref().ok_or_else(|| missing("from"))?;
        let to = match wire.to.as_ref().ok_or_else(|| missing("to"))? {
            OneOrMany::One(to) => std::slice::from_ref(to),
            OneOrMany::Many(to) => to,
        };
        if to.is_empty() || to.len() > MAX_RECEIVERS {
            return Err(invalid(format!("Field 'to' has {} addresses; use 1 to {MAX_RECEIVERS}", to.len())));
        }
        if to.len() > 1 && to.len().saturating_mul(text.as_str().len()) > MAX_COPIES_BYTES {
            return Err(invalid(format!(
                "Field 'to' has {} addresses, which is too many for a message of this length",
                to.len()
            )));
        }
        let address = |text: &str| Address::parse(text).map_err(|error| invalid(error.to_string()));
        let (from, to) = (address(from)?, to.iter().map(|to| address(to)).collect::<Result<_, _>>()?);
        Ok(Self::Message(Box::new(Frame { id: id.clone(), kind: kind.to_ascii_lowercase(), from, to, text: text.clone() })))
    }
}

impl Invalid {
    pub(crate) fn answer(self) -> Utf8Bytes {
        let body = json!({ "code": 500, "desc": self.description, "description": self.description });
        let mut answer =
            Map::from_iter([("type".into(), "response".into()), ("from".into(), self.component.into()), ("body".into(), body)]);
        answer.extend(self.to.map(|to| ("to".into(), to.into())));
        if !self.id.is_null() {
            answer.insert("id".into(), self.id);
        }
        Value::Object(answer).to_string().into()
    }
}

impl Frame {
    /// Returns the body. Empty if the message has none.
    pub(crate) fn body(&self) -> Map<String, Value> {
        match serde_json::from_str::<WireBody>(self.text.as_str()) {
            Ok(WireBody { body: Some(Value::Object(body)) }) => body,
            _ => Map::new(),
        }
    }

    /// Returns the text for one of the receivers.
    pub(crate) fn text_for(&self, to: &Address) -> Utf8Bytes {
        if self.to.len() == 1 {
            return self.text.clone();
        }
        // The other members stay as text: a body may have numbers and a depth that no tree can
        // hold.
        let single = || {
            let to = to_raw_value(to.as_str())?;
            let mut message = serde_json::from_str::<BTreeMap<String, &RawValue>>(self.text.as_str())?;
            message.insert("to".into(), &to);
            serde_json::to_string(&message)
        };
        // The text was parsed before. If parsing fails here, the receiver gets the sender's text.
        single().map_or_else(|_| self.text.clone(), Utf8Bytes::from)
    }

    /// Returns `true` if the sender waits for an answer, judged by the type. Updates are
    /// publications, which may have no subscriber.
    pub(crate) fn wants_answer(&self) -> bool {
        !matches!(self.kind.as_str(), "response" | "update")
    }

    /// Returns the response from `from` with this body.
    pub(crate) fn response(&self, from: &str, body: Value) -> Utf8Bytes {
        json!({ "id": self.id, "type": "response", "from": from, "to": self.from.as_str(), "body": body }).to_string().into()
    }

    /// Returns an error response from `from`. The text is in both members that clients read.
    pub(crate) fn error(&self, from: &str, code: u16, description: &str) -> Utf8Bytes {
        self.response(from, json!({ "code": code, "desc": description, "description": description }))
    }
}
