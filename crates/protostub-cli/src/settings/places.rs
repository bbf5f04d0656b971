//! The places of the keys in a settings file, for errors.

use std::{fmt, ops::Range};

use protostub_types::Domain;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The keys of a settings file, with their spellings and places.
#[derive(Clone, Default)]
pub(super) struct Places {
    text: String,
    keys: Vec<KeyPlace>,
}

#[derive(Debug, Clone)]
struct KeyPlace {
    /// The key in its group, and the keys of the tables around it. A domain is in its normal form.
    path: Vec<String>,
    /// The key as the operator wrote it, without quotation marks.
    spelling: String,
    key: Range<usize>,
    value: Range<usize>,
    is_date: bool,
}

/// An error in a settings file, and its place.
#[derive(Debug)]
pub(super) struct Fault {
    /// The offset in the text, if it is known.
    pub(super) start: Option<usize>,
    pub(super) problem: Problem,
}

/// The text of an error about a key.
#[derive(Debug, Clone)]
pub(super) enum Problem {
    /// Continues the name of the key.
    OfKey(String),
    /// The value has another type than the key.
    Type { found: String, expected: String },
    /// A text of its own.
    Whole(String),
}

impl Fault {
    pub(super) fn at(place: &Range<usize>, problem: Problem) -> Self {
        Self { start: Some(place.start), problem }
    }
}

/// Omits the text, which can contain secrets.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

impl Places {
    /// Returns the keys of a file with this text. Keys of older files are in their groups already.
    pub(super) fn new(text: &str, root: &DeTable<'_>) -> Self {
        let mut places = Self { text: text.to_owned(), keys: Vec::new() };
        places.add(&[], root);
        places
    }

    /// Returns the places of a text that is not TOML.
    pub(super) fn unknown(text: &str) -> Self {
        Self { text: text.to_owned(), keys: Vec::new() }
    }

    fn add(&mut self, outer: &[String], table: &DeTable<'_>) {
        for (key, value) in table {
            let name = match outer {
                [domains] if domains == "domains" => key.get_ref().parse::<Domain>().map(|domain| domain.to_string()).ok(),
                _ => None,
            };
            let name = name.unwrap_or_else(|| key.get_ref().to_string());
            let path = [outer, &[name]].concat();
            let written = self.text.get(key.span()).unwrap_or_default().trim_matches(['"', '\'']);
            self.keys.push(KeyPlace {
                path: path.clone(),
                spelling: written.to_owned(),
                key: key.span(),
                value: value.span(),
                is_date: matches!(value.get_ref(), DeValue::Datetime(_)),
            });
            self.add_value(&path, value);
        }
    }

    fn add_value(&mut self, path: &[String], value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add(path, table),
            DeValue::Array(values) => values.iter().for_each(|value| self.add_value(path, value)),
            _ => {}
        }
    }

    /// Returns the text of an error: its place as `line:column`, the key as the operator wrote it,
    /// and the problem. The text shows no line of the file, because such files can contain secrets.
    pub(super) fn describe(&self, fault: &Fault) -> String {
        let start = fault.start.unwrap_or_default();
        let key = fault.start.and_then(|start| self.innermost(start));
        let is_named = matches!(&fault.problem, Problem::Whole(problem) if problem.starts_with('`'));
        let of_line = || if is_named { None } else { self.key_of_line(start) };
        let spelling = key.map(|key| key.spelling.clone()).or_else(of_line);
        let problem = match (key, &fault.problem) {
            (Some(key), Problem::Type { expected, .. }) if key.is_date => Problem::OfKey(format!("is a date; write {expected}")),
            (Some(key), Problem::Type { found, expected }) if key.value.start < start => {
                Problem::OfKey(format!("has the item {found}; write {expected}"))
            }
            (_, problem) => problem.clone(),
        };
        format!("{}: {}", self.line_and_column(start), words(spelling.as_deref(), &problem))
    }

    /// Returns the text of an error about the value of the key with this path. If the file does not
    /// have the key, the place is that of the innermost table around it. Returns `None` if the file
    /// has none of them.
    pub(super) fn describe_key(&self, path: &[impl AsRef<str>], problem: Problem) -> Option<String> {
        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
        let (depth, key) = (1..=path.len()).rev().find_map(|depth| {
            let wanted = &path[..depth];
            self.keys.iter().find(|key| key.path == wanted).map(|key| (depth, key))
        })?;
        let problem = match (&path[depth..], problem) {
            ([], problem) => problem,
            (rest, problem) => Problem::Whole(words(Some(&rest.join(".")), &problem)),
        };
        let place = self.line_and_column(key.value.start);
        Some(format!("{place}: {}", words(Some(&key.spelling), &problem)))
    }

    /// Returns `true` if the file has the key with this path.
    pub(super) fn has(&self, path: &[impl AsRef<str>]) -> bool {
        self.keys.iter().any(|key| key.path.iter().map(String::as_str).eq(path.iter().map(AsRef::as_ref)))
    }

    /// Forgets a key that a flag overrides.
    pub(super) fn forget(&mut self, path: &[&str]) {
        self.keys.retain(|key| key.path != path);
    }

    /// Returns the key whose name or value is at this offset, without the tables around it.
    fn innermost(&self, start: usize) -> Option<&KeyPlace> {
        let at = |key: &&KeyPlace| key.key.contains(&start) || key.value.contains(&start);
        self.keys.iter().filter(at).min_by_key(|key| match key.key.contains(&start) {
            true => key.key.len(),
            false => key.value.len(),
        })
    }

    /// Returns the key of the line at this offset, for a line that is not TOML.
    fn key_of_line(&self, start: usize) -> Option<String> {
        let before = self.text.get(..start)?.rfind('\n').map_or(0, |end| end + 1);
        let (key, _) = self.text.get(before..)?.lines().next()?.split_once('=')?;
        let is_key = |character: char| character.is_alphanumeric() || "-_.'\" ".contains(character);
        let key = key.trim();
        (!key.is_empty() && key.chars().all(is_key)).then(|| key.to_owned())
    }

    fn line_and_column(&self, start: usize) -> String {
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        format!("{line}:{column}")
    }
}

/// Returns the problem with the name of its key.
fn words(key: Option<&str>, problem: &Problem) -> String {
    let subject = key.map_or_else(|| "the value".to_owned(), |key| format!("`{key}`"));
    match problem {
        Problem::OfKey(problem) => format!("{subject} {problem}"),
        Problem::Type { found, expected } => format!("{subject} is {found}; write {expected}"),
        Problem::Whole(problem) if key.is_none() || problem.contains(&subject) => problem.clone(),
        Problem::Whole(problem) => format!("{subject}: {problem}"),
    }
}
