//! What must not be read in what a stub says to people.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use protostub_types::SafeText;

use crate::{Credential, CredentialKind};

/// What stands in a text where a secret was.
const REDACTED: &str = "[secret]";

/// What is shorter is found in any text, and protects nothing.
const MIN_BYTES: usize = 4;

/// How many secrets are remembered; a stub that has its token renewed every hour had this many in two days.
const MAX_SECRETS: usize = 64;

/// Secrets that somebody was handed, so that they can be taken out of what they say for people: log lines, reasons, last words.
///
/// They are found as they are, and a `user:password` also by its password, and in the base64 of an `authorization` header. It protects from
/// carelessness; whoever means to give a secret away writes it in another way.
#[derive(Default)]
pub struct Secrets(Mutex<VecDeque<String>>);

impl Secrets {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, this one is taken out.
    pub fn hold(&self, credential: &Credential) {
        self.hold_text(&credential.value);
        if credential.kind == CredentialKind::Basic {
            self.hold_text(&BASE64_STANDARD.encode(&credential.value));
            if let Some((_, password)) = credential.value.split_once(':') {
                self.hold_text(password);
            }
        }
    }

    /// The same for a secret that is no credential.
    pub fn hold_text(&self, secret: &str) {
        self.hold_exactly(secret);
        // A text may have been escaped before it is looked through: the error of a connection, say.
        let escaped = SafeText::cut(secret, usize::MAX);
        if escaped != secret {
            self.hold_exactly(&escaped);
        }
    }

    fn hold_exactly(&self, secret: &str) {
        let mut secrets = self.secrets();
        if secret.len() < MIN_BYTES || secrets.iter().any(|held| held == secret) {
            return;
        }
        if secrets.len() == MAX_SECRETS {
            secrets.pop_front();
        }
        secrets.push_back(secret.to_owned());
    }

    /// The text without them.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let secrets = self.secrets();
        let mut found: Vec<_> = secrets.iter().filter(|secret| text.contains(secret.as_str())).collect();
        // One may be part of another.
        found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        found.into_iter().fold(Cow::Borrowed(text), |text, secret| Cow::Owned(text.replace(secret.as_str(), REDACTED)))
    }

    /// Returns the text without them, safe to show: at most [`SafeText::MAX_BYTES`].
    ///
    /// They are taken out first. A secret that the cut would split is not found any more.
    #[must_use]
    pub fn shown(&self, text: &str) -> SafeText {
        self.shown_cut(text, SafeText::MAX_BYTES)
    }

    /// Returns the text without them, safe to show: at most `max_bytes`.
    #[must_use]
    pub fn shown_cut(&self, text: &str, max_bytes: usize) -> SafeText {
        SafeText::cut(&self.redact(text), max_bytes)
    }

    /// How long the longest one is, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.secrets().iter().map(String::len).max().unwrap_or(0)
    }

    fn secrets(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secrets {
    /// How many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.secrets().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let secrets = Secrets::new();
        secrets.hold(&Credential { kind: CredentialKind::Basic, value: "alice:open sesame".to_owned(), expires: None });
        secrets.hold(&Credential { kind: CredentialKind::Bearer, value: "sesame".to_owned(), expires: None });
        let check = |text: &str, expected: &str| assert_eq!(secrets.redact(text), expected);
        check("nothing", "nothing");
        check("alice:open sesame, alice, open sesame!", "[secret], alice, [secret]!");
        check("authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=", "authorization: Basic [secret]");
        check("sesame", "[secret]");
        secrets.hold_text("bell\u{7}\u{202e}");
        check("bell\u{7}\u{202e} and bell\\u{7}\\u{202e}", "[secret] and [secret]");
        assert_eq!(format!("{secrets:?}"), "Secrets(6)");
    }

    #[test]
    fn secret_at_the_cut_is_taken_out_whole() {
        let secrets = Secrets::new();
        secrets.hold_text("open sesame");
        for max_bytes in 0..40 {
            let shown = secrets.shown_cut("the password is open sesame, and more", max_bytes);
            assert!(!shown.contains("open"), "{shown}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let secrets = Secrets::new();
        secrets.hold_text("abc");
        for n in 0..=MAX_SECRETS {
            secrets.hold_text(&format!("token-{n:04}"));
        }
        assert_eq!(secrets.redact("abc token-0000 token-0001"), "abc token-0000 [secret]");
        assert_eq!(secrets.longest(), 10);
    }
}
