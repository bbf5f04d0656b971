//! The same message and the same work for all: swap `from` and `to`, and post it back.

use protostub_types::{Address, Body, Message, MessageId, MessageType};

/// How large bodies are: JSON text of so many bytes.
pub(crate) const BODIES: [(usize, &str); 3] = [(100, "100 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")];

/// Who sends it.
pub(crate) const FROM: &str = "hyperty://home.example/bench";

/// JSON text of exactly so many bytes.
pub(crate) fn json(bytes: usize) -> String {
    const AROUND: &str = r#"{"text":""}"#;
    let text: String = (b'a'..=b'z').cycle().map(char::from).take(bytes.saturating_sub(AROUND.len())).collect();
    format!(r#"{{"text":"{text}"}}"#)
}

/// What nobody answers as a request, so that it comes back as what it is.
pub(crate) fn message(from: &Address, to: &Address, bytes: usize) -> Message {
    Message {
        id: MessageId::Number(7),
        kind: MessageType::Update,
        from: from.clone(),
        to: to.clone(),
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(Body::Json(json(bytes).into())),
    }
}
