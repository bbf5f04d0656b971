//! What stubs write for people, so that it does nothing but be read.

/// A text as one line that no terminal takes for anything else: cut to so many bytes, and with control characters escaped.
pub(crate) fn printable(text: &str, bytes: usize) -> String {
    escaped(text, bytes, |character| character == '\t')
}

/// The same, but its lines stay lines.
pub(crate) fn readable(text: &str, bytes: usize) -> String {
    escaped(text, bytes, |character| matches!(character, '\t' | '\n'))
}

fn escaped(text: &str, bytes: usize, stays: impl Fn(char) -> bool) -> String {
    let shown = if text.len() > bytes { &text[..text.floor_char_boundary(bytes.saturating_sub('…'.len_utf8()))] } else { text };
    let mut escaped = String::with_capacity(shown.len() + '…'.len_utf8());
    for character in shown.chars() {
        if character.is_control() && !stays(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    if shown.len() < text.len() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_does_nothing() {
        assert_eq!(printable("a\u{1b}[2J\r\nb\tc", 100), "a\\u{1b}[2J\\r\\nb\tc");
        assert_eq!(readable("a\u{1b}[2J\r\nb\tc", 100), "a\\u{1b}[2J\\r\nb\tc");
        assert_eq!(printable("äöü", 5), "ä…");
        assert_eq!(printable("äöü", 6), "äöü");
    }
}
