//! Runs the command.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_protostub"));
    command.args(args).env_remove("PROTOSTUB_LOG").env_remove("COLUMNS");
    command
}

/// Exit code, stdout and stderr.
pub(crate) fn protostub(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(args).output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// Exit code, and the JSON on stdout.
pub(crate) fn protostub_json(args: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = protostub(&[args, &["--json"]].concat());
    (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")))
}

/// A command that runs until it is told to stop, and prints JSON. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = command(args).arg("--json").stdout(Stdio::piped()).spawn().expect("the command starts");
        let stdout = child.stdout.take().expect("a pipe");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The next event of this kind; those before it are passed over.
    pub(crate) fn event(&mut self, event: &str) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("the command ended without `{event}`")).expect("UTF-8");
            let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if json["event"] == event {
                return json;
            }
            assert_ne!(json["event"], "problem", "{json}");
        }
    }

    /// Tells it to stop, and returns its last event and its exit code.
    #[cfg(unix)]
    pub(crate) fn stop(mut self) -> (Value, i32) {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill starts");
        assert!(told.success());
        let last = self.event("stopped");
        (last, self.child.wait().expect("it ends").code().expect("an exit code"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of the repository's own stubs, built once for all tests.
pub(crate) fn catalogue() -> &'static Path {
    static CATALOGUE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = CATALOGUE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["echo", "message-node"] {
            let stub = folder.path().join(name);
            fs::create_dir(&stub).expect("a folder");
            fs::copy(stubs().join(name).join("descriptor.json"), stub.join("descriptor.json")).expect("the descriptor");
            fs::copy(component(name), stub.join("component.wasm")).expect("the component");
        }
        folder
    });
    folder.path()
}

/// The component of one of the repository's stubs.
pub(crate) fn component(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = stubs().join("../target/stubs");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--release", "--target", "wasm32-wasip2", "--target-dir"])
            .arg(&target)
            .current_dir(stubs())
            // What is set for the build of the host, coverage say, is not for guests.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the stubs could not be built");
        target.join("wasm32-wasip2/release")
    });
    folder.join(format!("{}.wasm", name.replace('-', "_")))
}

fn stubs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../stubs")
}
