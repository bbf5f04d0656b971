//! The same message and the same work for all sides: swap `from` and `to`, and post the message
//! back.

use protostub_types::{Address, Body, Message, MessageId, MessageType};

/// Sizes of bodies, in bytes of JSON text.
pub(crate) const BODIES: [(usize, &str); 3] = [(100, "100 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")];

/// The sender.
pub(crate) const FROM: &str = "hyperty://home.example/bench";

/// The content of a message: JSON text.
#[derive(Clone)]
pub(crate) struct Text(pub(crate) String);

impl From<usize> for Text {
    /// Makes a text of exactly this size.
    fn from(bytes: usize) -> Self {
        Self::of('a'..='z', bytes)
    }
}

impl Text {
    /// Makes a text of this size or one byte less, in letters of two bytes.
    pub(crate) fn in_greek(bytes: usize) -> Self {
        Self::of('α'..='ω', bytes)
    }

    fn of(letters: impl Iterator<Item = char> + Clone, bytes: usize) -> Self {
        let mut text = r#"{"text":""#.to_owned();
        let most = bytes.saturating_sub(r#""}"#.len());
        text.extend(letters.cycle().scan(text.len(), |length, letter| {
            *length += letter.len_utf8();
            (*length <= most).then_some(letter)
        }));
        text.push_str(r#""}"#);
        Self(text)
    }
}

/// Returns a message that is not a request, so that it comes back as the same type.
pub(crate) fn message(from: &Address, to: &Address, text: impl Into<Text>) -> Message {
    Message {
        id: MessageId::Number(7),
        kind: MessageType::Update,
        from: from.clone(),
        to: to.clone(),
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(Body::Json(text.into().0.into())),
    }
}
