//! Text that strangers wrote, made safe for logs, statuses, errors, terminals and pages.

use std::{
    error::Error,
    fmt::{self, Write as _},
    ops::Deref,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The mark at the end of a text that was cut.
const CUT: &str = "…";

/// A stranger's text that is safe to show: short, on one line, and without invisible characters.
///
/// A stub, a server, a catalogue or a descriptor may write anything. This type cuts and escapes the
/// text when it is built. Every sink takes it: log lines, statuses, errors, crash reports, pages.
///
/// * Control characters are escaped as `\n`, `\r`, `\t` or `\u{1b}`. A newline starts no line.
/// * Characters that change what others look like, or are not seen at all, are escaped as
///   `\u{202e}`: format and bidi characters, line and paragraph separators, variation selectors,
///   fillers, tags, private-use and unassigned characters. See [`SafeText::is_shown`].
/// * A backslash stays as it is. So a text that was built once does not change when it is built
///   again. It also means that `\n` may stand for a newline or for these two characters.
/// * A text that is too long ends with `…`. The cut splits no character and no escape.
///
/// A clone shares the text.
///
/// # Examples
///
/// ```
/// use protostub_types::SafeText;
///
/// let text = SafeText::new("no such room\nERROR all is \u{202e}lost");
/// assert_eq!(text.as_str(), r"no such room\nERROR all is \u{202e}lost");
/// assert_eq!(SafeText::new(&text), text);
/// assert_eq!(SafeText::cut("four and five", 7).as_str(), "four…");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafeText(Arc<str>);

impl SafeText {
    /// Default maximum of a text, in bytes of UTF-8 after escaping. A sentence and a URL fit.
    pub const MAX_BYTES: usize = 1024;

    /// Maximum of a quotation, in bytes: enough to recognise a name, a URL or a value in an error.
    pub const MAX_QUOTE_BYTES: usize = 240;

    /// Builds a text of at most [`Self::MAX_BYTES`].
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::cut(text, Self::MAX_BYTES)
    }

    /// Builds a quotation of at most [`Self::MAX_QUOTE_BYTES`], as part of a longer text.
    #[must_use]
    pub fn quote(text: &str) -> Self {
        Self::cut(text, Self::MAX_QUOTE_BYTES)
    }

    /// Builds a text of at most `max_bytes`, the escapes and the mark `…` included.
    ///
    /// The time depends on the kept part only, not on the length of `text`.
    #[must_use]
    pub fn cut(text: &str, max_bytes: usize) -> Self {
        let mut escaper = Escaper::new(max_bytes);
        let _ = escaper.write_str(text);
        escaper.finish()
    }

    /// Builds a text of at most [`Self::MAX_BYTES`] from a value that is displayed, such as an
    /// error.
    ///
    /// Stops the display when the text is full. No more than the maximum is ever in memory.
    #[must_use]
    pub fn display(value: impl fmt::Display) -> Self {
        Self::display_cut(value, Self::MAX_BYTES)
    }

    /// Builds a text of at most `max_bytes` from a value that is displayed.
    #[must_use]
    pub fn display_cut(value: impl fmt::Display, max_bytes: usize) -> Self {
        let mut escaper = Escaper::new(max_bytes);
        // The escaper fails when it is full, to end the display.
        let _ = write!(escaper, "{value}");
        escaper.finish()
    }

    /// Builds a text of at most [`Self::MAX_BYTES`] from an error and its causes, in one line.
    ///
    /// Leaves out a cause that the text before it names already.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{fmt, io};
    ///
    /// use protostub_types::SafeText;
    ///
    /// #[derive(Debug)]
    /// struct ConnectError(io::Error);
    ///
    /// impl fmt::Display for ConnectError {
    ///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    ///         f.write_str("failed to connect")
    ///     }
    /// }
    ///
    /// impl std::error::Error for ConnectError {
    ///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
    ///         Some(&self.0)
    ///     }
    /// }
    ///
    /// let error = ConnectError(io::Error::other("connection refused"));
    /// assert_eq!(SafeText::chain(&error).as_str(), "failed to connect: connection refused");
    /// ```
    #[must_use]
    pub fn chain(error: &(dyn Error + 'static)) -> Self {
        Self::chain_cut(error, Self::MAX_BYTES)
    }

    /// Builds a text of at most `max_bytes` from an error and its causes, like [`Self::chain`].
    #[must_use]
    pub fn chain_cut(error: &(dyn Error + 'static), max_bytes: usize) -> Self {
        let mut text = Self::display_cut(error, max_bytes).to_string();
        let mut next = error.source();
        // A full text has no room for causes.
        while let Some(cause) = next.filter(|_| text.len() < max_bytes) {
            let part = Self::display_cut(cause, max_bytes);
            if !text.contains(part.as_str()) {
                text.push_str(": ");
                text.push_str(&part);
            }
            next = cause.source();
        }
        Self::cut(&text, max_bytes)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Returns `true` if a character is shown as it is, and `false` if it is escaped.
    ///
    /// A character is shown if it is visible or a space. The tables are those of Unicode:
    /// `General_Category`, and `Default_Ignorable_Code_Point` for letters and marks that are not
    /// drawn.
    #[must_use]
    pub fn is_shown(character: char) -> bool {
        if character.is_ascii() {
            return !character.is_ascii_control();
        }
        !matches!(
            character.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::PrivateUse
                | GeneralCategory::Surrogate
                | GeneralCategory::Unassigned
        ) && !is_ignorable(character)
    }
}

/// A bounded list of strangers' texts. It counts the texts that it does not hold.
///
/// # Examples
///
/// ```
/// use protostub_types::SafeList;
///
/// let names: SafeList = (0..600).map(|n| format!("name-{n}")).collect();
/// assert_eq!((names.len(), names.left_out()), (SafeList::MAX_TEXTS, 580));
/// assert!(names.to_string().ends_with("name-18, name-19 and 580 more"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SafeList {
    texts: Vec<SafeText>,
    left_out: usize,
}

impl SafeList {
    /// Default maximum of texts that a list holds: as many as a person reads in an error.
    pub const MAX_TEXTS: usize = 20;

    /// Adds a text. If the list holds `max_texts` already, counts it only, without building it.
    pub fn push(&mut self, max_texts: usize, text: impl FnOnce() -> SafeText) {
        if self.texts.len() < max_texts {
            self.texts.push(text());
        } else {
            self.left_out += 1;
        }
    }

    /// Builds a list that holds at most `max_texts`, each cut by [`SafeText::quote`].
    #[must_use]
    pub fn cut<T: AsRef<str>>(texts: impl IntoIterator<Item = T>, max_texts: usize) -> Self {
        let mut list = Self::default();
        for text in texts {
            list.push(max_texts, || SafeText::quote(text.as_ref()));
        }
        list
    }

    /// Returns the number of texts that the list does not hold.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Returns the texts that the list holds.
    #[must_use]
    pub fn as_slice(&self) -> &[SafeText] {
        &self.texts
    }

    /// Returns the list as one text, with `separator` between its parts.
    #[must_use]
    pub fn join(&self, separator: &str) -> String {
        let mut text = self.texts.iter().map(SafeText::as_str).collect::<Vec<_>>().join(separator);
        if self.left_out > 0 {
            text.push_str(&format!(" and {} more", self.left_out));
        }
        text
    }
}

impl<T: AsRef<str>> FromIterator<T> for SafeList {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        Self::cut(texts, Self::MAX_TEXTS)
    }
}

impl Deref for SafeList {
    type Target = [SafeText];
    fn deref(&self) -> &[SafeText] {
        &self.texts
    }
}

impl<const N: usize> PartialEq<[&str; N]> for SafeList {
    /// Returns `true` if the list has exactly these texts and leaves out none.
    fn eq(&self, other: &[&str; N]) -> bool {
        self.left_out == 0 && self.texts.iter().map(SafeText::as_str).eq(other.iter().copied())
    }
}

impl fmt::Display for SafeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join(", "))
    }
}

/// Returns `true` if a letter or mark is not drawn: `Default_Ignorable_Code_Point` of Unicode's
/// `DerivedCoreProperties.txt`, without the categories that are never shown.
fn is_ignorable(character: char) -> bool {
    matches!(
        character,
        '\u{34f}'                       // combining grapheme joiner
            | '\u{115f}'..='\u{1160}'   // Hangul fillers
            | '\u{17b4}'..='\u{17b5}'   // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}'   // Mongolian variation selectors
            | '\u{3164}' | '\u{ffa0}'   // Hangul fillers
            | '\u{fe00}'..='\u{fe0f}'   // variation selectors
            | '\u{e0100}'..='\u{e01ef}' // variation selectors
    )
}

/// A writer that escapes its input, and fails when it is full.
struct Escaper {
    text: String,
    max_bytes: usize,
    /// The end of the last character or escape that leaves room for [`CUT`].
    end_with_mark: usize,
    full: bool,
}

impl Escaper {
    fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes, end_with_mark: 0, full: false }
    }

    /// Appends a part that must not be split.
    fn push(&mut self, part: impl fmt::Display, bytes: usize) -> fmt::Result {
        if self.text.len() + bytes > self.max_bytes {
            self.full = true;
            return Err(fmt::Error);
        }
        write!(self.text, "{part}")?;
        if self.text.len() + CUT.len() <= self.max_bytes {
            self.end_with_mark = self.text.len();
        }
        Ok(())
    }

    /// Appends one-byte characters that are shown as they are, as many as there is room for.
    fn push_plain(&mut self, run: &str) -> fmt::Result {
        let begin = self.text.len();
        self.text.push_str(&run[..run.len().min(self.max_bytes - begin)]);
        let most = self.max_bytes.saturating_sub(CUT.len());
        if begin <= most {
            self.end_with_mark = self.text.len().min(most);
        }
        self.full = self.text.len() - begin < run.len();
        if self.full { Err(fmt::Error) } else { Ok(()) }
    }

    fn finish(mut self) -> SafeText {
        if self.full {
            self.text.truncate(self.end_with_mark);
            if self.text.len() + CUT.len() <= self.max_bytes {
                self.text.push_str(CUT);
            }
        }
        SafeText(self.text.into())
    }
}

impl fmt::Write for Escaper {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Err(fmt::Error);
        }
        let mut rest = text;
        loop {
            // Reads at most one byte more than there is room for: that byte marks the text as full.
            let room = self.max_bytes - self.text.len();
            let bytes = rest.bytes().take(room.saturating_add(1));
            let plain = bytes.take_while(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\').count();
            let (run, behind) = rest.split_at(plain);
            self.push_plain(run)?;
            rest = behind;
            let Some(character) = rest.chars().next() else { return Ok(()) };
            let read = match character {
                '\\' => {
                    let bytes = escape_bytes(rest);
                    self.push(&rest[..bytes], bytes)?;
                    bytes
                }
                _ if SafeText::is_shown(character) => {
                    self.push(character, character.len_utf8())?;
                    character.len_utf8()
                }
                _ => {
                    let escape = character.escape_default();
                    self.push(&escape, escape.len())?;
                    character.len_utf8()
                }
            };
            rest = &rest[read..];
        }
    }
}

/// Returns the length of the escape that `text` begins with, or 1 for a backslash without an
/// escape.
fn escape_bytes(text: &str) -> usize {
    /// The longest escape: `\u{10ffff}`.
    const MAX_ESCAPE_BYTES: usize = 10;
    match text.as_bytes() {
        [b'\\', b'n' | b'r' | b't', ..] => 2,
        [b'\\', b'u', b'{', digits @ ..] => {
            let count = digits.iter().take(MAX_ESCAPE_BYTES).take_while(|byte| byte.is_ascii_hexdigit()).count();
            let bytes = "\\u{".len() + count + "}".len();
            if count > 0 && bytes <= MAX_ESCAPE_BYTES && digits.get(count) == Some(&b'}') { bytes } else { 1 }
        }
        _ => 1,
    }
}

impl Default for SafeText {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl Deref for SafeText {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for SafeText {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SafeText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for SafeText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl PartialEq<str> for SafeText {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for SafeText {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl From<&String> for SafeText {
    fn from(text: &String) -> Self {
        Self::new(text)
    }
}

impl PartialEq<String> for SafeText {
    fn eq(&self, other: &String) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for SafeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SafeText {
    /// Reads any text, and builds it with [`SafeText::new`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let safe = SafeText::new(text);
        assert_eq!(safe.as_str(), expected, "{text:?}");
        assert_eq!(SafeText::new(&safe), safe, "{text:?} is not idempotent");
    }

    #[test]
    fn control_characters_are_escaped() {
        check("a\u{1b}[2J\r\nb\tc\0\u{7f}\u{85}\u{9b}", r"a\u{1b}[2J\r\nb\tc\u{0}\u{7f}\u{85}\u{9b}");
    }

    #[test]
    fn invisible_characters_are_escaped() {
        let ranges = [
            '\u{ad}'..='\u{ad}',
            '\u{61c}'..='\u{61c}',
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{fff9}'..='\u{fffb}',
            '\u{e000}'..='\u{f8ff}',
            '\u{e0000}'..='\u{e0fff}',
            '\u{10ffff}'..='\u{10ffff}',
        ];
        for character in ranges.into_iter().flatten() {
            check(&format!("a{character}b"), &format!(r"a\u{{{:x}}}b", u32::from(character)));
        }
    }

    #[test]
    fn visible_text_is_kept() {
        for text in
            ["", "plain \"text\" it's", "Grüße, κόσμε", "日本語　한국어", "עברית العربية", "🦀 e\u{301} \u{fffd} a\u{a0}b…"]
        {
            check(text, text);
        }
    }

    #[test]
    fn backslash_is_kept() {
        for text in [r"C:\temp\new", r"\", r"\\", r"\u{202e}", r"\u{}", r"\u{1234567}", r"\u{12", r"\x"] {
            check(text, text);
        }
    }

    #[test]
    fn cut_of_any_mixture_keeps_whole_units() {
        /// Texts, each with the form that it is shown in.
        const UNITS: [(&str, &str); 5] = [("a", "a"), ("\\", "\\"), ("é", "é"), ("\n", "\\n"), ("\u{202e}", "\\u{202e}")];
        for number in 0..UNITS.len().pow(5) {
            let units: Vec<_> = (0..5).map(|place| UNITS[number / UNITS.len().pow(place) % UNITS.len()]).collect();
            let text: String = units.iter().map(|(text, _)| *text).collect();
            // A backslash before a letter could be read as an escape, which stays whole.
            if text.contains("\\a") {
                continue;
            }
            let shown: String = units.iter().map(|(_, shown)| *shown).collect();
            for max_bytes in 0..=shown.len() {
                let mut expected = String::new();
                if shown.len() <= max_bytes {
                    expected.clone_from(&shown);
                } else {
                    for (_, unit) in &units {
                        if expected.len() + unit.len() + CUT.len() > max_bytes {
                            break;
                        }
                        expected.push_str(unit);
                    }
                    if expected.len() + CUT.len() <= max_bytes {
                        expected.push_str(CUT);
                    }
                }
                assert_eq!(SafeText::cut(&text, max_bytes).as_str(), expected, "{text:?} in {max_bytes} bytes");
            }
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let cut = |text, bytes| SafeText::cut(text, bytes).to_string();
        assert_eq!(cut("äöü", 6), "äöü");
        assert_eq!(cut("äöü", 5), "ä…");
        assert_eq!(cut("äöü", 4), "…");
        assert_eq!(cut("äöü", 2), "");
        assert_eq!(cut("äöü", 0), "");
        assert_eq!(cut("", 0), "");
        assert_eq!(SafeText::new(&"x".repeat(1 << 20)).len(), SafeText::MAX_BYTES);
    }

    #[test]
    fn text_without_maximum_is_kept_whole() {
        for text in ["", "plain", "a é\\\u{202e}"] {
            assert_eq!(SafeText::cut(text, usize::MAX), SafeText::new(text));
            assert_eq!(SafeText::display_cut(text, usize::MAX), SafeText::new(text));
        }
    }

    #[test]
    fn escape_is_never_split() {
        let once = SafeText::new("ab\u{202e}\ncd\u{1b}");
        for max_bytes in 0..=once.len() {
            let raw = SafeText::cut("ab\u{202e}\ncd\u{1b}", max_bytes);
            assert_eq!(SafeText::cut(&once, max_bytes), raw, "{max_bytes}");
            assert_eq!(SafeText::cut(&raw, max_bytes), raw, "{max_bytes}");
            assert!(raw.len() <= max_bytes);
            let text = raw.strip_suffix(CUT).unwrap_or(&raw);
            assert!(
                ["", "a", "ab", r"ab\u{202e}", r"ab\u{202e}\n", r"ab\u{202e}\nc", r"ab\u{202e}\ncd"].contains(&text)
                    || raw == once,
                "{text}"
            );
        }
    }

    #[test]
    fn display_stops_when_the_text_is_full() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("on and\non ")?;
                }
            }
        }
        assert_eq!(SafeText::display_cut(Endless, 16).as_str(), r"on and\non on…");
        assert_eq!(SafeText::display(Endless).len(), SafeText::MAX_BYTES);
    }

    #[test]
    fn clone_shares_the_text() {
        let text = SafeText::new("shared");
        assert!(Arc::ptr_eq(&text.0, &text.clone().0));
    }

    #[test]
    fn serde_writes_and_reads_text() {
        let text = SafeText::new("a\nb");
        let json = serde_json::to_string(&text).unwrap();
        assert_eq!(json, r#""a\\nb""#);
        assert_eq!(serde_json::from_str::<SafeText>(&json).unwrap(), text);
        assert_eq!(serde_json::from_str::<SafeText>(r#""a\u202eb""#).unwrap().as_str(), r"a\u{202e}b");
    }

    #[test]
    fn error_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("sending failed")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("connection lost: reset by peer")]
        struct Middle(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("reset by peer")]
        struct Inner;
        let error = Outer(Middle(Inner));
        assert_eq!(SafeText::chain(&error), "sending failed: connection lost: reset by peer");
        assert_eq!(SafeText::chain_cut(&error, 20), "sending failed: c…");
    }
}
