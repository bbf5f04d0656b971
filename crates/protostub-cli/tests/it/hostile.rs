//! `protostub run` and other commands, with messages of strangers and with readers that do not
//! read.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use protostub_conformance::stub::{StubSubject, StubSuite};
use protostub_sandbox::CompileWorker;
use serde_json::{Map, Value, json};

use crate::{
    command::{Running, catalogue, command, protostub_json, signal},
    compile_worker::{self, BOMB},
};

/// Timeout for events that should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);
/// The hyperty that receives the messages.
const ME: &str = "hyperty://home.example/me";

/// Returns bodies that no tree of JSON values can hold unchanged.
fn bodies() -> Vec<String> {
    vec![
        "1e999".to_owned(),
        "[1234567890123456789012345678901234567890,0.10]".to_owned(),
        format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)),
        r#"{"a":1,"a":2}"#.to_owned(),
    ]
}

/// A peer behind a message node of the NoMatrix flavour.
struct Peer(TcpStream);

impl Peer {
    fn connect(domain: &str) -> Self {
        let mut stream = TcpStream::connect(domain).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let head = format!(
            "GET /stub/connect?runtimeURL=hyperty-runtime://{domain}/peer HTTP/1.1\r\nHost: {domain}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Self(stream)
    }

    /// Writes a text frame, masked with zeros.
    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81, 0xff];
        frame.extend(u64::try_from(text.len()).expect("a length").to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).expect("written");
    }

    /// Reads text frames until the answer to `id`.
    fn answer(&mut self, id: usize) -> Value {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).expect("a frame");
            let length = match head[1] {
                126 => {
                    let mut bytes = [0; 2];
                    self.0.read_exact(&mut bytes).expect("a length");
                    usize::from(u16::from_be_bytes(bytes))
                }
                short => usize::from(short),
            };
            let mut text = vec![0; length];
            self.0.read_exact(&mut text).expect("a frame");
            let json: Value = serde_json::from_slice(&text).unwrap_or_default();
            if json["id"] == id {
                return json;
            }
        }
    }
}

/// A stranger behind a real message node sends bodies that `run` cannot parse. `run` answers each
/// message, and prints its body unchanged.
#[test]
fn messages_that_no_tree_holds_do_not_end_run() {
    let folder = catalogue().to_str().expect("UTF-8");
    let mut server = Running::start(&["serve", folder, "--bind", "127.0.0.1:0", "--default", "message-node"]);
    let domain = server.event("serving")["domain"].as_str().expect("a text").to_owned();
    let bob = format!("hyperty://{domain}/bob");
    let mut run = Running::start(&["run", "--home", &domain, "--hyperty", &bob, "--register"]);
    run.event("registered");
    let mut peer = Peer::connect(&domain);
    let from = format!("hyperty-runtime://{domain}/peer");
    for (number, body) in bodies().into_iter().enumerate() {
        let id = number + 1;
        peer.send(&format!(r#"{{"id":{id},"type":"create","from":"{from}","to":"{bob}","body":{{"value": {body} }}}}"#));
        assert_eq!(peer.answer(id)["body"]["code"], 200);
        let line = loop {
            let line = run.raw_line();
            if line.starts_with(r#"{"event":"message""#) {
                break line;
            }
        };
        // The stub adds its address to the body.
        assert!(line.contains(&format!(r#""value":{body}}}"#)), "{line:.300}");
    }
    assert_eq!(run.stop().1, 0);
}

/// A client of a control socket.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(BufReader::new(stream))
    }

    /// Sends a request, and returns the line of the answer.
    fn ask(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).expect("written");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        assert!(line.ends_with('\n'), "no answer to {request:.80}");
        line
    }

    /// Sends a message to the runtime's hyperty. The hyperty must answer.
    fn send(&mut self, body: &str) {
        let answer = self.ask(&format!(r#"{{"command":"send","to":"{ME}","timeout":20,"body":{body}}}"#));
        assert!(answer.contains(r#""code":200"#), "{answer:.300}");
    }

    fn dropped(&mut self) -> (u64, u64) {
        let status: Value = serde_json::from_str(&self.ask(r#"{"command":"status"}"#)).expect("JSON");
        let dropped = &status["result"]["dropped"];
        (dropped["output"].as_u64().expect("a number"), dropped["log"].as_u64().expect("a number"))
    }
}

/// A `run` whose output the test reads or ignores. Killed on drop.
struct Unread {
    child: Child,
    socket: PathBuf,
    _session: tempfile::TempDir,
}

impl Unread {
    fn start(flags: &[&str], stdout: impl Into<Stdio>) -> Self {
        let session = tempfile::tempdir().expect("a folder");
        let socket = session.path().join("control.sock");
        let args = ["run", "--home", "home.example", "--hyperty", ME, "--json", "--socket", socket.to_str().expect("UTF-8")];
        let mut command = command(&[&args, flags].concat(), session.path());
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("the command starts");
        Self { child, socket, _session: session }
    }

    fn stderr(&mut self) -> Lines<BufReader<ChildStderr>> {
        BufReader::new(self.child.stderr.take().expect("a pipe")).lines()
    }

    /// Reads the first line of standard output, and not one byte more.
    fn started(&mut self) {
        let mut stdout = self.child.stdout.take().expect("a pipe");
        let mut byte = [0];
        while byte != *b"\n" {
            stdout.read_exact(&mut byte).expect("a line");
        }
        self.child.stdout = Some(stdout);
    }

    /// Sends a signal. The command must exit soon, with exit code 0.
    fn stop(mut self, with: &str) {
        signal(&self.child, with);
        let code = ends(&mut self.child);
        assert_eq!(code, Some(0), "after {with}");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a process. Its output stays unread.
fn ends(child: &mut Child) -> Option<i32> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let id = child.id();
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| ended.send(child.wait().expect("it ends").code()));
        let code = end.recv_timeout(PATIENCE).ok();
        if code.is_none() {
            let _ = std::process::Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
        drop((stdout, stderr));
        code.flatten()
    })
}

#[test]
fn unread_output_holds_up_neither_answers_nor_signals() {
    for signal in ["-TERM", "-INT"] {
        let mut run = Unread::start(&[], Stdio::piped());
        run.started();
        let mut client = Client::connect(&run.socket);
        let body = format!("\"{}\"", "x".repeat(900_000));
        for _ in 0..20 {
            client.send(&body);
        }
        // More messages than a queue of messages could hold.
        for _ in 0..150 {
            client.send("1");
        }
        let (output, log) = client.dropped();
        assert!(output >= 8 && log == 0, "{output} and {log} lines were dropped");
        run.stop(signal);
    }
}

#[test]
fn unread_log_holds_up_neither_answers_nor_signals() {
    let mut run = Unread::start(&["-vvv"], Stdio::piped());
    run.started();
    let mut client = Client::connect(&run.socket);
    for _ in 0..500 {
        client.send("1");
    }
    run.stop("-TERM");
}

#[test]
fn output_that_fails_does_not_end_run() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    for (signal, stdout) in [("-TERM", Stdio::from(full)), ("-INT", Stdio::from(closed))] {
        let mut run = Unread::start(&[], stdout);
        let mut log = run.stderr();
        let warning = log.next().expect("a warning").expect("UTF-8");
        assert!(warning.contains("standard output failed"), "{warning}");
        let mut client = Client::connect(&run.socket);
        let before = client.dropped().0;
        for _ in 0..50 {
            client.send("1");
        }
        assert!(client.dropped().0 >= before + 50);
        run.stop(signal);
        assert_eq!(log.count(), 0, "it warns once");
    }
}

#[test]
fn bodies_of_the_control_socket_keep_their_digits() {
    let mut run = Unread::start(&["--answer", "1"], Stdio::piped());
    let stdout = run.child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout).lines().map(|line| line.expect("UTF-8"));
    lines.next().expect("started");
    lines.next().expect("listening");
    let mut client = Client::connect(&run.socket);
    for body in bodies() {
        client.send(&body);
        let line = lines.next().expect("a message");
        assert!(line.contains(&format!(r#""body":{body},"#)) || line.contains(&format!(r#""body":{body}}}"#)), "{line:.200}");
    }
    run.stop("-TERM");
}

#[test]
fn follow_whose_output_is_unread_ends_at_a_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let args = ["status", "--follow", "--json", "--socket", socket.to_str().expect("UTF-8")];
    let mut follow = command(&args, folder.path()).stdout(Stdio::piped()).spawn().expect("the command starts");
    let (mut stream, _) = listener.accept().expect("a client");
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request).expect("a request");
    let status = json!({
        "runtime": "runtime://home.example/1", "home": "home.example", "version": "0", "pid": 1, "since": "", "stubs": [], "messages": {},
    });
    stream.write_all(format!("{}\n", json!({ "result": status })).as_bytes()).expect("written");
    let change = json!({ "domain": "sp1.example", "stub": null, "status": "live", "reason": "x".repeat(900), "at": "" });
    let line = format!("{}\n", json!({ "status": change }));
    // The client stops reading when its output is full. All buffers together hold less than 16 MiB.
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    let written = (0..16 * 1024).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
    assert!(written < 16 * 1024);
    signal(&follow, "-TERM");
    assert_eq!(ends(&mut follow), Some(0));
}

/// A client of the control socket even takes the runtime's own address.
#[test]
fn message_to_the_runtime_is_never_printed_as_a_status() {
    let mut run = Running::start(&["run", "--home", "home.example"]);
    let started = run.event("started");
    let text = |member: &str| started[member].as_str().expect("a text").to_owned();
    let mut follow = Running::start_in(run.session(), &["status", "--follow"]);
    follow.event("following");
    let mut client = Client::connect(Path::new(&text("socket")));
    let body = json!({ "value": "live", "domain": "bank.example", "desc": "\u{1b}[31mforged" });
    for from in [Value::Null, text("runtime").into()] {
        for name in ["monitor", "status"] {
            let to = format!("{}/{name}", text("runtime"));
            let request = json!({ "command": "send", "to": to, "from": from, "type": "update", "timeout": 0.2, "body": body });
            assert!(client.ask(&request.to_string()).contains("\"error\""));
        }
    }
    let deploy = json!({ "command": "deploy", "target": "127.0.0.1:1" });
    assert!(client.ask(&deploy.to_string()).contains("\"error\""));
    for output in [&mut run, &mut follow] {
        assert_eq!(output.event("status")["domain"], "127.0.0.1:1");
    }
}

/// A client follows the changes, and reads none of them.
#[test]
fn slow_follower_learns_the_number_of_missed_changes() {
    const DEPLOYMENTS: usize = 1500;
    let run = Unread::start(&[], Stdio::null());
    while UnixStream::connect(&run.socket).is_err() {
        thread::yield_now();
    }
    let mut follower = Client::connect(&run.socket);
    assert!(follower.ask(r#"{"command":"follow"}"#).contains("\"result\""));
    // Each deployment fails, and changes the status twice. That is more than all buffers hold.
    let mut client = Client::connect(&run.socket);
    for _ in 0..DEPLOYMENTS {
        assert!(client.ask(r#"{"command":"deploy","target":"127.0.0.1:1"}"#).contains("\"error\""));
    }
    let missed = loop {
        let mut line = String::new();
        follower.0.read_line(&mut line).expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        if let Some(missed) = line["missed"].as_u64() {
            break missed;
        }
        assert!(line["status"].is_object(), "{line}");
    };
    assert!(missed > 0);
    run.stop("-TERM");
}

#[test]
fn inspect_of_a_component_that_compiles_for_minutes_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    fs::write(path("bomb.wasm"), &*BOMB).expect("written");
    fs::write(path("protostub.toml"), "compile-timeout-seconds = 2").expect("written");
    let (code, json) = protostub_json(&["inspect", &path("bomb.wasm"), "--config", &path("protostub.toml")]);
    let problem = json["component"]["problem"].as_str().expect("a text");
    assert_eq!(code, 1, "{json}");
    assert!(problem.contains("was not compiled within 2 s") || problem.contains("was ended after 3 s"), "{problem}");
}

#[tokio::test]
async fn conformance_of_a_component_that_compiles_for_minutes_ends() {
    let mut worker = CompileWorker::new(env!("CARGO_BIN_EXE_protostub"));
    worker.cpu_seconds = 1;
    let suite = StubSuite::new(None, Some(worker)).expect("an engine").only(["stub/contract".to_owned()]);
    let report = suite.run(&StubSubject::new("bomb", BOMB.clone(), Map::new())).await;
    let report = report.to_json().to_string();
    assert!(report.contains("was ended after 1 s of computing"), "{report}");
}

/// No command compiles a component in its own process.
#[cfg(target_os = "linux")]
#[test]
fn conformance_and_sign_compile_in_a_worker() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    fs::write(path("bomb.wasm"), &*BOMB).expect("written");
    fs::write(path("descriptor.json"), r#"{"objectName":"default","version":"1.0","sourcePackageURL":"component.wasm"}"#)
        .expect("written");
    assert_eq!(protostub_json(&["keygen", &path("key")]).0, 0);
    let (bomb, descriptor, key) = (path("bomb.wasm"), path("descriptor.json"), path("key"));
    let sign = ["sign", &descriptor, "--key", &key, "--domain", "sp1.example", "--component", &bomb];
    for args in [&["conformance", &bomb][..], &sign] {
        let mut child = command(args, folder.path()).stdout(Stdio::null()).spawn().expect("the command starts");
        while compile_worker::worker_of(child.id()).is_none() {
            assert!(child.try_wait().expect("a process").is_none(), "{args:?} ended without a worker");
            thread::yield_now();
        }
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
    }
}
