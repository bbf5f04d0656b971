//! Runs the commands of the READMEs, as a new user with a fresh clone would.

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

Runs every command of every README (or of the named files) as written and in order, with an empty home. For example, it writes a stub as the
author's guide says, builds, inspects, serves and deploys it, and gets its answer. The output that the READMEs show must appear.

  --clone   runs in a clone of the last commit, in an empty folder, with nothing built before: ten minutes or more

The code blocks of a README: `sh` has commands. `sh background` has a command that goes on in another terminal until the README ends. `sh install`
downloads a toolchain; if that fails, the rest of the README is skipped. `output` must be part of the output of the commands before it. Port 8080 is
replaced by a free one. The last line is `N passed, N failed, N skipped`. It counts READMEs.
";

/// Returns the time limit of a block. Some blocks compile everything. In CI that was done before.
fn patience() -> Duration {
    Duration::from_secs(60 * if env::var_os("CI").is_some() { 10 } else { 30 })
}
/// Time limit for a program to exit after Ctrl-C.
const GOODBYE: Duration = Duration::from_secs(20);

const CONFORMANCE: &str = "the stage `conformance` of `cargo xtask test`";

/// Commands that another command runs, with its name or the reason.
const ELSEWHERE: [(&str, &str); 9] = [
    ("cargo xtask test", "this command is one of its stages"),
    ("cargo xtask prose", "the stage `prose` of `cargo xtask test`"),
    ("cargo xtask new-user", "this is the command that runs now"),
    ("cargo xtask structure", "the stage `structure` of `cargo xtask test`"),
    ("cargo xtask conformance", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-python.wasm", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-js.wasm", CONFORMANCE),
    ("target/debug/protostub conformance target/stubs/echo-c.wasm", CONFORMANCE),
    ("cargo test --workspace", "the stage `test` of `cargo xtask test`"),
];

/// Commands of running text that are never run.
const NOT_RUN: [(&str, &str); 10] = [
    ("--open", "opens a browser on the result of the stage `doc`"),
    ("INSTA_UPDATE", "rewrites the snapshots of tests"),
    ("wit freeze", "records a release"),
    ("xtask bench", "takes minutes, and builds everything again with the release profile"),
    ("xtask defences", "takes an hour or more, and rebuilds the sources for each defence"),
    ("xtask torture", "takes a quarter of an hour"),
    ("xtask soak", "takes twenty minutes"),
    ("xtask kills", "takes some minutes"),
    ("cargo xtask fuzz", "takes minutes for each target, and needs nightly Rust"),
    ("compile-worker", "a runtime starts this command itself"),
];

/// Debian packages that READMEs need.
const NEEDS: [(&str, debian::Programs<'_>); 1] = [("stubs/echo-c/README.md", debian::CLANG)];

/// READMEs that this process has followed, with their outcomes. Their builds take long, so each is
/// followed once.
static FOLLOWED: Mutex<BTreeMap<PathBuf, Outcome>> = Mutex::new(BTreeMap::new());

/// Folders in the home of the user who runs this that a new user would have too.
const TOOLCHAINS: [(&str, &str); 5] = [
    ("CARGO_HOME", ".cargo"),
    ("RUSTUP_HOME", ".rustup"),
    ("PYENV_ROOT", ".pyenv"),
    ("PIP_CACHE_DIR", ".cache/pip"),
    ("npm_config_cache", ".npm"),
];

/// Numbers of READMEs by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The READMEs that could not be followed, with the reasons.
    pub(crate) skipped: Vec<String>,
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
    println!("\n{passed} passed, {failed} failed, {} skipped", skipped.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Follows the READMEs in a clone, in which nothing was built before.
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

/// An empty folder outside the repository, because cargo looks for a workspace in all parent
/// folders. `Drop` removes it.
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
        bail!("making a temporary folder failed: {} has too many folders of earlier runs; remove them", env::temp_dir().display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            println!("removing {} failed: {error}", self.0.display());
        }
    }
}

/// Returns the files that git tracks, and those that `git add --all` would add.
pub(crate) fn repository_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let output = command.stderr(Stdio::inherit()).output().context("starting git")?;
    if !output.status.success() {
        bail!("`git ls-files` failed; the command needs a git checkout");
    }
    let names = String::from_utf8(output.stdout).context("reading the names of the repository's files")?;
    // Git lists a deleted file until the deletion is committed.
    Ok(names.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect())
}

/// Follows the READMEs, and checks that every command named in running text is run by a block of a
/// README.
pub(crate) fn follow_all(root: &Path, files: &[&str]) -> Result<Followed> {
    toolchain::require_target(guests::TARGET)?;
    debian::packages(debian::MOSQUITTO)?;
    let all = readmes(root)?;
    if let Some(unknown) = files.iter().find(|file| !all.iter().any(|readme| readme == Path::new(file))) {
        bail!(
            "unknown README {unknown}; the READMEs are {}",
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
                followed.skipped.push(format!("{}: {why}", file.display()));
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

/// Returns all Markdown files with instructions, as paths from the root.
fn readmes(root: &Path) -> Result<Vec<PathBuf>> {
    let is_markdown = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "md");
    let mut files: Vec<_> = repository_files(root)?.into_iter().filter(is_markdown).collect();
    // `README.md` comes first, because other READMEs use its builds.
    files.sort_by_key(|file| (file.components().count(), file.clone()));
    files.sort_by_key(|file| file != Path::new("README.md"));
    Ok(files)
}

/// Returns an error for each command in running text that is in no block and has no entry in
/// `ELSEWHERE` or `NOT_RUN`.
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

/// Result of following a README.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Followed,
    /// A requirement of the README is missing here. Holds the reason.
    Skipped(String),
}

/// Builds a stub in another language by following its README.
pub(crate) fn build_as_told(root: &Path, stub: &str) -> Result<Outcome> {
    let file = Path::new("stubs").join(stub).join("README.md");
    let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
    follow_once(root, &file, &text).with_context(|| file.display().to_string())
}

/// Follows one README, unless this process has done so before.
fn follow_once(root: &Path, file: &Path, text: &str) -> Result<Outcome> {
    let followed = || FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(outcome) = followed().get(file) {
        println!("This README was followed before.");
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

/// Follows one README, and ends the programs that it left running.
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
                    return Ok(Outcome::Skipped(format!("the installation of line {line} is not possible here: {error:#}")));
                }
            }
            Step::Output { line, text } => {
                let expected = reader.with_port(text);
                let found = expected.lines().try_fold(printed.as_str(), |rest, line| Some(rest.split_once(line.trim())?.1));
                if found.is_none() {
                    bail!("the output differs from line {line}: expected\n{expected}and got\n{printed}");
                }
            }
        }
    }
    for program in running {
        program.stop()?;
    }
    Ok(Outcome::Followed)
}

/// A new user with an empty home and a terminal in the repository's root.
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
        // Keeps runtimes that run elsewhere on this machine out of reach.
        command.env("XDG_RUNTIME_DIR", &self.home.0);
        command
    }

    /// Runs the commands, and returns their output.
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

    /// Runs a command in another terminal, and waits for the first line of its output.
    fn start(&self, text: &str) -> Result<Running> {
        let script = self.with_port(text);
        print!("$ {script}");
        let mut child = self.shell(&format!("exec {script}")).stdout(Stdio::piped()).spawn().context("starting bash")?;
        let output = BufReader::new(child.stdout.take().context("bash has no standard output")?);
        let (said, first) = mpsc::channel();
        let reading = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                println!("  {line}");
                // The caller waits for the first line only.
                let _ = said.send(());
            }
        });
        if first.recv_timeout(patience()).is_err() {
            let _ = child.kill();
            bail!("the command exited, or hung, before its first line of output: {}", child.wait()?);
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
    /// Ends the program with Ctrl-C.
    fn stop(mut self) -> Result<()> {
        let child = self.child.take().context("the program was stopped before")?;
        must(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
        let status = wait(child, GOODBYE)?;
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        if !status.success() {
            bail!("a background program exited with {status} after Ctrl-C");
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
    fn strangers_finds_commands_without_a_block() {
        let first = "Run `cargo xtask demo`, `cargo xtask test fmt`, `cargo doc --open`, or `protostub run`.\n";
        let second = "```sh\ncargo xtask demo\n```\n";
        let texts = [(Path::new("A.md"), first), (Path::new("B.md"), second)];
        assert_eq!(strangers(texts.into_iter()), ["A.md:1: no block of a README runs `protostub run`"]);
    }
}
