//! Rust sources as tokens: comments, texts that people read, and names of functions.

use std::{collections::BTreeMap, ops::Range, str::FromStr as _};

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use super::{
    comment::{self, Comment},
    paragraph::{Line, Paragraph, Place, paragraphs},
};

/// Attributes and methods of clap that take a help text.
const HELP: [&str; 8] =
    ["about", "after_help", "after_long_help", "before_help", "before_long_help", "help", "long_about", "long_help"];

/// Methods of anyhow that take a text.
const CONTEXT: [&str; 2] = ["context", "with_context"];

/// The parts of a Rust source that have rules.
#[derive(Debug)]
pub(crate) struct Rust {
    pub(crate) comments: Vec<Comment>,
    /// Texts of errors, of log lines and of the command line.
    pub(crate) texts: Vec<Paragraph>,
    /// Line and name of each function.
    pub(crate) functions: Vec<(usize, String)>,
}

impl Rust {
    /// Reads a source.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        let parsed = TokenStream::from_str(source).map_err(|error| {
            let place = error.span().start();
            anyhow!("line {}: no Rust: {error}; compile the file first", place.line)
        });
        let mut reader = Reader { source, ..Reader::default() };
        reader.read(&parsed?.into_iter().collect::<Vec<_>>(), Delimiter::None);
        // Spans are kept for the whole thread otherwise.
        proc_macro2::extra::invalidate_current_thread_spans();

        let starts = comment::line_starts(source);
        let functions = reader.functions.into_iter().map(|(offset, name)| (comment::line_at(&starts, offset), name));
        let texts = reader
            .texts
            .into_iter()
            .flat_map(|(offset, (place, literal))| paragraphs(place, &lines(literal, comment::line_at(&starts, offset))));
        Ok(Self {
            comments: gaps(source, &reader.tokens).into_iter().flat_map(|gap| comment::slashes(source, gap)).collect(),
            texts: texts.collect(),
            functions: functions.collect(),
        })
    }
}

/// The parts of a source between its tokens: white space and comments.
fn gaps(source: &str, tokens: &[Range<usize>]) -> Vec<Range<usize>> {
    let starts = [0].into_iter().chain(tokens.iter().map(|token| token.end));
    let ends = tokens.iter().map(|token| token.start).chain([source.len()]);
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end).collect()
}

#[derive(Default)]
struct Reader<'a> {
    source: &'a str,
    /// Places of the tokens, in order. Documentation comments are left out.
    tokens: Vec<Range<usize>>,
    /// String literals that people read, by their offsets.
    texts: BTreeMap<usize, (Place, &'a str)>,
    functions: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, trees: &[TokenTree], delimiter: Delimiter) {
        for (index, tree) in trees.iter().enumerate() {
            let range = tree.span().byte_range();
            // The parser makes an attribute of each documentation comment, and gives each of its
            // tokens the comment's place.
            if self.source.get(range.clone()).is_some_and(|text| text.starts_with("//") || text.starts_with("/*")) {
                continue;
            }
            self.find_text(trees, index, index == 0 && delimiter == Delimiter::Bracket);
            match tree {
                TokenTree::Group(group) => {
                    self.tokens.push(group.span_open().byte_range());
                    self.read(&trees_of(group), group.delimiter());
                    self.tokens.push(group.span_close().byte_range());
                }
                TokenTree::Ident(ident) if ident == "fn" => {
                    if let Some(TokenTree::Ident(name)) = trees.get(index + 1) {
                        self.functions.push((range.start, name.to_string()));
                    }
                    self.tokens.push(range);
                }
                _ => self.tokens.push(range),
            }
        }
    }

    /// Takes the texts of what begins at a token: a macro, an attribute, a method or a constant.
    fn find_text(&mut self, trees: &[TokenTree], index: usize, is_attribute: bool) {
        let TokenTree::Ident(ident) = &trees[index] else { return };
        let name = ident.to_string();
        let after = |distance: usize| trees.get(index + distance);
        let is_method = index > 0 && is_punct(trees.get(index - 1), '.');
        match (after(1), after(2)) {
            (bang, Some(TokenTree::Group(group))) if is_punct(bang, '!') => {
                if let Some(place) = place_of_macro(&name) {
                    self.take(place, &trees_of(group), false);
                }
            }
            (Some(TokenTree::Group(group)), _) if is_attribute && name == "error" => {
                self.take(Place::Error, &trees_of(group), false);
            }
            (Some(TokenTree::Group(group)), _) if is_method && CONTEXT.contains(&name.as_str()) => {
                self.take(Place::Error, &trees_of(group), true);
            }
            (Some(TokenTree::Group(group)), _) if is_method && HELP.contains(&name.as_str()) => {
                self.take(Place::Help, &trees_of(group), true);
            }
            (equals, Some(TokenTree::Literal(_))) if HELP.contains(&name.as_str()) && is_punct(equals, '=') => {
                self.take(Place::Help, &trees[index + 2..index + 3], false);
            }
            (Some(TokenTree::Ident(constant)), _) if matches!(name.as_str(), "const" | "static") && is_help(constant) => {
                let value = trees[index + 2..].split(|tree| is_punct(Some(tree), ';')).next().unwrap_or_default();
                let equals = value.iter().position(|tree| is_punct(Some(tree), '=')).unwrap_or(value.len());
                self.take(Place::Help, value.get(equals + 1..).unwrap_or_default(), true);
            }
            _ => {}
        }
    }

    /// Takes the string literals among tokens; with `deep`, also in groups. Values such as
    /// `target: "bus"` and `== "bus"` are left out.
    fn take(&mut self, place: Place, trees: &[TokenTree], deep: bool) {
        for (index, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Literal(literal) => {
                    let range = literal.span().byte_range();
                    let is_value = index > 0 && [':', '='].iter().any(|mark| is_punct(trees.get(index - 1), *mark));
                    let text = self.source.get(range.clone()).unwrap_or_default();
                    if !is_value && text.starts_with(['"', 'r']) {
                        self.texts.entry(range.start).or_insert((place, text));
                    }
                }
                TokenTree::Group(group) if deep && group.delimiter() != Delimiter::Bracket => {
                    self.take(place, &trees_of(group), deep);
                }
                _ => {}
            }
        }
    }
}

fn trees_of(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn is_punct(tree: Option<&TokenTree>, mark: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn is_help(constant: &Ident) -> bool {
    let name = constant.to_string();
    name.contains("HELP") || name.contains("ABOUT")
}

fn place_of_macro(name: &str) -> Option<Place> {
    match name {
        "trace" | "debug" | "info" | "warn" | "error" => Some(Place::Log),
        "anyhow" | "bail" | "ensure" => Some(Place::Error),
        "print" | "println" | "eprint" | "eprintln" | "format" | "write" | "writeln" => Some(Place::Output),
        _ => None,
    }
}

/// Returns the lines of a string literal: those of the source, and those that `\n` makes.
fn lines(literal: &str, first: usize) -> Vec<Line> {
    let is_raw = literal.starts_with('r');
    let text = literal.trim_start_matches('r').trim_matches('#');
    let text = text.strip_prefix('"').unwrap_or(text).strip_suffix('"').unwrap_or(text);
    let mut lines = vec![Line { number: first, text: String::new() }];
    let mut number = first;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' && !is_raw { chars.next() } else { None };
        number += usize::from(c == '\n' || escaped == Some('\n'));
        let Some(line) = lines.last_mut() else { break };
        match (c, escaped) {
            // The line goes on. Its number is that of its first word.
            (_, Some('\n')) if line.text.trim().is_empty() => line.number = number,
            ('\n', _) | (_, Some('\n' | 'n')) => lines.push(Line { number, text: String::new() }),
            (_, Some('t' | 'r')) => line.text.push(' '),
            (_, Some(other)) => line.text.push(other),
            (c, None) => line.text.push(c),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Place, Rust};
    use crate::prose::comment::prose;

    fn texts(source: &str) -> Vec<(Place, usize, String)> {
        let rust = Rust::parse(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        rust.texts.iter().map(|text| (text.place, text.line_at(0), text.text.clone())).collect()
    }

    fn check(source: &str, place: Place, expected: &[&str]) {
        let texts = texts(source);
        assert_eq!(texts.iter().map(|(_, _, text)| text.as_str()).collect::<Vec<_>>(), expected, "{source}");
        assert!(texts.iter().all(|(found, _, _)| *found == place), "{source}: {texts:?}");
    }

    #[test]
    fn comments_are_between_tokens() {
        let check = |source: &str, expected: &[&str]| {
            let rust = Rust::parse(source).expect("a source");
            let paragraphs = prose(source, &rust.comments);
            assert_eq!(paragraphs.iter().map(|paragraph| paragraph.text.as_str()).collect::<Vec<_>>(), expected, "{source}");
        };
        check("//! Crate.\n\n/// Ä type.\n#[derive(Debug)]\nstruct A; // after\n", &["Crate.", "Ä type.", "after"]);
        check("fn a() { /* inside */ b(1 / 2) }\n// end", &["inside", "end"]);
        check("const A: &str = \"// no comment\"; const B: &str = r#\"\n// none\n\"#;", &[]);
        check("macro_rules! a { () => { /// Inside.\n struct B; } }", &["Inside."]);
    }

    #[test]
    fn error_texts_are_found() {
        let check = |source: &str, expected: &[&str]| check(source, Place::Error, expected);
        check("#[derive(Error)] enum A { #[error(\"one {0}\")] One(u8), #[error(transparent)] Two(B) }", &["one {0}"]);
        check(
            "fn a() { bail!(\"one {b}\"); anyhow::ensure!(a == \"x\", \"two\"); Err(anyhow!(\"three\")) }",
            &["one {b}", "two", "three"],
        );
        check("fn a() { b().context(\"one\")?.with_context(|| format!(\"two {a}\")) }", &["one", "two {a}"]);
        check("fn error(a: &str) { error(\"no text\") }", &[]);
    }

    #[test]
    fn log_texts_are_found() {
        let check = |source: &str, expected: &[&str]| check(source, Place::Log, expected);
        check("fn a() { tracing::info!(target: \"bus\", domain = \"b\", \"one {a}\", c); warn!(\"two\") }", &["one {a}", "two"]);
        check("fn a() { info_span!(\"no text\"); error(\"none\"); }", &[]);
    }

    #[test]
    fn printed_and_help_texts_are_found() {
        let output = |source: &str, expected: &[&str]| check(source, Place::Output, expected);
        output(
            "fn a() { println!(\"one\"); eprint!(r#\"two \"2\"\"#); println!(\"a{}\", b(\"none\")) }",
            &["one", "two \"2\"", "a{}"],
        );
        let help = |source: &str, expected: &[&str]| check(source, Place::Help, expected);
        help("#[command(about = \"one\", name = \"none\")] struct A { #[arg(help = \"two\")] b: u8 }", &["one", "two"]);
        help("fn a() { Command::new(\"none\").about(\"one\").after_help(B) }", &["one"]);
        help("const B_HELP: &str = concat!(\"one\", \"two\"); const B: &str = \"none\";", &["one", "two"]);
    }

    #[test]
    fn lines_of_a_text_have_their_numbers() {
        let check = |source: &str, expected: &[(usize, &str)]| {
            let found: Vec<_> = texts(source).into_iter().map(|(_, line, text)| (line, text)).collect();
            let expected: Vec<_> = expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
            assert_eq!(found, expected, "{source}");
        };
        check("const HELP: &str = \"\\\none\n  two\n\nthree\";", &[(2, "one two"), (5, "three")]);
        check("const HELP: &str = \"one \\\n  two\\n\\nthree\";", &[(1, "one two"), (2, "three")]);
    }

    #[test]
    fn functions_are_found_by_name() {
        let rust = Rust::parse("fn a() {}\nasync fn b<T>() {\n  fn c() {} }\ntype D = fn(u8);").expect("a source");
        assert_eq!(rust.functions, [(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())]);
    }

    #[test]
    fn source_that_is_no_rust_is_an_error() {
        let error = Rust::parse("fn a() {\n  \"without an end\n").expect_err("no Rust");
        assert!(error.to_string().starts_with("line "), "{error}");
    }
}
