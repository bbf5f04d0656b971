//! Every test exists that `SECURITY.md` names in the threat model and the table of resources, and
//! that `tests/README.md` names for the findings.

use std::fs;

use crate::{root, test_index::TestIndex};

/// Returns the rows of the threat model: each threat with its tests.
fn rows(document: &str) -> Vec<(&str, Vec<&str>)> {
    let (_, model) = document.split_once("\n## Threat model\n").expect("a threat model");
    let model = model.split("\n## ").next().unwrap_or_default();
    let cells = model.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|cells| cells.split(" | ").collect::<Vec<_>>()).filter(|cells| !cells[0].starts_with(['-', 't']));
    rows.map(|cells| match cells[..] {
        [threat, _defence, shown_by] => (threat, names(shown_by)),
        _ => panic!("a row with the wrong number of columns: {cells:?}"),
    })
    .collect()
}

/// Returns the cells of the table below a heading, without the table's head.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(2).map(|cells| cells.split(" | ").map(str::trim).collect()).collect()
}

/// Returns the names between backquotes in a cell.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn resources_have_no_blanks_and_name_existing_tests() {
    let found = TestIndex::new(&root()).expect("the sources");
    let document = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let rows = table(&document, "\n## Resources\n");
    assert!(rows.len() > 20, "{} rows", rows.len());
    for cells in rows {
        assert_eq!(cells.len(), 7, "a row with the wrong number of columns: {cells:?}");
        let blank = cells.iter().position(|cell| cell.is_empty() || matches!(*cell, "-" | "–" | "—" | "none"));
        assert_eq!(blank, None, "a blank cell: {cells:?}");
        let missing: Vec<_> = names(cells[6]).into_iter().filter(|test| found.find(test).is_empty()).collect();
        assert!(!names(cells[6]).is_empty() && missing.is_empty(), "{cells:?} names no tests, or unknown ones: {missing:?}");
    }
}

#[test]
fn findings_name_existing_tests() {
    let found = TestIndex::new(&root()).expect("the sources");
    let document = fs::read_to_string(root().join("tests/README.md")).expect("tests/README.md");
    let rows = table(&document, "\n## Hostile input: findings and their tests\n");
    assert!(rows.len() > 10, "{} rows", rows.len());
    for cells in rows {
        assert_eq!(cells.len(), 3, "a row with the wrong number of columns: {cells:?}");
        let missing: Vec<_> = names(cells[1]).into_iter().filter(|test| found.find(test).is_empty()).collect();
        assert!(!names(cells[1]).is_empty() && missing.is_empty(), "{cells:?} names no tests, or unknown ones: {missing:?}");
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let found = TestIndex::new(&root()).expect("the sources");
    let document = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let rows = rows(&document);
    assert!(rows.len() > 30, "{} rows", rows.len());
    let mut missing = Vec::new();
    for (threat, tests) in rows {
        assert!(!tests.is_empty(), "no test shows the defence against: {threat}");
        missing.extend(tests.into_iter().filter(|test| found.find(test).is_empty()));
    }
    assert!(missing.is_empty(), "SECURITY.md names unknown tests: {missing:#?}");
}

#[test]
fn security_document_names_the_supported_version() {
    let document = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    let package = &manifest["workspace"]["package"];
    let version = package["version"].as_str().expect("a version");
    let minor = version.rsplit_once('.').expect("three numbers").0;
    let versions = table(&document, "\n## Supported versions\n");
    assert!(versions.iter().any(|cells| names(cells[0]) == [minor]), "{minor}: {versions:?}");
    let (_, reporting) = document.split_once("\n## Reporting\n").expect("a way to report");
    let reporting = reporting.split("\n## ").next().unwrap_or_default();
    // The only address is that of the manifests.
    assert_eq!(reporting.matches("://").count(), 1, "{reporting}");
    assert!(reporting.contains(package["repository"].as_str().expect("a URL")), "{reporting}");
}
