use std::{error::Error, fmt};

use crate::SafeText;

impl SafeText {
    /// Builds a text of at most [`Self::MAX_BYTES`] from an error and all its causes: `failed to connect: connection refused`.
    ///
    /// Leaves out a cause that the text before it contains already.
    #[must_use]
    pub fn error_chain(error: &dyn Error) -> Self {
        Self::error_chain_cut(error, Self::MAX_BYTES)
    }

    /// Builds a text of at most `max_bytes` from an error and all its causes, as [`Self::error_chain`] does.
    #[must_use]
    pub fn error_chain_cut(error: &dyn Error, max_bytes: usize) -> Self {
        // Each part is cut too: no error is in memory as a whole, however long its text is.
        let part = |error: &dyn fmt::Display| Self::display_cut(error, max_bytes);
        let mut text = part(&error).to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let part = part(&cause);
            if !text.contains(part.as_str()) {
                text.push_str(": ");
                text.push_str(&part);
            }
            next = cause.source();
        }
        Self::cut(&text, max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    fn layers(texts: &[&'static str]) -> Option<Box<Layer>> {
        let (text, causes) = texts.split_first()?;
        Some(Box::new(Layer(text, layers(causes))))
    }

    #[test]
    fn error_chain_names_each_cause_once() {
        let check = |texts: &[&'static str], expected: &str| {
            let error = layers(texts).expect("an error");
            assert_eq!(SafeText::error_chain(&*error), *expected);
        };
        check(&["alone"], "alone");
        check(
            &["sending failed", "connection lost: reset by peer", "reset by peer"],
            "sending failed: connection lost: reset by peer",
        );
        // A transparent error says what its cause says.
        check(&["no\nroute", "no\nroute", "the end"], r"no\nroute: the end");
    }

    #[test]
    fn error_chain_is_cut_at_its_limit() {
        let error = layers(&["0123456789", "abcdefghij"]).expect("an error");
        assert_eq!(SafeText::error_chain_cut(&*error, 17).as_str(), "0123456789: ab…");
        assert_eq!(SafeText::error_chain_cut(&*error, 22).as_str(), "0123456789: abcdefghij");
    }
}
