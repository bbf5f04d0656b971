use proptest::prelude::*;
use protostub_types::{Address, Message, MessageType};

proptest! {
    #[test]
    fn message_to_any_text_does_not_panic(text in "\\PC*|[a-zA-Z0-9+.:/@?#%\\[\\] -]{0,40}|\\pC{0,8}", kind in "\\PC{0,8}") {
        let Ok(to) = text.parse::<Address>() else { return Ok(()) };
        let kind = kind.parse().unwrap_or(MessageType::Execute);
        let messages = [
            Message::new(kind, to.clone()),
            Message::create(to.clone()),
            Message::read(to.clone()),
            Message::update(to.clone()),
            Message::subscribe(to.clone()),
        ];
        for message in messages {
            prop_assert_eq!(&message.to, &to);
            prop_assert!(message.to_json().is_ok());
        }
    }
}
