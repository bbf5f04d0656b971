//! Conversion between the contract's types and the host's. Text and bytes change hands. Only
//! addresses are parsed again, which checks them.

use std::sync::Arc;

use protostub_bus::Envelope;
use protostub_types::{Address, AddressError, Body, Message, MessageError, MessageId, MessageType, SafeText};

use super::{AddressCache, types};
use crate::{Credential, CredentialKind, DisconnectReason};

/// Maximum size of a text as a message's id, in bytes.
const MAX_ID_BYTES: usize = 256;

/// Reason why the host rejects a message that a stub posts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidMessage {
    #[error("`{member}`: {source}")]
    Address { member: &'static str, source: AddressError },
    #[error("`{member}` has {bytes} bytes, and the limit is {limit}")]
    TooLong { member: &'static str, bytes: usize, limit: usize },
    #[error("the name of the header `{0}` is empty, or has upper-case letters, blanks or control characters")]
    HeaderName(SafeText),
    #[error("{0}")]
    Message(#[from] MessageError),
}

/// Converts a message of the bus for a guest.
pub(crate) fn lower(message: Message) -> types::Message {
    types::Message {
        id: match message.id {
            MessageId::Number(number) => types::MessageId::Number(number),
            MessageId::Text(text) => types::MessageId::Text(text),
        },
        kind: match message.kind {
            MessageType::Create => types::MessageType::Create,
            MessageType::Read => types::MessageType::Read,
            MessageType::Update => types::MessageType::Update,
            MessageType::Delete => types::MessageType::Delete,
            MessageType::Subscribe => types::MessageType::Subscribe,
            MessageType::Unsubscribe => types::MessageType::Unsubscribe,
            MessageType::Response => types::MessageType::Response,
            MessageType::Forward => types::MessageType::Forward,
            MessageType::Execute => types::MessageType::Execute,
            MessageType::Other(name) => types::MessageType::Other(name),
        },
        from: message.from.into(),
        to: message.to.into(),
        via: if message.via.is_empty() { Vec::new() } else { message.via.into_iter().map(Into::into).collect() },
        headers: message.headers,
        body: message.body.map(|body| match body {
            Body::Json(text) => types::Body::Json(text),
            Body::Bytes(bytes) => types::Body::Bytes(bytes),
        }),
    }
}

/// Returns the message of the bus that was lowered to this one. It may have headers that no stub
/// can post.
pub(crate) fn restore(message: types::Message) -> Result<Envelope, InvalidMessage> {
    let [from, to] = [&message.from, &message.to].map(|text| Address::parse(text));
    convert(message, (from, to), &AddressCache::default())
}

/// Converts a guest's message for the bus, with the parsed `from` and `to`. Rejects a body over
/// `body_bytes`. The bus checks the rules of every message.
pub(crate) fn lift<A>(
    message: types::Message<A>,
    addresses: (Result<Address, AddressError>, Result<Address, AddressError>),
    body_bytes: usize,
    known: &AddressCache,
) -> Result<Envelope, InvalidMessage> {
    if let Some(bytes) = message.body.as_ref().map(types::Body::len).filter(|bytes| *bytes > body_bytes) {
        return Err(InvalidMessage::TooLong { member: "body", bytes, limit: body_bytes });
    }
    if let Some((name, _)) = message.headers.iter().find(|(name, _)| !is_header_name(name)) {
        return Err(InvalidMessage::HeaderName(SafeText::quote(name)));
    }
    convert(message, addresses, known)
}

fn convert<A>(
    message: types::Message<A>,
    (from, to): (Result<Address, AddressError>, Result<Address, AddressError>),
    known: &AddressCache,
) -> Result<Envelope, InvalidMessage> {
    let address = |member| move |source| InvalidMessage::Address { member, source };
    let via = |via: &[Arc<str>]| match via {
        [] => Ok(Vec::new()),
        via => via.iter().map(|text| known.get(text).cloned().map_or_else(|| Address::parse(text), Ok)).collect(),
    };
    let body = message.body.map(|body| match body {
        types::Body::Json(text) => Body::Json(text),
        types::Body::Bytes(bytes) => Body::Bytes(bytes),
    });
    Ok(Message {
        id: match message.id {
            types::MessageId::Number(number) => MessageId::Number(number),
            types::MessageId::Text(text) => MessageId::Text(check_length("id", text)?),
        },
        kind: match message.kind {
            types::MessageType::Create => MessageType::Create,
            types::MessageType::Read => MessageType::Read,
            types::MessageType::Update => MessageType::Update,
            types::MessageType::Delete => MessageType::Delete,
            types::MessageType::Subscribe => MessageType::Subscribe,
            types::MessageType::Unsubscribe => MessageType::Unsubscribe,
            types::MessageType::Response => MessageType::Response,
            types::MessageType::Forward => MessageType::Forward,
            types::MessageType::Execute => MessageType::Execute,
            // `create` as an own name is `create` too.
            types::MessageType::Other(name) => name.parse()?,
        },
        from: from.map_err(address("from"))?,
        to: to.map_err(address("to"))?,
        via: via(&message.via).map_err(address("via"))?,
        headers: message.headers,
        body,
    }
    .into())
}

fn check_length(member: &'static str, text: Arc<str>) -> Result<Arc<str>, InvalidMessage> {
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidMessage::TooLong { member, bytes: text.len(), limit: MAX_ID_BYTES });
    }
    Ok(text)
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| !c.is_control() && !c.is_whitespace() && !c.is_uppercase())
}

impl From<Credential> for types::WitCredential {
    fn from(credential: Credential) -> Self {
        Self {
            expires: credential.expires_unix(),
            kind: match credential.kind {
                CredentialKind::Bearer => types::WitCredentialKind::Bearer,
                CredentialKind::Basic => types::WitCredentialKind::Basic,
                CredentialKind::Assertion => types::WitCredentialKind::Assertion,
                CredentialKind::Other(name) => types::WitCredentialKind::Other(name),
            },
            value: credential.value,
        }
    }
}

impl From<DisconnectReason> for types::WitDisconnectReason {
    fn from(reason: DisconnectReason) -> Self {
        match reason {
            DisconnectReason::Request => Self::Request,
            DisconnectReason::Update => Self::Update,
            DisconnectReason::Idle => Self::Idle,
            DisconnectReason::Shutdown => Self::Shutdown,
        }
    }
}
