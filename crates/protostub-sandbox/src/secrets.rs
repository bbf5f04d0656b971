//! Secrets that must not be readable in a stub's texts for people.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use protostub_types::SafeText;

use crate::{Credential, CredentialKind};

/// The replacement of a secret in a text.
const REDACTED: &str = "[secret]";

/// Minimum length of a secret, in bytes. A shorter one occurs in any text, and protects nothing.
const MIN_BYTES: usize = 4;

/// Maximum number of remembered secrets. A stub whose token is renewed every hour has this many in
/// two days.
const MAX_SECRETS: usize = 64;

/// Secrets that a stub was handed. They are removed from its texts for people: log lines, reasons,
/// the last lines of standard error.
///
/// A secret is found as it is. A `user:password` is also found by its password, and in the base64
/// of an `authorization` header. This protects against carelessness. A stub that wants to reveal a
/// secret can write it in another way.
#[derive(Default)]
pub struct Secrets(Mutex<VecDeque<String>>);

impl Secrets {
    /// Makes an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes this credential from texts from now on.
    pub fn hold(&self, credential: &Credential) {
        self.hold_text(&credential.value);
        if credential.kind == CredentialKind::Basic {
            self.hold_text(&BASE64_STANDARD.encode(&credential.value));
            if let Some((_, password)) = credential.value.split_once(':') {
                self.hold_text(password);
            }
        }
    }

    /// Removes a secret that is not a credential from texts from now on.
    pub fn hold_text(&self, secret: &str) {
        self.hold_exactly(secret);
        // A text may have been escaped before the secrets are removed, for example the error of a
        // connection.
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

    /// Returns the text without the secrets.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let secrets = self.secrets();
        let mut found: Vec<_> = secrets.iter().filter(|secret| text.contains(secret.as_str())).collect();
        // A secret may be part of another.
        found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        found.into_iter().fold(Cow::Borrowed(text), |text, secret| Cow::Owned(text.replace(secret.as_str(), REDACTED)))
    }

    /// Returns the text without the secrets, safe to show: at most [`SafeText::MAX_BYTES`].
    ///
    /// The secrets are removed before the cut, since a secret that the cut splits would not be
    /// found.
    #[must_use]
    pub fn shown(&self, text: &str) -> SafeText {
        self.shown_cut(text, SafeText::MAX_BYTES)
    }

    /// Returns the text without the secrets, safe to show: at most `max_bytes`.
    #[must_use]
    pub fn shown_cut(&self, text: &str, max_bytes: usize) -> SafeText {
        SafeText::cut(&self.redact(text), max_bytes)
    }

    /// Returns the length of the longest secret, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.secrets().iter().map(String::len).max().unwrap_or(0)
    }

    fn secrets(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secrets {
    /// Writes only the number of secrets.
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
    fn remembered_secrets_are_bounded() {
        let secrets = Secrets::new();
        secrets.hold_text("abc");
        for n in 0..=MAX_SECRETS {
            secrets.hold_text(&format!("token-{n:04}"));
        }
        assert_eq!(secrets.redact("abc token-0000 token-0001"), "abc token-0000 [secret]");
        assert_eq!(secrets.longest(), 10);
    }
}
