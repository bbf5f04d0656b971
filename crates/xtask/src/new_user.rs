//! Does what the READMEs say, as somebody would who has just cloned the repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian, guests, must,
    patience::{output, wait},
    readme::{self, Step},
    toolchain,
};

pub(crate) const HELP: &str = "\
usage: cargo xtask new-user [--clone] [<file>...]

Runs every command of every README (or of the files that are named), word for word and in order, with an empty home: a stub is written as the author's
guide says, built, inspected, served, deployed, and answers. What the READMEs show as output has to come out.

  --clone   in a clone of the last commit, in an empty folder, with nothing built before: ten minutes or more

In a README, `sh` is a block of commands, `sh background` a command that goes on in another terminal until the README ends, `sh install` what fetches
a toolchain from the network (if it cannot, what follows in this README is skipped), and `output` what has to be among what the commands before it
print. The port 8080 becomes a free one. The last line is `N passed, N failed, N skipped`; a README is one.
";

/// How long a block may take. Some of them compile everything; in CI that was done before.
fn patience() -> Duration {
    Duration::from_secs(60 * if env::var_os("CI").is_some() { 10 } else { 30 })
}
/// How long a program may take to end after Ctrl-C.
const GOODBYE: Duration = Duration::from_secs(20);

const CONFORMANCE: &str = "the stage `conformance` of `cargo xtask test`";

/// Commands that are run, but not here.
const ELSEWHERE: [(&str, &str); 8] = [
    ("cargo xtask test", "this is a part of it"),
    ("cargo xtask new-user", "this is it"),
    ("cargo xtask structure", "the stage `structure` of `cargo xtask test`"),
    ("cargo xtask conformance", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-python.wasm", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-js.wasm", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-c.wasm", CONFORMANCE),
    ("cargo test --workspace", "the stage `test` of `cargo xtask test`"),
];

/// Commands of running text that nobody runs.
const NOT_RUN: [(&str, &str); 9] = [
    ("--open", "it opens a browser on what the stage `doc` has built"),
    ("INSTA_UPDATE", "it rewrites what tests compare with"),
    ("wit freeze", "it records a release"),
    ("xtask bench", "it takes minutes, and builds everything once more for release"),
    ("xtask defences", "it takes an hour or more, and builds everything once more for each defence"),
    ("xtask torture", "it takes a quarter of an hour"),
    ("xtask soak", "it takes twenty minutes"),
    ("cargo xtask fuzz", "it takes minutes for each target, and a nightly Rust"),
    ("compile-worker", "a runtime calls it by itself"),
];

/// What READMEs need of Debian's packages.
const NEEDS: [(&str, debian::Programs<'_>); 1] = [("stubs/echo-c/README.md", debian::CLANG)];

/// READMEs that were followed in this process before, and what came of it: what they build takes long.
static FOLLOWED: Mutex<BTreeMap<PathBuf, Outcome>> = Mutex::new(BTreeMap::new());

/// What lives in the home of whoever runs this, and is no part of being new.
const TOOLCHAINS: [(&str, &str); 5] = [
    ("CARGO_HOME", ".cargo"),
    ("RUSTUP_HOME", ".rustup"),
    ("PYENV_ROOT", ".pyenv"),
    ("PIP_CACHE_DIR", ".cache/pip"),
    ("npm_config_cache", ".npm"),
];

/// How many READMEs could be followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    skipped: u64,
}

pub(crate) fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let (clone, files) = match args {
        ["--clone", files @ ..] => (true, files),
        files => (false, files),
    };
    if clone {
        return in_a_clone(root, files);
    }
    let followed = follow_all(root, files)?;
    let Followed { passed, failed, skipped } = followed;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same in a clone, where nothing was built before.
fn in_a_clone(root: &Path, files: &[&str]) -> Result<ExitCode> {
    let folder = Folder::new()?;
    let clone = folder.0.join("protostub");
    must(Command::new("git").arg("clone").arg("--quiet").arg(root).arg(&clone))?;
    println!("In a clone of the last commit, in {}.", clone.display());
    let mut command = crate::cargo(&clone);
    command.args(["xtask", "new-user"]).args(files);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    Ok(if command.status().context("starting cargo in the clone")?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An empty folder outside the repository, since cargo looks for a workspace in all folders above. It goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let folder =
            (0..u32::MAX).map(|number| env::temp_dir().join(format!("protostub-new-user-{}-{number}", std::process::id())));
        for folder in folder {
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("making the folder {}", folder.display())),
            }
        }
        bail!("{} is full of folders of this program", env::temp_dir().display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            println!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// What git knows of, and what it would if it were asked to add everything.
fn repository_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let output = command.stderr(Stdio::inherit()).output().context("starting git")?;
    if !output.status.success() {
        bail!("git cannot tell which files belong to the repository");
    }
    let names = String::from_utf8(output.stdout).context("reading the names of the repository's files")?;
    // A file that was deleted is still listed until that is committed.
    Ok(names.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect())
}

/// Follows the READMEs, and checks that running text names no command that none of them runs.
pub(crate) fn follow_all(root: &Path, files: &[&str]) -> Result<Followed> {
    toolchain::require_target(guests::TARGET)?;
    debian::packages(debian::MOSQUITTO)?;
    let all = readmes(root)?;
    if let Some(unknown) = files.iter().find(|file| !all.iter().any(|readme| readme == Path::new(file))) {
        bail!(
            "{unknown} is not one of the READMEs: {}",
            all.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>().join(", ")
        );
    }
    let texts = all.iter().map(|file| fs::read_to_string(root.join(file)).with_context(|| format!("reading {}", file.display())));
    let texts = all.iter().zip(texts.collect::<Result<Vec<_>>>()?).collect::<Vec<_>>();

    let mut followed = Followed::default();
    for (file, text) in &texts {
        if !files.is_empty() && !files.iter().any(|wanted| Path::new(wanted) == *file) {
            continue;
        }
        if readme::steps(text).is_empty() {
            continue;
        }
        println!("\n--- {}", file.display());
        match follow_once(root, file, text) {
            Ok(Outcome::Followed) => followed.passed += 1,
            Ok(Outcome::Skipped(why)) => {
                println!("skipped: {why}");
                followed.skipped += 1;
            }
            Err(error) => {
                println!("error: {}: {error:#}", file.display());
                followed.failed += 1;
            }
        }
    }
    let strangers = strangers(texts.iter().map(|(file, text)| (file.as_path(), text.as_str())));
    for stranger in &strangers {
        println!("error: {stranger}");
    }
    followed.failed += u64::from(!strangers.is_empty());
    Ok(followed)
}

/// All Markdown that tells people what to do: paths from the root.
fn readmes(root: &Path) -> Result<Vec<PathBuf>> {
    let is_markdown = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "md");
    let mut files: Vec<_> = repository_files(root)?.into_iter().filter(is_markdown).collect();
    // The first page first: what it builds, others use.
    files.sort_by_key(|file| (file.components().count(), file.clone()));
    files.sort_by_key(|file| file != Path::new("README.md"));
    Ok(files)
}

/// Commands in running text that no block has, and that are not known to be run elsewhere.
fn strangers<'a>(texts: impl Iterator<Item = (&'a Path, &'a str)> + Clone) -> Vec<String> {
    let mut typed = BTreeSet::new();
    for (_, text) in texts.clone() {
        for step in readme::steps(text) {
            if let Step::Commands { text, .. } | Step::Background { text, .. } | Step::Install { text, .. } = step {
                typed.extend(text.lines().map(str::to_owned));
            }
        }
    }
    let is_run = |command: &str| {
        typed.iter().any(|line| line.contains(command))
            || ELSEWHERE.iter().any(|(elsewhere, _)| command.starts_with(elsewhere))
            || NOT_RUN.iter().any(|(mark, _)| command.contains(mark))
    };
    let mut strangers = Vec::new();
    for (file, text) in texts {
        let unknown = readme::inline_commands(text).into_iter().filter(|(_, command)| !is_run(command));
        strangers
            .extend(unknown.map(|(line, command)| format!("{}:{line}: no block of a README runs `{command}`", file.display())));
    }
    strangers
}

/// What came of following a README.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Followed,
    /// What it needs is not here, and why.
    Skipped(String),
}

/// Follows the README of a stub in another language, which builds it.
pub(crate) fn build_as_told(root: &Path, stub: &str) -> Result<Outcome> {
    let file = Path::new("stubs").join(stub).join("README.md");
    let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
    follow_once(root, &file, &text).with_context(|| file.display().to_string())
}

/// Follows one README, unless that was done before.
fn follow_once(root: &Path, file: &Path, text: &str) -> Result<Outcome> {
    let followed = || FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(outcome) = followed().get(file) {
        println!("It was followed before.");
        return Ok(outcome.clone());
    }
    let needs = NEEDS.iter().filter(|(needy, _)| Path::new(needy) == file).map(|(_, programs)| debian::packages(programs));
    let outcome = match needs.collect() {
        Ok(()) => follow(root, &readme::steps(text))?,
        Err(error) => Outcome::Skipped(format!("{error:#}")),
    };
    followed().insert(file.to_owned(), outcome.clone());
    Ok(outcome)
}

/// Follows one README. What it left running is ended with it.
fn follow(root: &Path, steps: &[Step]) -> Result<Outcome> {
    let reader = Reader::new(root)?;
    let mut running = Vec::new();
    let mut printed = String::new();
    for step in steps {
        match step {
            Step::Commands { line, text } => {
                printed = reader.run(text).with_context(|| format!("the commands of line {line}"))?;
            }
            Step::Background { line, text } => {
                running.push(reader.start(text).with_context(|| format!("the command of line {line}"))?);
            }
            Step::Install { line, text } => {
                if let Err(error) = reader.run(text) {
                    return Ok(Outcome::Skipped(format!("what line {line} installs cannot be had here: {error:#}")));
                }
            }
            Step::Output { line, text } => {
                let expected = reader.with_port(text);
                let found = expected.lines().try_fold(printed.as_str(), |rest, line| Some(rest.split_once(line.trim())?.1));
                if found.is_none() {
                    bail!("line {line} shows\n{expected}and what came was\n{printed}");
                }
            }
        }
    }
    for program in running {
        program.stop()?;
    }
    Ok(Outcome::Followed)
}

/// Somebody with an empty home and a terminal in the repository's root.
struct Reader {
    root: PathBuf,
    home: Folder,
    port: u16,
}

impl Reader {
    fn new(root: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("looking for a free port")?
            .port();
        Ok(Self { root: root.to_owned(), home: Folder::new()?, port })
    }

    fn with_port(&self, text: &str) -> String {
        text.replace("8080", &self.port.to_string())
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail", "-c", script]).current_dir(&self.root).stdin(Stdio::null());
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("XDG_") || text.starts_with("PROTOSTUB_") {
                command.env_remove(&name);
            }
        }
        let old_home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        for (variable, folder) in TOOLCHAINS {
            let folder = old_home.join(folder);
            if env::var_os(variable).is_none() && folder.is_dir() {
                command.env(variable, folder);
            }
        }
        command.env("HOME", &self.home.0);
        // Runtimes that run elsewhere on this machine are not this one's.
        command.env("XDG_RUNTIME_DIR", &self.home.0);
        command
    }

    /// Types the commands, and returns what they print.
    fn run(&self, text: &str) -> Result<String> {
        let mut script = String::new();
        for line in self.with_port(text).lines() {
            match ELSEWHERE.iter().find(|(elsewhere, _)| line.trim() == *elsewhere) {
                Some((command, where_to)) => println!("$ {command}   # not here: {where_to}"),
                None => {
                    println!("$ {line}");
                    script += line;
                    script.push('\n');
                }
            }
        }
        let (status, printed) = output(&mut self.shell(&script), patience())?;
        let printed = String::from_utf8_lossy(&printed).into_owned();
        print!("{printed}");
        if !status.success() {
            bail!("a command failed ({status})");
        }
        Ok(printed)
    }

    /// Types a command in another terminal, and waits for the first line that it prints.
    fn start(&self, text: &str) -> Result<Running> {
        let script = self.with_port(text);
        print!("$ {script}");
        let mut child = self.shell(&format!("exec {script}")).stdout(Stdio::piped()).spawn().context("starting bash")?;
        let output = BufReader::new(child.stdout.take().context("bash has no output")?);
        let (said, first) = mpsc::channel();
        let reading = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                println!("  {line}");
                // Only the first is waited for.
                let _ = said.send(());
            }
        });
        if first.recv_timeout(patience()).is_err() {
            let _ = child.kill();
            bail!("it ended, or hung, before it printed anything: {}", child.wait()?);
        }
        Ok(Running { child: Some(child), reading: Some(reading) })
    }
}

/// A program in another terminal.
struct Running {
    child: Option<Child>,
    reading: Option<JoinHandle<()>>,
}

impl Running {
    /// Ctrl-C.
    fn stop(mut self) -> Result<()> {
        let child = self.child.take().context("it was stopped before")?;
        must(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
        let status = wait(child, GOODBYE)?;
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        if !status.success() {
            bail!("after Ctrl-C a program of another terminal ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::strangers;

    #[test]
    fn names_commands_that_nobody_runs() {
        let first = "Run `cargo xtask demo`, `cargo xtask test fmt`, `cargo doc --open`, or `protostub run`.\n";
        let second = "```sh\ncargo xtask demo\n```\n";
        let texts = [(Path::new("A.md"), first), (Path::new("B.md"), second)];
        assert_eq!(strangers(texts.into_iter()), ["A.md:1: no block of a README runs `protostub run`"]);
    }
}
