//! The same message and the same work for all: swap `from` and `to`, and post it back.

use protostub_types::{Address, Body, Message, MessageId, MessageType};

/// How large bodies are: JSON text of so many bytes.
pub(crate) const BODIES: [(usize, &str); 3] = [(100, "100 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")];

/// Who sends it.
pub(crate) const FROM: &str = "hyperty://home.example/bench";

/// What a message carries: JSON text.
#[derive(Clone)]
pub(crate) struct Text(pub(crate) String);

impl From<usize> for Text {
    /// Of exactly so many bytes.
    fn from(bytes: usize) -> Self {
        Self::of('a'..='z', bytes)
    }
}

impl Text {
    /// Of so many bytes or one less, in letters that take two each.
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

/// What nobody answers as a request, so that it comes back as what it is.
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
