//! Helpers that run the command.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::shapes;

/// Returns the command with its sockets in `session`.
pub(crate) fn command(args: &[&str], session: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_protostub"));
    command.args(args).env("XDG_RUNTIME_DIR", session);
    command.env_remove("PROTOSTUB_LOG").env_remove("PROTOSTUB_SOCKET").env_remove("COLUMNS");
    command
}

/// Creates a session without a runtime, separate from the sessions of other tests.
fn empty_session() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs the command in an empty session. Returns its exit code, stdout and stderr.
pub(crate) fn protostub(args: &[&str]) -> (i32, String, String) {
    protostub_in(empty_session().path(), args)
}

/// As [`protostub`], in a session where runtimes can have their sockets.
pub(crate) fn protostub_in(session: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(args, session).output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// Runs the command with `--json` in an empty session. Returns its exit code and the JSON object on
/// stdout, which must match the README.
pub(crate) fn protostub_json(args: &[&str]) -> (i32, Value) {
    let (code, mut lines) = protostub_json_in(empty_session().path(), args);
    assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
    (code, lines.remove(0))
}

/// As [`protostub_json`], in `session`. Returns all objects on stdout, or the error on stderr.
pub(crate) fn protostub_json_in(session: &Path, args: &[&str]) -> (i32, Vec<Value>) {
    let (code, stdout, stderr) = protostub_in(session, &[args, &["--json"]].concat());
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}"));
    let lines: Vec<Value> = stdout.lines().map(read).collect();
    if code >= 2 || (code == 1 && lines.is_empty()) {
        let error = read(stderr.lines().last().unwrap_or_default());
        shapes::check("Errors", &error);
        return (code, vec![error]);
    }
    let documented = match (args[0], args.get(1).is_some_and(|arg| !arg.starts_with("--"))) {
        ("status", true) => "status DOMAIN",
        ("inspect", true) if lines.iter().any(|line| line.get("domain").is_some()) => "inspect DOMAIN",
        ("conformance", false) => "conformance --list",
        (command, _) => command,
    };
    lines.iter().for_each(|line| shapes::check(documented, line));
    (code, lines)
}

/// A command that runs until a signal, and prints JSON. Killed on drop.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The name of its output in the README.
    documented: String,
    /// The folder of its socket, if it has its own session.
    session: Option<tempfile::TempDir>,
}

impl Running {
    /// Starts the command in its own session.
    pub(crate) fn start(args: &[&str]) -> Self {
        let session = tempfile::tempdir().expect("a folder");
        let mut running = Self::start_in(session.path(), args);
        running.session = Some(session);
        running
    }

    pub(crate) fn start_in(session: &Path, args: &[&str]) -> Self {
        let mut child = command(args, session).arg("--json").stdout(Stdio::piped()).spawn().expect("the command starts");
        let stdout = child.stdout.take().expect("a pipe");
        let documented = if args[0] == "status" { "status --follow" } else { args[0] };
        Self { child, lines: BufReader::new(stdout).lines(), documented: documented.to_owned(), session: None }
    }

    /// Returns its session, for the commands that look for its socket.
    pub(crate) fn session(&self) -> &Path {
        self.session.as_ref().expect("a session of its own").path()
    }

    /// Returns the next line, unparsed.
    pub(crate) fn raw_line(&mut self) -> String {
        self.lines.next().expect("the command has ended").expect("UTF-8")
    }

    /// Returns the next line, which must match the README.
    pub(crate) fn line(&mut self) -> Value {
        let line = self.raw_line();
        let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        shapes::check(&self.documented, &json);
        json
    }

    /// Returns the next event of this kind, and skips events of other kinds.
    pub(crate) fn event(&mut self, event: &str) -> Value {
        loop {
            let json = self.line();
            if json["event"] == event {
                return json;
            }
            assert_ne!(json["event"], "problem", "{json}");
        }
    }

    /// Returns the next change to this status.
    pub(crate) fn status(&mut self, status: &str) -> Value {
        loop {
            let json = self.event("status");
            if json["status"] == status {
                return json;
            }
        }
    }

    /// Waits until the command ends by itself. Returns its exit code.
    pub(crate) fn wait(mut self) -> i32 {
        self.child.wait().expect("it ends").code().expect("an exit code")
    }

    /// Kills the command, which cannot clean up.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is killed");
        let _status = self.child.wait().expect("it ends");
    }

    /// Sends SIGTERM.
    #[cfg(unix)]
    pub(crate) fn interrupt(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGHUP.
    #[cfg(unix)]
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    #[cfg(unix)]
    fn signal(&self, with: &str) {
        signal(&self.child, with);
    }

    /// Stops the command. Returns its last event and its exit code.
    #[cfg(unix)]
    pub(crate) fn stop(mut self) -> (Value, i32) {
        self.interrupt();
        let last = self.event("stopped");
        (last, self.child.wait().expect("it ends").code().expect("an exit code"))
    }
}

/// Sends a signal, spelled as for `kill`.
#[cfg(unix)]
pub(crate) fn signal(child: &Child, signal: &str) {
    let told = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill starts");
    assert!(told.success());
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a folder with stubs of the repository, built once for all tests.
pub(crate) fn catalogue() -> &'static Path {
    static CATALOGUE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = CATALOGUE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["echo", "message-node"] {
            let stub = folder.path().join(name);
            fs::create_dir(&stub).expect("a folder");
            fs::copy(stubs().join(name).join("descriptor.json"), stub.join("descriptor.json")).expect("the descriptor");
            fs::copy(protostub_artifacts::path(name), stub.join("component.wasm")).expect("the component");
        }
        folder
    });
    folder.path()
}

fn stubs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../stubs")
}
