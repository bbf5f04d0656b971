//! Comments as lines of prose, from Rust and WIT, TOML and Markdown.

use std::ops::Range;

use toml_parser::{Source, lexer::TokenKind};

use super::paragraph::{Line, Paragraph, Place, numbered, paragraphs};

/// A comment, without the line break at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub(crate) range: Range<usize>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `//`, `///` and `//!`
    Slashes,
    /// `/* … */`
    Block,
    /// `#`
    Hash,
}

/// Finds the comments of Rust or WIT in a part of a source that has no string literals.
pub(crate) fn slashes(source: &str, part: Range<usize>) -> Vec<Comment> {
    let mut comments = Vec::new();
    let mut at = part.start;
    while let Some(rest) = source.get(at..part.end) {
        let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() else { break };
        let text = &rest[start..];
        let (len, kind) = if text.starts_with("//") {
            (text.find('\n').unwrap_or(text.len()), Kind::Slashes)
        } else {
            (block_len(text), Kind::Block)
        };
        comments.push(Comment { range: at + start..at + start + len, kind });
        at += start + len;
    }
    comments
}

/// Returns the length of a block comment, which may contain others.
fn block_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Finds the comments of a TOML document.
pub(crate) fn hashes(source: &str) -> Vec<Comment> {
    let comments = Source::new(source).lex().filter(|token| token.kind() == TokenKind::Comment);
    comments.map(|token| Comment { range: token.span().start()..token.span().end(), kind: Kind::Hash }).collect()
}

/// Joins the comments of a source, in their order, to paragraphs. A comment after code is a
/// paragraph of its own.
pub(crate) fn prose(source: &str, comments: &[Comment]) -> Vec<Paragraph> {
    let starts = line_starts(source);
    let mut runs: Vec<(Vec<Line>, bool)> = Vec::new();
    for comment in comments {
        let first = line_at(&starts, comment.range.start);
        let text = source.get(comment.range.clone()).unwrap_or_default();
        let lines = numbered(first, text.lines().map(|line| bare(line, comment.kind)));
        let follows_code = !before(source, &starts, comment).trim().is_empty();
        let follows_comment = |run: &[Line]| run.last().is_some_and(|last| last.number + 1 == first);
        match runs.last_mut() {
            Some((run, is_closed)) if !*is_closed && !follows_code && follows_comment(run) => run.extend(lines),
            _ => runs.push((lines, follows_code)),
        }
    }
    runs.iter().flat_map(|(run, _)| paragraphs(Place::Comment, run)).collect()
}

/// Returns the number and the text of each line with a comment that has more than `max` columns.
/// A URL may be longer.
pub(crate) fn long_lines<'a>(source: &'a str, comments: &[Comment], max: usize) -> Vec<(usize, &'a str)> {
    let starts = line_starts(source);
    let mut long: Vec<(usize, &str)> = Vec::new();
    for comment in comments {
        let text = source.get(comment.range.clone()).unwrap_or_default();
        let first = line_at(&starts, comment.range.start);
        for number in first..first + text.lines().count() {
            let line = starts.get(number - 1).and_then(|start| source.get(*start..)?.lines().next()).unwrap_or_default();
            if line.chars().count() > max && !line.contains("http") && long.last().is_none_or(|(last, _)| *last != number) {
                long.push((number, line));
            }
        }
    }
    long
}

/// Joins the lines of a Markdown document to paragraphs.
pub(crate) fn document(source: &str) -> Vec<Paragraph> {
    paragraphs(Place::Document, &numbered(1, source.lines()))
}

/// Returns a line of a comment without its marks.
fn bare(line: &str, kind: Kind) -> &str {
    let line = line.trim();
    match kind {
        Kind::Slashes => line.strip_prefix("//").map_or(line, |rest| rest.strip_prefix(['/', '!']).unwrap_or(rest)),
        Kind::Block => line.trim_start_matches(['/', '*', '!']).trim_end_matches("*/"),
        Kind::Hash => line.trim_start_matches('#'),
    }
}

/// Returns the text before a comment on its line.
fn before<'a>(source: &'a str, starts: &[usize], comment: &Comment) -> &'a str {
    let start = starts.get(line_at(starts, comment.range.start) - 1).copied().unwrap_or_default();
    source.get(start..comment.range.start).unwrap_or_default()
}

/// Returns the offset of each line.
pub(crate) fn line_starts(source: &str) -> Vec<usize> {
    [0].into_iter().chain(source.match_indices('\n').map(|(offset, _)| offset + 1)).collect()
}

/// Returns the number of the line with this offset, from 1.
pub(crate) fn line_at(starts: &[usize], offset: usize) -> usize {
    starts.partition_point(|start| *start <= offset).max(1)
}

#[cfg(test)]
mod tests {
    use super::{Comment, hashes, long_lines, prose, slashes};

    fn of_wit(source: &str) -> Vec<Comment> {
        slashes(source, 0..source.len())
    }

    fn check(source: &str, comments: &[Comment], expected: &[(usize, &str)]) {
        let paragraphs = prose(source, comments);
        let found: Vec<_> = paragraphs.iter().map(|paragraph| (paragraph.line_at(0), paragraph.text.as_str())).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn lines_of_slashes_join_to_a_paragraph() {
        let wit = |source: &str, expected: &[(usize, &str)]| check(source, &of_wit(source), expected);
        wit("/// One\n/// two.\nrecord a {}\n", &[(1, "One two.")]);
        wit("//! One\n\n// two\n", &[(1, "One"), (3, "two")]);
        wit("/// One\n///\n/// two", &[(1, "One"), (3, "two")]);
        wit("a: u32, // After code\n// alone", &[(1, "After code"), (2, "alone")]);
        wit("/// ```\n/// code\n/// ```\n/// Text", &[(4, "Text")]);
    }

    #[test]
    fn block_comments_contain_others() {
        let wit = |source: &str, expected: &[(usize, &str)]| check(source, &of_wit(source), expected);
        wit("/* One /* two */ three */ record a {}", &[(1, "One /* two */ three")]);
        wit("/**\n * One\n * two\n */\nrecord a {}", &[(2, "One two")]);
        wit("/* without an end", &[(1, "without an end")]);
    }

    #[test]
    fn hash_in_a_toml_string_is_no_comment() {
        let toml = |source: &str, expected: &[(usize, &str)]| check(source, &hashes(source), expected);
        toml("# One\n# two\na = 1 # three\n", &[(1, "One two"), (3, "three")]);
        toml("a = '# one'\nb = '''\n# two\n'''\n", &[]);
        toml("a = \"\\\"# one\" # two", &[(1, "two")]);
    }

    #[test]
    fn comment_after_the_last_column_is_found() {
        let check = |source: &str, expected: &[usize]| {
            let long = long_lines(source, &of_wit(source), 10);
            assert_eq!(long.iter().map(|(number, _)| *number).collect::<Vec<_>>(), expected, "{source}");
        };
        check("// 4567890\n// 45678901\n", &[2]);
        check("// äöüäöüä\n", &[]);
        check("a: u32, // 2", &[1]);
        check("// http://a.example/", &[]);
        check("/*\n a long line\n*/", &[2]);
        check("code that is long", &[]);
    }
}
