//! Checks of unsafe code: it is denied in every package, and the exceptions are known. Also checks
//! that no source names a private interface of wasmtime.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Table;

use crate::root;

/// Files that permit unsafe code, from the repository's root, with the reasons.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("crates/protostub-sandbox/src/code_cache/sealed.rs", "loads native code after authentication"),
    ("crates/protostub-sdk/src/bindings.rs", "generated code, which runs in sandboxes"),
    ("crates/protostub-sdk/src/heap.rs", "the allocator of stubs, which runs in sandboxes"),
];
/// Packages that run in sandboxes only, and are ill-behaved on purpose or written by others.
const GUESTS: [&str; 2] = ["tests/extism/plugin", "tests/programs"];

/// Adds all files of this repository below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if entry.is_file() {
            found.push(entry);
        } else if !matches!(name, "target" | "node_modules")
            && !name.starts_with('.')
            && !GUESTS.iter().any(|guest| entry == root().join(guest))
        {
            files(&entry, found);
        }
    }
}

fn manifest(file: &Path) -> Table {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns `true` if a `lints` table, of a package or of a workspace, denies unsafe code.
fn denies(holder: &Table) -> bool {
    let level = holder.get("lints").and_then(|lints| lints.get("rust")?.get("unsafe_code")).and_then(|level| level.as_str());
    matches!(level, Some("deny" | "forbid"))
}

/// Returns `true` if a package denies unsafe code itself, or has its workspace's lints, which deny
/// it.
fn is_denied(file: &Path, package: &Table) -> bool {
    let inherits = package.get("lints").and_then(|lints| lints.get("workspace")?.as_bool()).unwrap_or_default();
    let workspace = file.ancestors().skip(1).map(|folder| folder.join("Cargo.toml")).filter(|file| file.is_file());
    let workspace = workspace.map(|file| manifest(&file)).find_map(|manifest| manifest.get("workspace")?.as_table().cloned());
    denies(package) || (inherits && workspace.is_some_and(|workspace| denies(&workspace)))
}

#[test]
fn unsafe_code_is_denied_in_every_package() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let manifests = all.iter().filter(|file| file.file_name().is_some_and(|name| name == "Cargo.toml"));
    let packages: Vec<_> =
        manifests.map(|file| (file, manifest(file))).filter(|(_, manifest)| manifest.contains_key("package")).collect();
    assert!(packages.len() > 15, "{} packages", packages.len());
    let without: Vec<_> = packages.iter().filter(|(file, package)| !is_denied(file, package)).map(|(file, _)| file).collect();
    assert!(without.is_empty(), "`unsafe_code` is not denied in {without:#?}");
}

#[test]
fn the_exceptions_are_known() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let lint = ["unsafe", "code"].join("_");
    let permits = |line: &str| {
        let permits = ["allow", "expect", "warn"].iter().any(|level| line.contains(&format!("{level}(")));
        line.contains(&lint) && permits
    };
    // The attribute can span several lines.
    let has_some = |text: &str| {
        let attributes = text.split("#").filter(|attribute| attribute.starts_with(['[', '!']));
        attributes.filter_map(|attribute| attribute.split(']').next()).any(permits)
    };
    let sources = all.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let mut found: Vec<_> = sources.filter(|file| has_some(&fs::read_to_string(file).expect("a source"))).collect();
    found.sort();
    let known: Vec<_> = EXCEPTIONS.iter().map(|(file, _)| root().join(file)).collect();
    assert_eq!(found, known.iter().collect::<Vec<_>>());
}

/// Wasmtime has a module of this name for the code that its macros generate. The module changes
/// without notice.
#[test]
fn sources_do_not_name_wasmtime_internals() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let private = ["__", "internal"].concat();
    let sources = all.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let found: Vec<_> = sources.filter(|file| fs::read_to_string(file).expect("a source").contains(&private)).collect();
    assert!(found.is_empty(), "`{private}` is named in {found:#?}");
}
