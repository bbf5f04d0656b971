//! Finds the tests of the repository in its sources, by their names.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Folders with tests, from the repository's root.
const SOURCES: [&str; 2] = ["crates", "tests"];

/// The tests of the repository.
#[derive(Debug)]
pub(crate) struct TestIndex(BTreeMap<String, Vec<Test>>);

/// A test in the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// Name of its function.
    pub(crate) name: String,
    /// File with the function, from the repository's root.
    pub(crate) file: PathBuf,
}

impl TestIndex {
    /// Reads all sources.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        for folder in SOURCES {
            collect(root, &root.join(folder), &mut found)?;
        }
        Ok(Self(found))
    }

    /// Returns the tests with this name. A module before the name has to be the name of their file,
    /// as in `faults::components`.
    pub(crate) fn find(&self, name: &str) -> Vec<&Test> {
        let (module, name) = name.rsplit_once("::").unwrap_or(("", name));
        let tests = self.0.get(name).into_iter().flatten();
        tests.filter(|test| module.is_empty() || test.file.file_stem().is_some_and(|stem| stem == module)).collect()
    }
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<Test>>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let file = path.strip_prefix(root).unwrap_or(&path);
            for name in tests_of(&text) {
                found.entry(name.to_owned()).or_default().push(Test { name: name.to_owned(), file: file.to_owned() });
            }
        }
    }
    Ok(())
}

/// Returns the functions behind `#[test]` and `#[tokio::test…]`, the attacks and the environments.
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

#[cfg(test)]
mod tests {
    use super::{TestIndex, tests_of};
    use crate::root;

    #[test]
    fn finds_tests_by_their_attributes() {
        let source = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test(flavor = \"multi_thread\")]\n#[ignore]\nasync fn three() {}\n    pub fn four() -> Attack {\n    pub fn five() -> Environment {";
        assert_eq!(tests_of(source).collect::<Vec<_>>(), ["one", "three", "four", "five"]);
    }

    #[test]
    fn finds_this_test_by_name_and_module() {
        let index = TestIndex::new(&root()).expect("the sources");
        let found = index.find("test_index::finds_this_test_by_name_and_module");
        assert_eq!(
            found.iter().map(|test| test.file.as_path()).collect::<Vec<_>>(),
            [std::path::Path::new("crates/xtask/src/test_index.rs")]
        );
        assert!(index.find("elsewhere::finds_this_test_by_name_and_module").is_empty());
    }
}
