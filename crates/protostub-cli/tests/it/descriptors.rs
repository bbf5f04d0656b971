//! The limit on descriptors that the command raises.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

/// The soft and the hard limit on the descriptors of a process.
fn limits(process: u32) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("the limits of the process");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("the limit on open files");
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
    (numbers.next().expect("a soft limit"), numbers.next().expect("a hard limit"))
}

#[test]
fn soft_limit_on_descriptors_is_raised() {
    let session = tempfile::tempdir().expect("a folder");
    let mut run = Command::new("sh")
        .args(["-c", "ulimit -Sn 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_protostub")])
        .args(["run", "--home", "127.0.0.1:1", "--json"])
        .env("XDG_RUNTIME_DIR", session.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let (soft, hard) = limits(run.id());
    run.kill().expect("it is killed");
    run.wait().expect("it ends");
    assert!(line.contains("started"), "{line}");
    assert_eq!(soft, hard.min(64 << 10));
}
