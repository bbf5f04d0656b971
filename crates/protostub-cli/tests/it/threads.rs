//! The command under limits on threads and on address space: it starts, or ends with an error.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Time after which a command that neither starts nor ends counts as one that stays.
const PATIENCE: Duration = Duration::from_secs(60);
/// A user without processes. The system exempts root from its limit on threads.
const USER: u32 = 61_234;

/// The outcome of `protostub run`.
#[derive(Debug)]
enum Outcome {
    Started,
    /// The command has ended by itself: its exit code, or `None` after a signal, and its log.
    Ended(Option<i32>, String),
}

/// Starts `protostub run` with a limit, in the words of `prlimit`, as this user or another.
fn start(limit: &str, user: Option<u32>) -> Child {
    // Another user may not reach the folder of the command, so the open file is executed.
    let command = File::open(env!("CARGO_BIN_EXE_protostub")).expect("the command");
    let mut limited = Command::new("prlimit");
    limited.args([limit, "/proc/self/fd/0", "run", "--home", "home.example", "--json"]);
    limited.current_dir("/").env_remove("XDG_RUNTIME_DIR").env_remove("PROTOSTUB_LOG");
    if let Some(user) = user {
        limited.uid(user).gid(user);
    }
    limited.stdin(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the package util-linux")
}

/// Returns the first line of an output, or `None` if it has none. Panics if the command stays, but
/// prints nothing.
fn first_line(child: &mut Child, output: impl Read + Send + 'static) -> Option<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(BufReader::new(output).lines().next()));
    let Ok(line) = told.recv_timeout(PATIENCE) else {
        end(child);
        panic!("the command stays, and prints nothing");
    };
    line.map(|line| line.expect("UTF-8"))
}

fn end(child: &mut Child) {
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}

fn run(limit: &str, user: Option<u32>) -> Outcome {
    let mut child = start(limit, user);
    let stdout = child.stdout.take().expect("a pipe");
    if first_line(&mut child, stdout).is_some_and(|line| line.contains("started")) {
        end(&mut child);
        return Outcome::Started;
    }
    let mut log = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut log).expect("UTF-8");
    Outcome::Ended(child.wait().expect("it ends").code(), log)
}

#[expect(clippy::print_stderr, reason = "a skipped test states the reason")]
#[test]
fn run_without_threads_ends_with_an_error() {
    if std::fs::metadata("/proc/self").expect("the process").uid() != 0 {
        eprintln!("skipped: only root can become a user without processes");
        return;
    }
    let outcome_of = |threads: u32| run(&format!("--nproc={threads}"), Some(USER));
    for threads in 1..20 {
        match outcome_of(threads) {
            Outcome::Started => assert!(threads > 4, "{threads}: the limit does not hold here"),
            Outcome::Ended(code, log) => {
                assert_eq!(code, Some(1), "{threads}: {log}");
                assert!(log.contains("failed to start") && log.contains("`ulimit -u`"), "{threads}: {log}");
            }
        }
    }
    assert!(matches!(outcome_of(200), Outcome::Started));
}

#[test]
fn run_in_little_address_space_starts_or_ends() {
    let outcome_of = |mebibytes: u64| run(&format!("--as={}", mebibytes << 20), None);
    for mebibytes in (96..480).step_by(16) {
        if let Outcome::Ended(code, log) = outcome_of(mebibytes) {
            assert_ne!(code, Some(101), "{mebibytes} MiB: {log}");
            assert!(!log.contains("panicked"), "{mebibytes} MiB: {log}");
        }
    }
    assert!(matches!(outcome_of(4096), Outcome::Started));
}

#[test]
fn run_without_room_for_a_pool_says_so() {
    let mut child = start("--as=8589934592", None);
    let stderr = child.stderr.take().expect("a pipe");
    let warning = first_line(&mut child, stderr).expect("a warning");
    assert!(warning.contains("a pool for sandboxes") && warning.contains("`max-sandboxes`"), "{warning}");
    let stdout = child.stdout.take().expect("a pipe");
    let event = first_line(&mut child, stdout).expect("an event");
    end(&mut child);
    assert!(event.contains("started"), "{event}");
}
