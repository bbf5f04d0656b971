//! Paragraphs of prose, and the sentences in them.

/// Kind of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Comments of Rust, WIT and TOML.
    Comment,
    /// Markdown.
    Document,
    /// Texts of errors.
    Error,
    /// Texts of log macros.
    Log,
    /// Texts that a command prints, and that `write!` and `format!` make.
    Output,
    /// Help of a command line.
    Help,
}

impl Place {
    /// Returns the place as it follows the rule's name in a finding.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Comment => "in a comment",
            Self::Document => "in a document",
            Self::Error => "in an error",
            Self::Log => "in a log line",
            Self::Output => "in a printed text",
            Self::Help => "in a help text",
        }
    }

    /// Returns true for texts that may begin with a small letter.
    pub(crate) fn is_fragment(self) -> bool {
        matches!(self, Self::Error | Self::Log | Self::Output)
    }
}

/// A line of prose, without the marks of a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Number of the line in its file, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
}

/// Lines of prose, joined by spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paragraph {
    pub(crate) place: Place,
    pub(crate) text: String,
    /// Offset in `text` and number of each line.
    lines: Vec<(usize, usize)>,
}

impl Paragraph {
    /// Returns the number of the line that has this offset.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        let after = self.lines.partition_point(|(start, _)| *start <= offset);
        self.lines.get(after.saturating_sub(1)).map_or(1, |(_, number)| *number)
    }

    /// Returns the sentences with their offsets. A sentence ends after `.`, `!`, `?` or `:` if the
    /// next word begins with a capital letter, a backquote or a bracket.
    pub(crate) fn sentences(&self) -> Vec<(usize, &str)> {
        let text = self.text.as_str();
        let mut sentences = Vec::new();
        let mut start = 0;
        for (offset, _) in text.match_indices(char::is_whitespace) {
            let Some((before, after)) = text.split_at_checked(offset) else { continue };
            let next = after.trim_start();
            if offset > start && before.ends_with(['.', '!', '?', ':']) && next.starts_with(is_start) {
                sentences.push((start, before.get(start..).unwrap_or_default()));
                start = text.len() - next.len();
            }
        }
        sentences.push((start, text.get(start..).unwrap_or_default()));
        sentences
    }
}

fn is_start(c: char) -> bool {
    c.is_ascii_uppercase() || matches!(c, '`' | '[')
}

/// Joins consecutive lines. Empty lines, headings, tables and blocks of code separate paragraphs.
pub(crate) fn paragraphs(place: Place, lines: &[Line]) -> Vec<Paragraph> {
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    let mut is_open = false;
    let mut is_code = false;
    for line in lines {
        let text = line.text.trim();
        let is_fence = text.starts_with("```");
        is_code ^= is_fence;
        if text.is_empty() || is_fence || is_code || text.starts_with(['|', '#']) {
            is_open = false;
            continue;
        }
        match paragraphs.last_mut() {
            Some(paragraph) if is_open => {
                paragraph.lines.push((paragraph.text.len() + 1, line.number));
                paragraph.text.push(' ');
                paragraph.text.push_str(text);
            }
            _ => paragraphs.push(Paragraph { place, text: text.to_owned(), lines: vec![(0, line.number)] }),
        }
        is_open = true;
    }
    paragraphs
}

/// Numbers the lines of a text from `first`.
pub(crate) fn numbered<'a>(first: usize, texts: impl IntoIterator<Item = &'a str>) -> Vec<Line> {
    texts.into_iter().enumerate().map(|(index, text)| Line { number: first + index, text: text.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Place, numbered, paragraphs};

    fn joined(markdown: &str) -> Vec<super::Paragraph> {
        paragraphs(Place::Document, &numbered(1, markdown.lines()))
    }

    #[test]
    fn paragraphs_skip_headings_tables_and_code() {
        let check = |markdown: &str, expected: &[&str]| {
            let paragraphs = joined(markdown);
            assert_eq!(paragraphs.iter().map(|paragraph| paragraph.text.as_str()).collect::<Vec<_>>(), expected, "{markdown}");
        };
        check("One\n  two\n\nthree", &["One two", "three"]);
        check("# Heading\nText\n| cell |\n| --- |\nMore", &["Text", "More"]);
        check("Before\n```sh\ncargo run\n\n```\nAfter", &["Before", "After"]);
        check("\n\n", &[]);
    }

    #[test]
    fn sentences_end_before_a_capital_letter() {
        let check = |text: &str, expected: &[&str]| {
            let paragraphs = joined(text);
            let sentences = paragraphs.iter().flat_map(super::Paragraph::sentences).map(|(_, sentence)| sentence);
            assert_eq!(sentences.collect::<Vec<_>>(), expected, "{text}");
        };
        check("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"]);
        check("A list: `one`, e.g. two. [Link]", &["A list:", "`one`, e.g. two.", "[Link]"]);
        check("One.\nTwo. 3 is a number", &["One.", "Two. 3 is a number"]);
        check("Über. Änderung", &["Über. Änderung"]);
    }

    #[test]
    fn offset_gives_the_line() {
        let paragraphs = joined("\nfirst\nsecond");
        let check = |offset: usize, expected: usize| assert_eq!(paragraphs[0].line_at(offset), expected, "{offset}");
        check(0, 2);
        check(5, 2);
        check(6, 3);
        check(99, 3);
    }
}
