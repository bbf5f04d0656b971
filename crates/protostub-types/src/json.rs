//! JSON text of strangers, rewritten for output. No function here builds a tree: values of any
//! depth, and numbers of any length, pass through.

use std::fmt::Write as _;

use serde_json::value::RawValue;

use crate::SafeText;

/// Depth up to which [`json_indented`] begins lines. Deeper values stay in one line, which bounds
/// the blanks of each line.
const INDENTED_DEPTH: usize = 16;

/// Rewrites JSON text as one line without white space between its tokens. Numbers, the order of
/// members and repeated members stay. Characters of strings that are not shown
/// ([`SafeText::is_shown`]) become `\uXXXX`: control and bidi characters, for instance.
///
/// Returns `None` if the text is not JSON, or has a `\uXXXX` escape of half a surrogate pair, which
/// many parsers refuse.
///
/// ```
/// use protostub_types::json_line;
///
/// assert_eq!(json_line("{ \"a\":\n[1e400, 1.50] }").as_deref(), Some(r#"{"a":[1e400,1.50]}"#));
/// assert_eq!(json_line("\"\u{202e}\"").as_deref(), Some(r#""\u202e""#));
/// assert_eq!(json_line("hello"), None);
/// ```
#[must_use]
pub fn json_line(text: &str) -> Option<String> {
    rewrite(text, Layout::Line)
}

/// Rewrites JSON text as [`json_line`] does, with a line for each member and element down to a
/// depth of 16: for people.
#[must_use]
pub fn json_indented(text: &str) -> Option<String> {
    rewrite(text, Layout::Indented)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Line,
    Indented,
}

fn rewrite(text: &str, layout: Layout) -> Option<String> {
    // serde_json checks raw values in a loop, without recursion and without reading numbers.
    let text = serde_json::from_str::<&RawValue>(text).ok()?.get();
    let mut line = Rewritten { text: String::with_capacity(text.len()), depth: 0, layout };
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        line.push_structure(&rest[..at]);
        rest = line.push_string(&rest[at..])?;
    }
    line.push_structure(rest);
    Some(line.text)
}

struct Rewritten {
    text: String,
    depth: usize,
    layout: Layout,
}

impl Rewritten {
    /// Appends the tokens between two strings.
    fn push_structure(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                ' ' | '\t' | '\r' | '\n' => {}
                _ if self.layout == Layout::Line => self.text.push(character),
                '[' | '{' => {
                    self.begin_element();
                    self.text.push(character);
                    self.depth += 1;
                }
                ']' | '}' => {
                    let is_empty = self.text.ends_with(['[', '{']);
                    let was_indented = self.depth <= INDENTED_DEPTH;
                    self.depth = self.depth.saturating_sub(1);
                    if was_indented && !is_empty {
                        self.begin_line();
                    }
                    self.text.push(character);
                }
                ',' => {
                    self.text.push(',');
                    if self.depth <= INDENTED_DEPTH {
                        self.begin_line();
                    }
                }
                ':' => self.text.push_str(": "),
                _ => {
                    self.begin_element();
                    self.text.push(character);
                }
            }
        }
    }

    /// Begins a line if a container has just been opened.
    fn begin_element(&mut self) {
        if self.layout == Layout::Indented && (1..=INDENTED_DEPTH).contains(&self.depth) && self.text.ends_with(['[', '{']) {
            self.begin_line();
        }
    }

    fn begin_line(&mut self) {
        let depth = self.depth;
        let _ = write!(self.text, "\n{:1$}", "", 2 * depth);
    }

    /// Appends the string that the text begins with, and returns the rest of the text. Returns
    /// `None` for half a surrogate pair.
    fn push_string<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        self.begin_element();
        let bytes = text.as_bytes();
        let mut at = 1;
        let mut copied = 0;
        // A string always ends, since the text was checked.
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    at += 1;
                    self.text.push_str(&text[copied..at]);
                    return Some(&text[at..]);
                }
                b'\\' => at += escape_bytes(&bytes[at..])?,
                byte if byte.is_ascii() && byte != 0x7f => at += 1,
                _ => {
                    let character = text[at..].chars().next()?;
                    let end = at + character.len_utf8();
                    if !SafeText::is_shown(character) {
                        self.text.push_str(&text[copied..at]);
                        for unit in character.encode_utf16(&mut [0; 2]) {
                            let _ = write!(self.text, "\\u{unit:04x}");
                        }
                        copied = end;
                    }
                    at = end;
                }
            }
        }
        None
    }
}

/// Returns the length of the escape, or of the two escapes of a surrogate pair.
fn escape_bytes(text: &[u8]) -> Option<usize> {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"\\u")?.get(..4)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(text) {
        None => Some(2),
        Some(0xd800..=0xdbff) => matches!(unit(text.get(6..)?), Some(0xdc00..=0xdfff)).then_some(12),
        Some(0xdc00..=0xdfff) => None,
        Some(_) => Some(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_line_keeps_tokens_and_drops_white_space() {
        let check = |text: &str, expected: &str| assert_eq!(json_line(text).as_deref(), Some(expected), "{text}");
        check(" { \"a\" : [ 1 ,\t2.50 ] ,\r\n\"a\":\"b c\" } ", r#"{"a":[1,2.50],"a":"b c"}"#);
        for text in ["1e999", "-0.0E+10", "1234567890123456789012345678901234567890", "null", r#""\"\\\u00e9\ud83d\ude00""#, "[]"]
        {
            check(text, text);
        }
        check("\"\u{202e}\u{2028}\u{7f}\u{9b}\u{feff}\u{e0041}é\"", r#""\u202e\u2028\u007f\u009b\ufeff\udb40\udc41é""#);
    }

    #[test]
    fn json_line_of_other_text_is_none() {
        for text in
            ["", "hello", "1e", "{}{}", "[1,]", "\"a\nb\"", "\u{feff}1", r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, "'a'"]
        {
            assert_eq!(json_line(text), None, "{text}");
        }
    }

    #[test]
    fn json_line_of_deep_text_needs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(json_line(&deep).is_some_and(|line| line == deep));
        let indented = json_indented(&deep).expect("JSON");
        assert!(indented.len() < deep.len() + 1_000, "{} bytes", indented.len());
    }

    #[test]
    fn json_indented_looks_like_serde_json() {
        for text in [r#"{"a":[1,{"b":"c, d"},[],{}],"e":{},"f":null}"#, "1", "\"a\"", "[]", "[[1],[\"a\",\"b\"]]"] {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(json_indented(text), Some(format!("{value:#}")));
        }
    }
}
