use std::{collections::BTreeSet, str::FromStr};

/// The scope of an access token (RFC 6749 section 3.3): a set of at least one scope token. Order
/// and repetition have no meaning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OAuthScope(BTreeSet<String>);

/// The reason why a text is not an [`OAuthScope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OAuthScopeError {
    /// The text is empty, or has only white space.
    #[error("the scope is blank: name a scope token, or no scope at all for the default")]
    Blank,
    /// The text has a character that is invalid in a scope token, or its tokens are not separated
    /// by single spaces.
    #[error(
        "the scope is malformed: write scope tokens of printable ASCII, without `\"` and `\\`, with one space between two (RFC 6749 section 3.3)"
    )]
    Malformed,
}

impl OAuthScope {
    /// Reads scope tokens with one space between two.
    ///
    /// # Errors
    /// If the text is blank, or is not a scope by the grammar of RFC 6749 section 3.3.
    pub fn parse(text: &str) -> Result<Self, OAuthScopeError> {
        if text.trim().is_empty() {
            return Err(OAuthScopeError::Blank);
        }
        match text.split(' ').all(Self::is_token) {
            true => Ok(Self(text.split(' ').map(str::to_owned).collect())),
            false => Err(OAuthScopeError::Malformed),
        }
    }

    /// Returns `true` if a text is one scope token: printable ASCII, without space, `"` and `\`.
    #[must_use]
    pub fn is_token(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    }

    /// Returns the scope tokens, sorted.
    #[must_use]
    pub fn into_tokens(self) -> BTreeSet<String> {
        self.0
    }
}

impl FromStr for OAuthScope {
    type Err = OAuthScopeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_read_by_the_grammar_of_rfc_6749() {
        let check = |text: &str, expected: &[&str]| {
            let tokens = OAuthScope::parse(text).unwrap().into_tokens();
            assert_eq!(tokens.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{text}");
        };
        check("chat", &["chat"]);
        check("mail chat mail", &["chat", "mail"]);
        check("https://sp1.example/chat.read !#[]~", &["!#[]~", "https://sp1.example/chat.read"]);
    }

    #[test]
    fn blank_or_malformed_scope_is_refused() {
        for text in ["", " ", "   ", "\t", "\n", "\r\n", "\u{a0}", "\u{2003}", "\u{3000} "] {
            assert_eq!(OAuthScope::parse(text), Err(OAuthScopeError::Blank), "{text:?}");
        }
        for text in
            [" chat", "chat ", "chat  mail", "chat\tmail", "chat\nmail", "a\"b", "a\\b", "chät", "a\0", "\u{200b}", "\u{7f}"]
        {
            assert_eq!(OAuthScope::parse(text), Err(OAuthScopeError::Malformed), "{text:?}");
        }
    }
}
