//! Asks for tokens with scopes that a server may read as no scope. The server would then issue
//! tokens for all permissions of the client.

use std::cell::Cell;

use crate::{Stub, rethink::protostub::identity, told};

/// The granted scope, and then scopes that look like it or like no scope.
const SCOPES: [&str; 12] =
    ["chat", "", " ", "   ", "\t", "\r\n", "\u{a0}", "\u{2003}", "chat  admin", " chat", "chat\tadmin", "admin"];

thread_local! {
    static NEXT: Cell<usize> = const { Cell::new(0) };
    static CHAT: Cell<bool> = const { Cell::new(false) };
}

pub fn attack(_: &Stub) -> Option<String> {
    NEXT.set(0);
    CHAT.set(false);
    ask()
}

/// Asks for one scope after the other, until one is answered or all were denied.
fn ask() -> Option<String> {
    while let Some(scope) = SCOPES.get(NEXT.get()) {
        match identity::request(Some(scope)) {
            Ok(_) => return None,
            Err(crate::Error::Denied(_)) => NEXT.set(NEXT.get() + 1),
            Err(error) => return Some(format!("{scope:?}: {}", told(&error))),
        }
    }
    Some(if CHAT.get() { "all were denied, and the token is for chat".to_owned() } else { "there is no token at all".to_owned() })
}

pub fn ready(_: &Stub, handle: u32) -> Option<String> {
    let scope = SCOPES[NEXT.get()];
    match identity::take(handle) {
        Err(crate::Error::Busy) => return None,
        Ok(token) if scope == "chat" && token.value == "token-for-chat" => CHAT.set(true),
        Ok(token) => return Some(format!("{scope:?}: it has {}", token.value)),
        Err(crate::Error::Denied(_)) => {}
        Err(error) => return Some(format!("{scope:?}: {}", told(&error))),
    }
    NEXT.set(NEXT.get() + 1);
    ask()
}
