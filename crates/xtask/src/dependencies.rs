//! Check that every dependency has a line with its purpose in the table of `crates/README.md`.

use std::{collections::BTreeSet, fs, path::Path};

use toml::{Table, Value};

use crate::root;

/// Manifests of the repository's workspaces.
const WORKSPACES: [&str; 5] =
    ["Cargo.toml", "stubs/Cargo.toml", "tests/extism/Cargo.toml", "tests/fuzz/Cargo.toml", "tests/programs/Cargo.toml"];

fn manifest(file: &Path) -> Table {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the manifests of a workspace: its own, and those of its members.
fn manifests(workspace: &Path) -> Vec<Table> {
    let own = manifest(workspace);
    let folder = workspace.parent().expect("a manifest is in a folder");
    let members = own["workspace"]["members"].as_array().expect("members").iter().filter_map(Value::as_str);
    let mut all = Vec::new();
    for member in members {
        match member.strip_suffix("/*") {
            Some(parent) => {
                let folders = fs::read_dir(folder.join(parent)).expect("a folder").map(|entry| entry.expect("an entry").path());
                all.extend(
                    folders.map(|folder| folder.join("Cargo.toml")).filter(|file| file.is_file()).map(|file| manifest(&file)),
                );
            }
            None => all.push(manifest(&folder.join(member).join("Cargo.toml"))),
        }
    }
    all.push(own);
    all
}

/// Returns the external crates that a manifest depends on, including dev-dependencies,
/// build-dependencies and those of one platform.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    let targets =
        manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    let sections = [manifest].into_iter().chain(targets).chain(workspace);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections.flat_map(|section| kinds.map(|kind| section.get(kind).and_then(Value::as_table))).flatten();
    let named = tables.flatten().map(|(name, how)| how.get("package").and_then(Value::as_str).unwrap_or(name).to_owned());
    named.filter(|name| !name.starts_with("protostub-")).collect()
}

#[test]
fn every_dependency_has_a_reason() {
    let used: BTreeSet<_> =
        WORKSPACES.iter().flat_map(|file| manifests(&root().join(file))).flat_map(|one| dependencies(&one)).collect();
    assert!(used.contains("wasmtime") && used.contains("wit-bindgen") && used.contains("mqtt-protocol-core"), "{used:?}");

    let readme = fs::read_to_string(root().join("crates/README.md")).expect("crates/README.md");
    let (_, section) = readme.split_once("\n## Dependencies\n").expect("a section about dependencies");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<(&str, &str)> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")).collect();
    let names: Vec<_> = rows.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(names.is_sorted(), "the table is not in the order of the names");
    assert!(rows.iter().all(|(_, reason)| !reason.trim().is_empty()), "a row has no reason");

    let told: BTreeSet<_> = names.into_iter().collect();
    let without: Vec<_> = used.difference(&told).collect();
    let gone: Vec<_> = told.difference(&used).collect();
    assert!(without.is_empty() && gone.is_empty(), "crates/README.md: no reason for {without:?}; remove the unused {gone:?}");
}
