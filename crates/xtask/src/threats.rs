//! Every test exists that `SECURITY.md` names in the threat model and the table of resources, and
//! that `tests/README.md` names for the findings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::root;

/// Where tests are.
const SOURCES: [&str; 2] = ["crates", "tests"];

/// The tests of the repository, by their functions' names: the modules that have one of that name.
fn tests(folder: &Path, found: &mut BTreeMap<String, BTreeSet<String>>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() && entry.file_name().is_some_and(|name| name != "target") {
            tests(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).expect("a source");
            let module = entry.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            for name in tests_of(&text) {
                found.entry(name.to_owned()).or_default().insert(module.to_owned());
            }
        }
    }
}

/// The functions behind `#[test]` and `#[tokio::test…]`, the attacks and the environments.
fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().map(str::trim).filter_map(move |line| {
        let of_table = line.strip_prefix("pub fn ").and_then(|line| line.split_once("() -> "));
        if let Some((name, "Attack {" | "Environment {")) = of_table {
            return Some(name);
        }
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let (before, after) = line.split_once("fn ").filter(|_| is_test && !line.starts_with(['#', '/']))?;
        is_test = false;
        before.chars().all(|c| c.is_ascii_lowercase() || c == ' ').then(|| after.split(['(', '<']).next()).flatten()
    })
}

/// The rows of the threat model: the threat, and the tests that it names.
fn rows(document: &str) -> Vec<(&str, Vec<&str>)> {
    let (_, model) = document.split_once("\n## Threat model\n").expect("a threat model");
    let model = model.split("\n## ").next().unwrap_or_default();
    let cells = model.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|cells| cells.split(" | ").collect::<Vec<_>>()).filter(|cells| !cells[0].starts_with(['-', 't']));
    rows.map(|cells| match cells[..] {
        [threat, _defence, shown_by] => (threat, names(shown_by)),
        _ => panic!("a row of another number of columns: {cells:?}"),
    })
    .collect()
}

/// The rows of the table below a heading, without the head of the table, as cells.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(2).map(|cells| cells.split(" | ").map(str::trim).collect()).collect()
}

/// The names between backquotes in a cell.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// All tests of the repository.
fn all_tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for folder in SOURCES {
        tests(&root().join(folder), &mut found);
    }
    assert!(found.contains_key("every_threat_names_tests_that_exist"), "the search does not find this file");
    found
}

/// Returns `true` if the repository has this test. A module before its name has to match too.
fn exists(found: &BTreeMap<String, BTreeSet<String>>, test: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
    found.get(name).is_some_and(|modules| module.is_empty() || modules.contains(module))
}

#[test]
fn resources_have_no_blanks_and_name_existing_tests() {
    let found = all_tests();
    let document = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let rows = table(&document, "\n## Resources\n");
    assert!(rows.len() > 20, "{} rows", rows.len());
    for cells in rows {
        assert_eq!(cells.len(), 7, "a row of another number of columns: {cells:?}");
        let blank = cells.iter().position(|cell| cell.is_empty() || matches!(*cell, "-" | "–" | "—" | "none"));
        assert_eq!(blank, None, "a blank cell: {cells:?}");
        let missing: Vec<_> = names(cells[6]).into_iter().filter(|test| !exists(&found, test)).collect();
        assert!(!names(cells[6]).is_empty() && missing.is_empty(), "{cells:?} names no tests, or others: {missing:?}");
    }
}

#[test]
fn findings_name_existing_tests() {
    let found = all_tests();
    let document = fs::read_to_string(root().join("tests/README.md")).expect("tests/README.md");
    let rows = table(&document, "\n## Hostile input: findings and their tests\n");
    assert!(rows.len() > 10, "{} rows", rows.len());
    for cells in rows {
        assert_eq!(cells.len(), 3, "a row of another number of columns: {cells:?}");
        let missing: Vec<_> = names(cells[1]).into_iter().filter(|test| !exists(&found, test)).collect();
        assert!(!names(cells[1]).is_empty() && missing.is_empty(), "{cells:?} names no tests, or others: {missing:?}");
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let found = all_tests();
    let document = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let rows = rows(&document);
    assert!(rows.len() > 30, "{} rows", rows.len());
    let mut missing = Vec::new();
    for (threat, tests) in rows {
        assert!(!tests.is_empty(), "no test shows the defence against: {threat}");
        missing.extend(tests.into_iter().filter(|test| !exists(&found, test)));
    }
    assert!(missing.is_empty(), "SECURITY.md names tests that there are not: {missing:#?}");
}

#[test]
fn finds_tests_by_their_attributes() {
    let source = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test(flavor = \"multi_thread\")]\n#[ignore]\nasync fn three() {}\n    pub fn four() -> Attack {\n    pub fn five() -> Environment {";
    assert_eq!(tests_of(source).collect::<Vec<_>>(), ["one", "three", "four", "five"]);
}
