//! Applies the rules to one source.

use std::{fmt, ops::Range};

use anyhow::{Context as _, Result};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::{
    comment::{self, Comment},
    paragraph::{Paragraph, Place},
    rules::{MAX_COLUMNS, MAX_NAME_CHARS, OPENINGS, RIDDLES, SUBJECTS, WORDS},
    rust::Rust,
};

/// A part of the repository's text that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// File, from the repository's root.
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: String,
    /// The whole sentence, line or name.
    pub(crate) text: String,
    /// The part of `text` that breaks the rule.
    found: Range<usize>,
    pub(crate) suggestion: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, text, found, suggestion } = self;
        write!(f, "{path}:{line}: {rule}: {}; {suggestion}", excerpt(text, found))
    }
}

/// Characters before the found part in an excerpt, and after its beginning.
const EXCERPT_CHARS: (usize, usize) = (40, 80);

/// Returns the text around the found part.
fn excerpt(text: &str, found: &Range<usize>) -> String {
    let (before, after) = text.split_at_checked(found.start).unwrap_or((text, ""));
    let (max_before, max_after) = EXCERPT_CHARS;
    let skipped = before.chars().count().saturating_sub(max_before);
    let head: String = before.chars().skip(skipped).collect();
    let tail: String = after.chars().take(max_after).collect();
    let marks = [skipped > 0, tail.len() < after.len()].map(|is_cut| if is_cut { "…" } else { "" });
    format!("{}{head}{tail}{}", marks[0], marks[1])
}

/// The rules, ready to be applied.
#[derive(Debug)]
pub(crate) struct Judge {
    /// Openings of sentences.
    openings: Regex,
    /// Openings of texts that may begin with a small letter.
    fragment_openings: Regex,
    /// Openings of error texts.
    subjects: Regex,
    /// Finds the words that a sentence has, quickly.
    any_word: RegexSet,
    words: Vec<Regex>,
}

impl Judge {
    /// Compiles the table of rules.
    pub(crate) fn new() -> Result<Self> {
        let opening = |table: &[(&str, &str)], is_fragment: bool| {
            let alternatives: Vec<_> = table.iter().map(|(pattern, _)| *pattern).collect();
            let mut builder = RegexBuilder::new(&format!("^(?:{})\\b", alternatives.join("|")));
            builder.unicode(false).case_insensitive(is_fragment).build().context("compiling the openings")
        };
        let words = WORDS.map(|(pattern, _)| pattern);
        let word = |pattern| RegexBuilder::new(pattern).unicode(false).case_insensitive(true).build();
        Ok(Self {
            openings: opening(&OPENINGS, false)?,
            fragment_openings: opening(&OPENINGS, true)?,
            subjects: opening(&SUBJECTS, true)?,
            any_word: RegexSetBuilder::new(words).unicode(false).case_insensitive(true).build().context("compiling the words")?,
            words: words.into_iter().map(word).collect::<Result<_, _>>().context("compiling the words")?,
        })
    }

    /// Checks a file's text.
    ///
    /// # Errors
    ///
    /// If a Rust source cannot be read as such.
    pub(crate) fn check(&self, path: &str, source: &str) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "rs" => {
                let rust = Rust::parse(source).with_context(|| format!("reading {path}"))?;
                self.check_comments(path, source, &rust.comments, &mut findings);
                self.check_prose(path, &rust.texts, &mut findings);
                findings.extend(rust.functions.iter().filter_map(|(line, name)| check_name(path, *line, name)));
            }
            "wit" => self.check_comments(path, source, &comment::slashes(source, 0..source.len()), &mut findings),
            "toml" => self.check_comments(path, source, &comment::hashes(source), &mut findings),
            _ => self.check_prose(path, &comment::document(source), &mut findings),
        }
        findings.sort_by_key(|finding| finding.line);
        Ok(findings)
    }

    fn check_comments(&self, path: &str, source: &str, comments: &[Comment], findings: &mut Vec<Finding>) {
        self.check_prose(path, &comment::prose(source, comments), findings);
        let long = comment::long_lines(source, comments, MAX_COLUMNS);
        findings.extend(long.into_iter().map(|(line, text)| Finding {
            path: path.to_owned(),
            line,
            rule: "columns".to_owned(),
            text: text.trim().to_owned(),
            found: 0..0,
            suggestion: format!("wrap the comment at {MAX_COLUMNS} columns"),
        }));
    }

    fn check_prose(&self, path: &str, paragraphs: &[Paragraph], findings: &mut Vec<Finding>) {
        // An address or a name is no sentence.
        for paragraph in paragraphs.iter().filter(|paragraph| !paragraph.place.is_fragment() || paragraph.text.contains(' ')) {
            for (offset, sentence) in paragraph.sentences() {
                let finding = |rule: &str, found: Range<usize>, suggestion: String| Finding {
                    path: path.to_owned(),
                    line: paragraph.line_at(offset + found.start),
                    rule: format!("{rule} {}", paragraph.place.shown()),
                    text: sentence.to_owned(),
                    found,
                    suggestion,
                };
                let is_fragment = paragraph.place.is_fragment();
                let openings = if is_fragment { &self.fragment_openings } else { &self.openings };
                if let Some((found, suggestion)) = find_opening(openings, &OPENINGS, sentence) {
                    findings.push(finding("opening", found, suggestion));
                }
                if paragraph.place == Place::Error
                    && let Some((found, suggestion)) = find_opening(&self.subjects, &SUBJECTS, sentence)
                {
                    findings.push(finding("subject", found, suggestion));
                }
                findings.extend(self.find_words(sentence).into_iter().map(|(found, text)| finding("word", found, text)));
            }
        }
    }

    fn find_words(&self, sentence: &str) -> Vec<(Range<usize>, String)> {
        let matching = self.any_word.matches(sentence).into_iter();
        let found = matching.flat_map(|index| self.words[index].find_iter(sentence).map(move |found| (found, WORDS[index].1)));
        found.map(|(found, suggestion)| (found.range(), suggested(found.as_str().trim(), suggestion))).collect()
    }
}

/// Finds an opening of the table, after the mark of a list.
fn find_opening(openings: &Regex, table: &[(&str, &str)], sentence: &str) -> Option<(Range<usize>, String)> {
    let start = sentence.len() - sentence.trim_start_matches(['*', '-', ' ']).len();
    let found = openings.find(sentence.get(start..)?)?.as_str();
    let (_, suggestion) = table.iter().find(|(opening, _)| opening.eq_ignore_ascii_case(found))?;
    Some((start..start + found.len(), suggested(found, suggestion)))
}

fn suggested(found: &str, suggestion: &str) -> String {
    format!("instead of `{}`, {suggestion}", found.trim_start_matches([',', ';', '(', ' ']))
}

/// Checks the name of a function.
fn check_name(path: &str, line: usize, name: &str) -> Option<Finding> {
    let riddle = RIDDLES.iter().find(|prefix| name.strip_prefix(**prefix).is_some_and(|rest| !rest.is_empty()));
    let suggestion = match riddle {
        Some(prefix) => format!("instead of `{prefix}`, begin with the subject: `<subject>_<condition>_<outcome>`"),
        None if name.chars().count() > MAX_NAME_CHARS => {
            format!("use {MAX_NAME_CHARS} characters at most, and put the story into the comment")
        }
        None => return None,
    };
    Some(Finding { path: path.to_owned(), line, rule: "name".to_owned(), text: name.to_owned(), found: 0..0, suggestion })
}

#[cfg(test)]
mod tests {
    use super::Judge;

    /// Checks the places, rules and found parts of all findings in a file of this name.
    fn check(path: &str, source: &str, expected: &[&str]) {
        let findings = Judge::new().expect("the rules").check(path, source).expect("a source");
        let found = findings.iter().map(|finding| {
            let part = finding.text.get(finding.found.clone()).unwrap_or_default().trim();
            format!("{} {} {part}", finding.line, finding.rule).trim_end().to_owned()
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{source}");
    }

    #[test]
    fn openings_hide_the_subject() {
        let check = |text: &str, expected: &[&str]| check("a.md", text, expected);
        check("What the domain says.", &["1 opening in a document What"]);
        check(
            "* How many there are\n\n- One that waits",
            &["1 opening in a document How many", "3 opening in a document One that"],
        );
        check("Good. Whether it waits: None of them", &["1 opening in a document Whether", "1 opening in a document None"]);
        check("`What` is a name. Whatsoever, however; so what", &[]);
        check("what begins with a small letter", &[]);
    }

    #[test]
    fn words_are_not_the_fields() {
        let check = |text: &str, expected: &[&str]| check("a.md", text, expected);
        check("It asks whoever is there.\nThe rest\nis told.", &["1 word in a document whoever", "3 word in a document is told"]);
        check(
            "A value, say, or one, say. Goodbye and good-bye",
            &[
                "1 word in a document , say,",
                "1 word in a document , say.",
                "1 word in a document Goodbye",
                "1 word in a document good-bye",
            ],
        );
        check(
            "The session, none: it is gone. It is no session: it is gone",
            &["1 word in a document , none:", "1 word in a document It is no session:"],
        );
        check("There are none: all ended. Option::None::<T>, besides, sowhatever, is not told", &[]);
    }

    #[test]
    fn texts_may_begin_with_a_small_letter() {
        let check = |text: &str, expected: &[&str]| check("a.rs", text, expected);
        check("#[error(\"what was saved is lost\")] struct A;", &["1 opening in an error what"]);
        check("fn a() { info!(\"nobody waits\") }", &["1 opening in a log line nobody", "1 word in a log line nobody"]);
        check("fn a() {\n println!(\"Started anew\") }", &["2 word in a printed text anew"]);
        check("const HELP: &str = \"\\\nusage: a\n\nNothing\n\";", &["4 opening in a help text Nothing"]);
        check("fn a() { b(\"whoever asks\"); format!(\"hyperty://{b}/nobody\"); }", &[]);
    }

    #[test]
    fn comments_wrap_at_100_columns() {
        let long = "b".repeat(98);
        check("a.rs", &format!("// {}\n// {long}\n", &long[..97]), &["2 columns"]);
        check("a.toml", &format!("a = '{long}'\n# {long}b"), &["2 columns"]);
        check("a.wit", &format!("/// {long}\n"), &["1 columns"]);
        check("a.md", &format!("{long} {long}\n"), &[]);
    }

    #[test]
    fn names_have_a_subject_and_60_characters() {
        let long = "a".repeat(61);
        check("a.rs", "fn whoever_waits<T>() {}\nasync fn it_works<T>() {}", &["1 name", "2 name"]);
        check("a.rs", &format!("fn {}() {{}}\nfn {long}() {{}}", &long[1..]), &["2 name"]);
        check("a.rs", "fn items() {} fn who() {} fn thatch_burns() {}", &[]);
    }

    #[test]
    fn error_texts_have_a_subject() {
        let check = |text: &str, expected: &[&str]| check("a.rs", text, expected);
        check("fn a() { bail!(\"it broke\") }", &["1 subject in an error it"]);
        check("#[error(\"its key is gone\")] struct A;", &["1 subject in an error its"]);
        check("#[error(\"item {0} is missing\")] struct A;", &[]);
        check("fn a() { info!(\"it starts\") }", &[]);
    }

    #[test]
    fn finding_shows_its_place_and_a_suggestion() {
        let judge = Judge::new().expect("the rules");
        let check = |text: &str, excerpt: &str| {
            let findings = judge.check("b/a.md", text).expect("a document");
            let shown = findings.iter().map(ToString::to_string).collect::<Vec<_>>();
            let suggestion = "instead of `by then`, name the time or the event";
            assert_eq!(shown, [format!("b/a.md:1: word in a document: {excerpt}; {suggestion}")], "{text}");
        };
        check("It ends by then.", "It ends by then.");
        let (before, after) = ("ä".repeat(50), "ö".repeat(90));
        let long = [before.as_str(), "by then", after.as_str()].join(" ");
        let excerpt = ["…", &"ä".repeat(39), " by then ", &"ö".repeat(72), "…"].concat();
        check(&long, &excerpt);
    }
}
