//! Formats of the command's output.

use protostub_types::{SafeText, json_line};

/// The form of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "only the fuzzers use it from outside")]
pub enum OutputFormat {
    /// Text for people.
    Text,
    /// One JSON value a line, for programs.
    Json,
}

impl OutputFormat {
    /// Returns the text or the JSON, with a line feed at its end.
    pub(crate) fn line(self, text: impl FnOnce() -> String, json: impl FnOnce() -> String) -> String {
        let line = match self {
            Self::Text => escaped_lines(&text()),
            Self::Json => json(),
        };
        line + "\n"
    }
}

/// Returns JSON text in one line, without characters that act on a terminal.
pub(crate) fn json_text(json: &str) -> String {
    // The input is always JSON, because serde wrote it.
    json_line(json).unwrap_or_else(|| "null".to_owned())
}

/// Returns a text as one line, uncut, with invisible characters escaped.
pub(crate) fn escaped(text: &str) -> SafeText {
    SafeText::cut(text, usize::MAX)
}

/// Returns a text in which each line is escaped on its own.
fn escaped_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escaped).collect();
    lines.iter().map(SafeText::as_str).collect::<Vec<_>>().join("\n")
}

/// Returns a table of names and values, with the values in one column.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let value = value.replace('\n', &format!("\n  {:width$}  ", ""));
        format!("  {name:width$}  {value}").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
