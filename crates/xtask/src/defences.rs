//! Takes each defence of the host out of a copy of the sources, and requires that its tests fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{
    cargo, guests, patience,
    test_index::{Test, TestIndex},
    toolchain,
};

pub(crate) const HELP: &str = "\
usage: cargo xtask defences [--list | --check] [<text>...]

Shows that the tests of the defences are no accident. tests/defences.toml names each defence, its tests, and a patch that takes the defence out of
the sources. The command copies the sources to target/defences/source, and builds them in target/defences/target. It runs the tests, which have to
pass. Then it applies one patch after the other, and runs the tests of each, which have to fail. A defence is

  caught    every one of its tests fails
  ESCAPED   a test passes without the defence
  BROKEN    the sources do not compile with the patch, or a test is missing

The last line is `N caught, N escaped, N broken, N not covered`: defences without a patch are not covered. The first run compiles everything, and
all defences take an hour or more.

  <text>    only the defences with one of these texts in them, in the names of their tests or of their files
  --list    prints the defences, and runs nothing
  --check   checks that each patch applies exactly once and that each test exists, and runs nothing
";

/// File with the defences, from the repository's root.
const DEFENCES: &str = "tests/defences.toml";
/// Folder of the copy and of its build, from the repository's root.
const FOLDER: &str = "target/defences";
/// Time limit of a build: the first one compiles wasmtime.
const BUILDING: Duration = Duration::from_secs(60 * 60);
/// Time limit of one test without its defence. A test that hangs has failed.
const TESTING: Duration = Duration::from_secs(3 * 60);
/// Packages below the sandbox. Each is built alone, in seconds. The others are built with the whole
/// workspace, so that wasmtime is compiled once, with one set of features.
const BELOW_SANDBOX: [&str; 8] = [
    "protostub-bus",
    "protostub-catalogue",
    "protostub-domain",
    "protostub-egress",
    "protostub-files",
    "protostub-policy",
    "protostub-transport",
    "protostub-types",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defences {
    #[serde(rename = "defence")]
    all: Vec<Defence>,
}

/// A defence, and the tests that fail without it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defence {
    defence: String,
    tests: Vec<String>,
    /// Remark about the failure of a test.
    note: Option<String>,
    #[serde(default, rename = "patch")]
    patches: Vec<Patch>,
}

/// A change of a source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    /// From the repository's root.
    file: PathBuf,
    /// Stands exactly once in the file.
    find: String,
    replace: String,
}

/// A test binary of a package: `lib` for the unit tests, or the name of an integration test.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Binary {
    package: String,
    target: String,
}

/// A test, and the binary that runs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Located {
    binary: Binary,
    /// Module of the test, or nothing if its name alone has to do.
    module: String,
    name: String,
}

/// The result of the tests of one defence.
enum DefenceOutcome {
    Caught,
    Escaped(Vec<String>),
    Broken(String),
}

pub(crate) fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let (flags, texts): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| arg.starts_with('-'));
    let defences = read(root)?;
    let index = TestIndex::new(root)?;
    let chosen: Vec<_> = defences.all.iter().filter(|defence| defence.is_meant(&texts)).collect();
    if chosen.is_empty() {
        bail!("no defence has `{}` in it; `cargo xtask defences --list` prints them", texts.join("` or `"));
    }
    match flags[..] {
        [] => {}
        ["--list"] => {
            chosen.iter().for_each(|defence| println!("{}", defence.line()));
            return Ok(ExitCode::SUCCESS);
        }
        ["--check"] => {
            let problems: Vec<_> = chosen.iter().flat_map(|defence| defence.problems(root, &index)).collect();
            problems.iter().for_each(|problem| println!("{problem}"));
            println!("{} defences, {} problems", chosen.len(), problems.len());
            return Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        [flag, ..] => bail!("unknown argument `{flag}`; see --help"),
    }
    toolchain::require_target(guests::TARGET)?;
    let (covered, rest): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|defence| !defence.patches.is_empty());
    let copy_of_sources = PatchedCopy::new(root)?;
    if !covered.is_empty() {
        println!("Building, and running the tests with all defences.");
        copy_of_sources.require_passing(&covered, &index)?;
    }
    let (mut caught, mut escaped, mut broken) = (0, 0, 0);
    for defence in covered {
        let began = Instant::now();
        let outcome = copy_of_sources.without(defence, &index)?;
        let seconds = began.elapsed().as_secs();
        match outcome {
            DefenceOutcome::Caught => {
                caught += 1;
                println!("caught   {} ({seconds} s)", defence.defence);
            }
            DefenceOutcome::Escaped(tests) => {
                escaped += 1;
                println!("ESCAPED  {} ({seconds} s): passes: {}", defence.defence, tests.join(", "));
            }
            DefenceOutcome::Broken(problem) => {
                broken += 1;
                println!("BROKEN   {} ({seconds} s): {problem}", defence.defence);
            }
        }
    }
    println!();
    rest.iter().for_each(|defence| println!("not covered: {}", defence.defence));
    println!("{caught} caught, {escaped} escaped, {broken} broken, {} not covered", rest.len());
    Ok(if escaped + broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(root: &Path) -> Result<Defences> {
    let text = fs::read_to_string(root.join(DEFENCES)).with_context(|| format!("reading {DEFENCES}"))?;
    toml::from_str(&text).with_context(|| format!("reading {DEFENCES}"))
}

impl Defence {
    fn is_meant(&self, texts: &[&str]) -> bool {
        let files = self.patches.iter().map(|patch| patch.file.to_string_lossy().into_owned());
        let own: Vec<_> = [self.defence.clone()].into_iter().chain(self.tests.iter().cloned()).chain(files).collect();
        texts.is_empty() || texts.iter().any(|text| own.iter().any(|own| own.contains(text)))
    }

    fn line(&self) -> String {
        let covered = if self.patches.is_empty() { "not covered" } else { "covered" };
        let note = self.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        format!("{covered:<12} {}: {}{note}", self.defence, self.tests.join(", "))
    }

    /// Returns the faults of the patches and of the names of the tests.
    fn problems(&self, root: &Path, index: &TestIndex) -> Vec<String> {
        let of_patches = self.patches.iter().filter_map(|patch| patch.apply(root).err());
        let of_tests = self.tests.iter().filter_map(|test| match index.find(test)[..] {
            [] => Some(anyhow::anyhow!("no test is called `{test}`")),
            [_, _, ..] if !self.patches.is_empty() => Some(anyhow::anyhow!("several tests are called `{test}`: name the module")),
            _ => None,
        });
        let none = self.tests.is_empty().then(|| anyhow::anyhow!("no test is named"));
        of_patches.chain(of_tests).chain(none).map(|problem| format!("{}: {problem:#}", self.defence)).collect()
    }

    fn located(&self, index: &TestIndex) -> Result<Vec<Located>> {
        let locate = |name: &String| match index.find(name)[..] {
            [test] => locate(test).with_context(|| format!("{} is in no test binary", test.file.display())),
            _ => bail!("`{name}` is not the name of one test"),
        };
        self.tests.iter().map(locate).collect()
    }
}

impl Patch {
    /// Returns the file's text with the change.
    fn apply(&self, root: &Path) -> Result<String> {
        let file = self.file.display();
        let text = fs::read_to_string(root.join(&self.file)).with_context(|| format!("reading {file}"))?;
        let count = text.matches(&self.find).count();
        ensure!(count == 1, "the patch has to apply once to {file}, and `{}` is there {count} times", self.find.trim());
        Ok(text.replace(&self.find, &self.replace))
    }
}

/// Finds the binary of a test, by the place of its file.
fn locate(test: &Test) -> Option<Located> {
    let parts: Vec<&str> = test.file.iter().filter_map(OsStr::to_str).collect();
    let stem = test.file.file_stem()?.to_str()?;
    let binary = |package: &str, target: &str| Binary { package: package.to_owned(), target: target.to_owned() };
    let (binary, module) = match parts[..] {
        ["tests", "hostile", "attacks.rs"] => (binary("tests", "it"), "hostile"),
        ["tests", "hostile", "environment", ..] => (binary("tests", "it"), "environment"),
        ["tests", target @ ("it" | "costs"), ..] => (binary("tests", target), stem),
        ["crates", package, "tests", target, ..] => (binary(package, target), stem),
        ["crates", package, "src", ..] => (binary(package, "lib"), ""),
        _ => return None,
    };
    Some(Located { binary, module: module.to_owned(), name: test.name.clone() })
}

impl Located {
    /// Returns `true` if libtest means this test by a name.
    fn is(&self, path: &str) -> bool {
        let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
        name == self.name && (self.module.is_empty() || module.split("::").any(|part| part == self.module))
    }
}

/// A copy of the sources, in which defences are taken out.
struct PatchedCopy {
    root: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

impl PatchedCopy {
    /// Brings the copy up to date. Files that have not changed keep their time, so that cargo
    /// rebuilds little.
    fn new(root: &Path) -> Result<Self> {
        let folder = root.join(FOLDER);
        let (source, target) = (folder.join("source"), folder.join("target"));
        copy(root, &source).context("copying the sources")?;
        Ok(Self { root: root.to_owned(), source, target })
    }

    /// Checks that the tests pass while nothing is taken out.
    fn require_passing(&self, defences: &[&Defence], index: &TestIndex) -> Result<()> {
        let mut tests = BTreeSet::new();
        for defence in defences {
            tests.extend(defence.located(index)?);
        }
        let failed = self.failed(&tests)?;
        let names: Vec<_> = failed.iter().map(|test| test.name.as_str()).collect();
        ensure!(failed.is_empty(), "tests fail with all defences in place: {}", names.join(", "));
        Ok(())
    }

    /// Runs the tests of a defence without it. The copy is whole again afterwards.
    fn without(&self, defence: &Defence, index: &TestIndex) -> Result<DefenceOutcome> {
        let tests: BTreeSet<_> = defence.located(index)?.into_iter().collect();
        let mut outcome = None;
        for patch in &defence.patches {
            match patch.apply(&self.source) {
                Ok(text) => fs::write(self.source.join(&patch.file), text)?,
                Err(problem) => outcome = Some(DefenceOutcome::Broken(format!("{problem:#}"))),
            }
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => match self.failed(&tests) {
                Err(problem) => DefenceOutcome::Broken(format!("{problem:#}")),
                Ok(failed) if failed.len() == tests.len() => DefenceOutcome::Caught,
                Ok(failed) => DefenceOutcome::Escaped(tests.difference(&failed).map(|test| test.name.clone()).collect()),
            },
        };
        for patch in &defence.patches {
            fs::copy(self.root.join(&patch.file), self.source.join(&patch.file))?;
        }
        Ok(outcome)
    }

    /// Builds and runs tests, and returns those that fail.
    fn failed(&self, tests: &BTreeSet<Located>) -> Result<BTreeSet<Located>> {
        let mut failed = BTreeSet::new();
        let mut packages: BTreeMap<Option<&str>, BTreeSet<&Binary>> = BTreeMap::new();
        for Located { binary, .. } in tests {
            let alone = BELOW_SANDBOX.contains(&binary.package.as_str()).then_some(binary.package.as_str());
            packages.entry(alone).or_default().insert(binary);
        }
        for (package, binaries) in packages {
            let built = self.build(package, &binaries)?;
            for binary in binaries {
                let own: Vec<_> = tests.iter().filter(|test| test.binary == *binary).collect();
                let program = built.get(binary).with_context(|| format!("cargo built no tests {binary:?}"))?;
                failed.extend(self.failed_of(program, &own)?);
            }
        }
        Ok(failed)
    }

    /// Builds test binaries: of one package alone, or with the whole workspace.
    fn build(&self, package: Option<&str>, binaries: &BTreeSet<&Binary>) -> Result<BTreeMap<Binary, Program>> {
        let mut command = cargo(&self.source);
        command.env("CARGO_TARGET_DIR", &self.target).env("CARGO_PROFILE_DEV_DEBUG", "none");
        command.args(["test", "--quiet", "--no-run", "--message-format", "json-render-diagnostics"]);
        match package {
            Some(package) => command.args(["--package", package]),
            None => command.arg("--workspace"),
        };
        let targets: BTreeSet<_> = binaries.iter().map(|binary| binary.target.as_str()).collect();
        for target in targets {
            match target {
                "lib" => command.arg("--lib"),
                target => command.args(["--test", target]),
            };
        }
        // The output of a build with a patch is long, and of no use to a reader.
        let (status, printed) = patience::output(command.stderr(Stdio::null()), BUILDING)?;
        ensure!(status.success(), "the sources do not compile");
        let lines = String::from_utf8(printed).context("reading cargo's messages")?;
        Ok(lines.lines().filter_map(program).collect())
    }

    /// Runs tests of one binary, and returns those that fail.
    fn failed_of(&self, program: &Program, tests: &[&Located]) -> Result<Vec<Located>> {
        let run = |args: &[&str], patience| {
            let mut command = Command::new(&program.executable);
            command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder).args(args);
            patience::output(command.stdin(Stdio::null()).stderr(Stdio::null()), patience)
        };
        let (_, listed) = run(&["--list", "--format", "terse"], TESTING)?;
        let listed = String::from_utf8_lossy(&listed);
        let paths: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        let mut failed = Vec::new();
        for test in tests {
            let path = paths.iter().find(|path| test.is(path)).with_context(|| format!("no test `{}` is there", test.name))?;
            // A test that does not end in time is killed, and has failed.
            let passed = run(&["--exact", path], TESTING).is_ok_and(|(status, _)| status.success());
            if !passed {
                failed.push((*test).clone());
            }
        }
        Ok(failed)
    }
}

/// A test binary that cargo built.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    executable: PathBuf,
    /// Folder of its package, in which its tests run.
    folder: PathBuf,
}

/// Reads a message of cargo, if it names a test binary.
fn program(line: &str) -> Option<(Binary, Program)> {
    #[derive(Deserialize)]
    struct Artifact {
        manifest_path: PathBuf,
        target: Target,
        profile: Profile,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let artifact: Artifact = serde_json::from_str(line).ok()?;
    let executable = artifact.executable.filter(|_| artifact.profile.test)?;
    let folder = artifact.manifest_path.parent()?.to_owned();
    let package = folder.file_name()?.to_str()?.to_owned();
    let target = if artifact.target.kind.iter().any(|kind| kind == "lib") { "lib".to_owned() } else { artifact.target.name };
    Some((Binary { package, target }, Program { executable, folder }))
}

/// Makes a folder a copy of another one. Leaves out hidden files and those that a build makes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let is_source = |name: &OsStr| {
        let name = name.to_string_lossy();
        !matches!(&*name, "target" | "node_modules") && (!name.starts_with('.') || name == ".cargo")
    };
    let mut wanted = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_source(&name) {
            continue;
        }
        let path = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &path)?;
        } else if fs::read(&path).ok() != Some(fs::read(entry.path())?) {
            fs::copy(entry.path(), &path)?;
        }
        wanted.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_source(&name) && !wanted.contains(&name) {
            let path = entry.path();
            if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Patch, Test, copy, locate, program, read};
    use crate::{root, test_index::TestIndex};

    #[test]
    fn patches_apply_and_tests_exist() {
        let (root, index) = (root(), TestIndex::new(&root()).expect("the sources"));
        let defences = read(&root).expect("the defences").all;
        let covered = defences.iter().filter(|defence| !defence.patches.is_empty()).count();
        assert!(defences.len() > 100 && covered >= 50, "{covered} of {} defences are covered", defences.len());
        let problems: Vec<_> = defences.iter().flat_map(|defence| defence.problems(&root, &index)).collect();
        assert!(problems.is_empty(), "{problems:#?}");
        for defence in defences.iter().filter(|defence| !defence.patches.is_empty()) {
            defence.located(&index).expect("each test has a binary");
        }
    }

    #[test]
    fn patch_that_applies_twice_is_a_problem() {
        let patch = |find: &str| Patch { file: "Cargo.toml".into(), find: find.into(), replace: String::new() };
        let error = patch("tests/bench\"").apply(&root()).expect("once");
        assert!(!error.contains("tests/bench\""));
        let error = patch("version").apply(&root()).expect_err("more than once").to_string();
        assert!(error.starts_with("the patch has to apply once to Cargo.toml, and `version` is there"), "{error}");
    }

    #[test]
    fn tests_are_located_by_their_files() {
        let check = |file: &str, expected: (&str, &str), path: &str| {
            let located = locate(&Test { name: "spins".into(), file: file.into() }).expect("a place");
            assert_eq!((located.binary.package.as_str(), located.binary.target.as_str()), expected);
            assert!(located.is(path), "{located:?} {path}");
            assert!(!located.is("other::spins_too"), "{located:?}");
        };
        check("tests/hostile/attacks.rs", ("tests", "it"), "hostile::spins");
        check("tests/it/limits.rs", ("tests", "it"), "limits::spins");
        check("crates/protostub-egress/tests/it/http.rs", ("protostub-egress", "it"), "http::spins");
        check("crates/protostub-egress/src/quota.rs", ("protostub-egress", "lib"), "quota::tests::spins");
        assert_eq!(locate(&Test { name: "spins".into(), file: "tests/fuzz/src/lib.rs".into() }), None);
    }

    #[test]
    fn cargo_names_the_test_binaries() {
        let line = |kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/crates/protostub-bus/Cargo.toml","target":{{"name":"it","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"/r/t/it-1"}}"#
            )
        };
        let (binary, built) = program(&line("test", true)).expect("a binary");
        assert_eq!((binary.package.as_str(), binary.target.as_str()), ("protostub-bus", "it"));
        assert_eq!(built.executable, std::path::Path::new("/r/t/it-1"));
        assert_eq!(program(&line("lib", true)).expect("a binary").0.target, "lib");
        assert_eq!(program(&line("bin", false)), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn copy_follows_changes_and_keeps_the_build() {
        let folder = std::env::temp_dir().join(format!("xtask-defences-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to"));
        fs::create_dir_all(from.join("src")).expect("a folder");
        fs::create_dir_all(from.join("target")).expect("a folder");
        fs::write(from.join("src/lib.rs"), "one").expect("written");
        fs::write(from.join("old.rs"), "old").expect("written");
        copy(&from, &to).expect("a copy");
        fs::create_dir_all(to.join("target")).expect("a folder");
        fs::remove_file(from.join("old.rs")).expect("removed");
        fs::write(from.join("src/lib.rs"), "two").expect("written");
        copy(&from, &to).expect("a copy");
        assert_eq!(fs::read_to_string(to.join("src/lib.rs")).expect("a file"), "two");
        assert!(to.join("target").is_dir() && !to.join("old.rs").exists());
        fs::remove_dir_all(folder).expect("removed");
    }
}
