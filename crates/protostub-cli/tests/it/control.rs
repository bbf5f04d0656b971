//! `protostub deploy`, `undeploy`, `update`, `list`, `send` and `status`, which ask a
//! `protostub run` through its control socket.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    command::{Running, catalogue, command, protostub, protostub_in, protostub_json_in},
    shapes,
};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn serve() -> (Running, String) {
    let folder = catalogue().to_str().expect("UTF-8");
    let mut server = Running::start(&["serve", folder, "--bind", "127.0.0.1:0", "--default", "echo"]);
    let domain = text(&server.event("serving")["domain"]).to_owned();
    (server, domain)
}

fn run(home: &str) -> (Running, Value) {
    let mut run = Running::start(&["run", "--home", home]);
    let started = run.event("started");
    (run, started)
}

/// Starts a runtime with rules for messages. Returns the folder of the rules too, in `rules.cedar`.
fn run_with_rules(home: &str, rules: &str) -> (Running, Value, tempfile::TempDir) {
    let (mut run, folder) = start_with_rules(home, rules, &[]);
    let started = run.event("started");
    (run, started, folder)
}

fn start_with_rules(home: &str, rules: &str, flags: &[&str]) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("protostub.toml");
    fs::write(folder.path().join("rules.cedar"), rules).expect("written");
    fs::write(&settings, "policy = 'rules.cedar'").expect("written");
    let run = ["run", "--home", home, "--config", settings.to_str().expect("UTF-8")];
    (Running::start(&[&run, flags].concat()), folder)
}

/// Replaces texts that differ from run to run by names.
fn named(text: &str, names: &[(&str, &str)]) -> String {
    let text = names.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value, name));
    // All times have the same length.
    let is_time = |word: &&str| word.len() == 24 && word.ends_with('Z') && word.starts_with("20");
    let times: BTreeSet<_> = text.split_whitespace().filter(is_time).map(str::to_owned).collect();
    times.iter().fold(text, |text, time| text.replace(time, "2026-11-23T03:00:00.000Z"))
}

#[test]
fn commands_reach_a_runtime_through_its_socket() {
    let (_server, domain) = serve();
    let (run, started) = run(&domain);
    let ask = |args: &[&str]| protostub_json_in(run.session(), args);
    assert_eq!(ask(&["list"]), (0, vec![]));

    let mut follow = Running::start_in(run.session(), &["status", "--follow"]);
    assert_eq!(follow.event("following")["runtime"], started["runtime"]);
    let mut of_another = Running::start_in(run.session(), &["status", "sp2.example", "-f"]);
    of_another.event("following");

    let (code, deployed) = ask(&["deploy", &domain]);
    assert_eq!((code, &deployed[0]["status"], &deployed[0]["key"]), (0, &json!("live"), &json!(domain)), "{deployed:?}");
    assert_eq!(follow.status("live")["stub"], deployed[0]["stub"]);

    // A second request deploys no second stub. An address of the domain, or the URL of the stub,
    // names the same stub.
    for target in [format!("hyperty://{domain}/alice"), format!("http://{domain}/.well-known/protostub/default")] {
        assert_eq!(ask(&["deploy", &target]), (0, deployed.clone()));
    }
    assert_eq!(ask(&["list"]), (0, deployed.clone()));
    assert_eq!(ask(&["status", &domain]), (0, deployed.clone()));
    let (code, status) = ask(&["status"]);
    assert_eq!((code, &status[0]["stubs"], &status[0]["runtime"]), (0, &json!(deployed), &started["runtime"]));
    assert!(status[0]["messages"]["accepted"].as_u64() > Some(0), "{status:?}");

    let (code, sent) = ask(&["send", "--to", &format!("hyperty://{domain}/alice"), "--body", r#"{"text":"é"}"#]);
    assert_eq!((code, &sent[0]["reply"]["body"]["value"]), (0, &json!({ "text": "é" })), "{sent:?}");
    assert!(text(&sent[0]["reply"]["to"]).starts_with(&format!("hyperty://{domain}/")), "{sent:?}");

    let (code, gone) = ask(&["undeploy", &domain]);
    assert_eq!((code, &gone[0]["status"], &gone[0]["stub"]), (0, &json!("dead"), &deployed[0]["stub"]), "{gone:?}");
    let dead = follow.status("dead");
    assert_eq!((&dead["domain"], &dead["reason"]), (&json!(domain), &gone[0]["reason"]));
    assert_eq!(ask(&["list"]), (0, vec![]));

    let (code, error) = ask(&["undeploy", &domain]);
    assert_eq!((code, &error[0]["kind"]), (4, &json!("not-deployed")), "{error:?}");
    assert_eq!(ask(&["status", &domain]).0, 4);
    // The asking client and the following client both get the error of a failed deployment.
    let (code, error) = ask(&["deploy", "127.0.0.1:1"]);
    assert_eq!((code, &error[0]["kind"]), (1, &json!("failed")), "{error:?}");
    let failed = follow.status("deployment-failed");
    assert_eq!((&failed["domain"], &failed["reason"]), (&json!("127.0.0.1:1"), &error[0]["error"]));
    assert_eq!(ask(&["deploy", "a b"]).0, 2);
    // The addresses of the runtime's own parts are taken.
    let as_registry = format!("{}/registry", text(&started["runtime"]));
    assert_eq!(ask(&["send", "--to", &format!("hyperty://{domain}/alice"), "--from", &as_registry]).0, 1);

    let (last, code) = run.stop();
    assert_eq!((code, last), (0, json!({ "event": "stopped", "stopped": [], "abandoned": [] })));
    follow.event("ended");
    assert_eq!(follow.wait(), 0);
    // The follower of another domain got no change.
    assert_eq!(of_another.line(), json!({ "event": "ended" }));
}

/// Writes a catalogue with one version of the stub `echo`.
fn publish(folder: &Path, version: &str) {
    let stub = folder.join("echo");
    fs::create_dir_all(&stub).expect("a folder");
    fs::copy(catalogue().join("echo/component.wasm"), stub.join("component.wasm")).expect("the component");
    let descriptor = fs::read(catalogue().join("echo/descriptor.json")).expect("the descriptor");
    let mut descriptor: Value = serde_json::from_slice(&descriptor).expect("JSON");
    descriptor["version"] = version.into();
    fs::write(stub.join("descriptor.json"), descriptor.to_string()).expect("written");
}

#[test]
fn accepted_version_can_be_shown_and_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    publish(folder.path(), "999999");
    let path = folder.path().to_str().expect("UTF-8");
    let serve = |bind: &str| Running::start(&["serve", path, "--bind", bind, "--default", "echo"]);
    let mut server = serve("127.0.0.1:0");
    let domain = text(&server.event("serving")["domain"]).to_owned();
    let (run, _) = run(&domain);
    let ask = |args: &[&str]| protostub_json_in(run.session(), args);
    let (code, before) = ask(&["accepted", &domain]);
    assert_eq!((code, &before[0]["accepted"], &before[0]["key"]), (0, &Value::Null, &json!(domain)));
    assert_eq!(ask(&["deploy", &domain]).0, 0);
    let (code, shown) = ask(&["accepted", &domain]);
    assert_eq!((code, &shown[0]["accepted"]["version"], &shown[0]["reset"]), (0, &json!("999999"), &json!(false)));

    // The real next version is locked out, also after the stub was undeployed.
    publish(folder.path(), "1.1");
    drop(server);
    let mut server = serve(&domain);
    server.event("serving");
    let (code, error) = ask(&["update", &domain]);
    assert!(code == 1 && text(&error[0]["error"]).contains("older"), "{error:?}");
    let (code, error) = ask(&["accepted", &domain, "--reset"]);
    assert!(code == 1 && text(&error[0]["error"]).ends_with("; undeploy the stub first"), "{error:?}");
    assert_eq!(ask(&["undeploy", &domain]).0, 0);
    let (code, error) = ask(&["deploy", &domain]);
    assert!(code == 1 && text(&error[0]["error"]).contains("999999"), "{error:?}");

    let (code, reset) = ask(&["accepted", &domain, "--reset"]);
    assert_eq!((code, &reset[0]["accepted"], &reset[0]["reset"]), (0, &shown[0]["accepted"], &json!(true)));
    assert_eq!(ask(&["send", "--to", &format!("hyperty://{domain}/alice")]).0, 0);
    let (code, shown) = ask(&["accepted", &domain]);
    assert_eq!((code, &shown[0]["accepted"]["version"]), (0, &json!("1.1")));
    assert_eq!(ask(&["accepted", "a b"]).0, 2);
}

#[test]
fn reload_of_faulty_policies_keeps_the_previous_ones() {
    let (_server, domain) = serve();
    let (mut run, _, folder) = run_with_rules(&domain, "permit (principal, action, resource);");
    let session = run.session().to_owned();
    let (rules, to) = (folder.path().join("rules.cedar"), format!("hyperty://{domain}/alice"));
    let write = |text: &str| fs::write(&rules, text).expect("written");
    let send = || protostub_json_in(&session, &["send", "--to", &to]);
    let reload = || protostub_json_in(&session, &["reload"]);
    let in_force = json!(rules);
    assert_eq!(send().0, 0);

    write("permit (principal, action, resource); @reason('no') forbid (principal, action, resource);");
    let (code, error) = reload();
    assert_eq!((code, &error[0]["kind"]), (1, &json!("failed")), "{error:?}");
    let told = text(&error[0]["error"]);
    assert!(told.contains("rules.cedar:1:47: "), "{told}");
    assert!(told.ends_with("; the previous policies stay in force"), "{told}");
    assert_eq!(send().0, 0);

    write("permit (principal, action, resource); @reason(\"no\") forbid (principal, action == Action::\"read\", resource);");
    assert_eq!(reload(), (0, vec![json!({ "policy": in_force })]));
    let (code, error) = send();
    assert_eq!((code, &error[0]["code"]), (1, &json!(403)), "{error:?}");
    assert_eq!(error[0]["error"], format!("request to {to} failed with code 403: no"));

    // SIGHUP reloads the policies too.
    write("permit (principal, action, resource);");
    run.hang_up();
    assert_eq!(run.event("reloaded"), json!({ "event": "reloaded", "policy": in_force, "error": null }));
    assert_eq!(send().0, 0);
    write("permit (principal, action);");
    run.hang_up();
    let reloaded = run.event("reloaded");
    assert!(text(&reloaded["error"]).contains("rules.cedar:1:"), "{reloaded}");
    assert_eq!(send().0, 0);
    assert_eq!(run.stop().1, 0);
}

#[test]
fn reload_without_policies_is_reported_and_run_goes_on() {
    let (mut run, _) = crate::control::run("home.example");
    let nothing = "the runtime has no policies; set `policy`";
    let (code, error) = protostub_json_in(run.session(), &["reload"]);
    assert_eq!(code, 1);
    assert!(text(&error[0]["error"]).contains(nothing), "{error:?}");
    for _ in 0..2 {
        run.hang_up();
        let reloaded = run.event("reloaded");
        assert!(reloaded["policy"].is_null() && text(&reloaded["error"]).contains(nothing), "{reloaded}");
    }
    assert_eq!(run.stop().1, 0);
}

#[test]
fn run_starts_and_reports_under_any_policy() {
    let (_server, domain) = serve();
    let narrow = r#"permit (principal, action, resource in Domain::"elsewhere.example");"#;
    for rules in ["", narrow, "forbid (principal, action, resource);"] {
        let (mut run, _, _folder) = run_with_rules(&domain, rules);
        let (code, deployed) = protostub_json_in(run.session(), &["deploy", &domain]);
        assert_eq!((code, &deployed[0]["status"]), (0, &json!("live")), "{rules}: {deployed:?}");
        assert_eq!(run.status("live")["stub"], deployed[0]["stub"], "{rules}");
        let (_, code) = run.stop();
        assert_eq!(code, 0, "{rules}");
    }
}

#[test]
fn sends_of_one_runtime_share_an_address() {
    let (_server, domain) = serve();
    let (run, _) = run(&domain);
    let sender = || {
        let (code, sent) = protostub_json_in(run.session(), &["send", "--to", &format!("hyperty://{domain}/alice")]);
        assert_eq!(code, 0, "{sent:?}");
        text(&sent[0]["reply"]["to"]).to_owned()
    };
    assert_eq!(sender(), sender());
}

/// The user has typed neither the address of the runtime nor the sender of a message.
#[test]
fn errors_explain_addresses_that_no_user_has_typed() {
    let (_server, domain) = serve();
    let rules = "permit (principal, action, resource) when { action != Action::\"read\" };";
    let (run, started, _folder) = run_with_rules(&domain, rules);
    let to = format!("hyperty://{domain}/alice");
    let error_of = |more: &[&str]| {
        let (code, error) = protostub_json_in(run.session(), &[&["send", "--to", &to][..], more].concat());
        assert_eq!(code, 1, "{error:?}");
        (text(&error[0]["error"]).to_owned(), error[0]["code"].clone())
    };
    let (error, code) = error_of(&[]);
    assert!(error.starts_with(&format!("failed to send from hyperty://{domain}/")), "{error}");
    assert!(error.contains(", an address for this one message; `--from` sets another: request to "), "{error}");
    assert!(error.contains("no policy permits `read` from ") && code == 403, "{error}");
    // A sender that the user has typed needs no explanation.
    let (error, _) = error_of(&["--from", &format!("hyperty://{domain}/bob")]);
    assert!(error.starts_with("request to "), "{error}");
    for own in ["", "/registry", "/anything"] {
        let own = format!("{}{own}", text(&started["runtime"]));
        let (error, _) = error_of(&["--from", &own]);
        assert_eq!(
            error,
            format!("failed to send from {own}: the address belongs to the runtime itself; set another with `--from`")
        );
    }
}

#[test]
fn text_output_has_sentences_and_tables() {
    let (_server, domain) = serve();
    let (run, started) = run(&domain);
    let ask = |args: &[&str]| {
        let (code, stdout, stderr) = protostub_in(run.session(), args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        stdout
    };
    let mut outputs = vec![("list of nothing", ask(&["list"])), ("deploy", ask(&["deploy", &domain]))];
    let (_, status) = protostub_json_in(run.session(), &["status"]);
    let (status, stub) = (&status[0], &status[0]["stubs"][0]);
    outputs.extend([("list", ask(&["list"])), ("status of a stub", ask(&["status", &domain])), ("status", ask(&["status"]))]);
    outputs.push(("update", ask(&["update", &domain])));
    outputs.push(("undeploy", ask(&["undeploy", &domain])));
    let pid = status["pid"].to_string();
    let names = [
        (text(&stub["sandbox"]), "runtime://127.0.0.1:49152/RUNTIME/sandbox/SANDBOX"),
        (text(&started["runtime"]), "runtime://127.0.0.1:49152/RUNTIME"),
        (text(&stub["stub"]), "hyperty-runtime://127.0.0.1:49152/protostub/STUB"),
        (text(&stub["digest"]), "DIGEST"),
        (&domain, "127.0.0.1:49152"),
        (&pid, "PID"),
    ];
    let counts = outputs.iter().flat_map(|(_, text)| text.lines()).filter(|line| line.contains("messages")).collect::<Vec<_>>();
    assert_eq!(counts.len(), 1);
    assert!(counts[0].contains(" accepted, "), "{counts:?}");
    let all: Vec<_> = outputs.iter().map(|(name, text)| format!("# {name}\n\n{text}")).collect();
    let without_counts = all.join("\n").replace(counts[0], "  messages     (counts)");
    insta::assert_snapshot!("people", named(&without_counts, &names));
}

#[test]
fn update_deploys_the_published_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (catalogue().join("echo"), folder.path().join("echo"));
    fs::create_dir(&to).expect("a folder");
    for file in fs::read_dir(&from).expect("the stub's files") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
    let publish = |version: &str| {
        let text = fs::read_to_string(from.join("descriptor.json")).expect("a descriptor");
        let mut descriptor: Value = serde_json::from_str(&text).expect("JSON");
        descriptor["version"] = version.into();
        fs::write(to.join("descriptor.json"), descriptor.to_string()).expect("written");
    };
    publish("1.0");
    let folder = folder.path().to_str().expect("UTF-8");
    let mut server = Running::start(&["serve", folder, "--bind", "127.0.0.1:0", "--default", "echo"]);
    let domain = text(&server.event("serving")["domain"]).to_owned();
    let (run, _) = run(&domain);
    let ask = |args: &[&str]| protostub_json_in(run.session(), args);
    let told =
        |outcome: &str, from: &str, to: &str| (0, vec![json!({ "key": domain, "outcome": outcome, "from": from, "to": to })]);
    let (code, error) = ask(&["update", &domain]);
    assert_eq!((code, &error[0]["kind"]), (4, &json!("not-deployed")), "{error:?}");
    let (_, deployed) = ask(&["deploy", &domain]);
    assert_eq!(ask(&["update", &domain]), told("up-to-date", "1.0", "1.0"));

    publish("1.1");
    assert_eq!(ask(&["update", &domain, "--check"]), told("available", "1.0", "1.1"));
    assert_eq!(ask(&["list"]).1[0]["version"], "1.0");
    assert_eq!(ask(&["update", &domain]), told("updated", "1.0", "1.1"));
    let (_, stubs) = ask(&["list"]);
    assert_eq!((&stubs[0]["version"], &stubs[0]["stub"]), (&json!("1.1"), &deployed[0]["stub"]));
    assert_eq!(ask(&["update", &domain, "--check"]), told("up-to-date", "1.1", "1.1"));

    publish("1.0");
    assert_eq!(ask(&["update", &domain, "--check"]), told("available", "1.1", "1.0"));
    let (code, error) = ask(&["update", &domain]);
    assert_eq!((code, &error[0]["kind"]), (1, &json!("failed")));
    assert!(text(&error[0]["error"]).contains("allow-older"), "{error:?}");
}

#[test]
fn deploy_here_rehearses_in_its_own_runtime() {
    let (_server, domain) = serve();
    let nowhere = tempfile::tempdir().expect("a folder");
    let (code, stub) = protostub_json_in(nowhere.path(), &["deploy", &domain, "--here"]);
    assert_eq!((code, &stub[0]["status"]), (0, &json!("live")), "{stub:?}");
    let (code, text, _) = protostub(&["deploy", &domain, "--home", &domain]);
    assert_eq!((code, text.as_str()), (0, &*format!("The stub of {domain}, version 0.1.0, is live. It was undeployed again.\n")));
    // Without a flag about a runtime, the commands ask a running one. Only `send` starts its own if
    // none is running.
    let (code, error) = protostub_json_in(nowhere.path(), &["deploy", &domain]);
    assert_eq!((code, &error[0]["kind"]), (3, &json!("no-runtime")), "{error:?}");
    let (code, _) = protostub_json_in(nowhere.path(), &["send", "--to", &format!("hyperty://{domain}/alice")]);
    assert_eq!(code, 0);
}

#[test]
fn runtime_is_found_if_it_is_the_only_one_of_its_user() {
    let (first, started) = run("one.example");
    let socket = PathBuf::from(text(&started["socket"]));
    let folder = socket.parent().expect("a folder");
    assert_eq!(folder, first.session().join("protostub"));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(folder)), (0o600, 0o700));

    let mut second = Running::start_in(first.session(), &["run", "--home", "two.example"]);
    let other = PathBuf::from(text(&second.event("started")["socket"]));
    let (code, error) = protostub_json_in(first.session(), &["status"]);
    assert_eq!(code, 2);
    for path in [&socket, &other] {
        assert!(text(&error[0]["error"]).contains(path.to_str().expect("UTF-8")), "{error:?}");
    }
    let (code, status) = protostub_json_in(first.session(), &["status", "--socket", other.to_str().expect("UTF-8")]);
    assert_eq!((code, &status[0]["home"]), (0, &json!("two.example")));

    // A killed runtime leaves its socket file, which blocks no other runtime.
    second.kill();
    assert!(other.exists());
    let (code, status) = protostub_json_in(first.session(), &["status"]);
    assert_eq!((code, &status[0]["home"]), (0, &json!("one.example")));
    let mut third = Running::start_in(first.session(), &["run", "--home", "three.example"]);
    third.event("started");
    assert!(!other.exists());

    assert_eq!((first.stop().1, third.stop().1), (0, 0));
    assert!(!socket.exists());
}

#[test]
fn control_socket_replaces_no_foreign_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let refused = |socket: &str, expected: &str| {
        let (code, stdout, stderr) = protostub(&["run", "--home", "home.example", "--socket", socket]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.contains(&format!("failed to listen for commands at {socket}: {expected}")), "{stderr}");
    };
    fs::write(path("file"), "precious").expect("written");
    refused(&path("file"), "the path exists, but is not a socket");
    assert_eq!(fs::read_to_string(path("file")).expect("it is there"), "precious");
    let taken = UnixListener::bind(path("taken")).expect("a socket");
    refused(&path("taken"), "another runtime listens at this path");
    refused("/nothing/here/socket", "");

    // A socket file without a listener is replaced. A missing folder is created, for this user
    // only.
    drop(taken);
    for name in ["taken", "new/socket"] {
        let mut run = Running::start(&["run", "--home", "home.example", "--socket", &path(name)]);
        assert_eq!(run.event("started")["socket"], path(name));
        let (code, status) = protostub_json_in(run.session(), &["status", "--socket", &path(name)]);
        assert_eq!((code, &status[0]["home"]), (0, &json!("home.example")));
        // With --socket, the runtime does not also listen at the default path.
        assert_eq!(protostub_json_in(run.session(), &["status"]).0, 3);
        run.stop();
    }
    assert_eq!(fs::metadata(path("new")).expect("a folder").mode() & 0o777, 0o700);

    // A folder that others can write to is not trusted.
    let session = tempfile::tempdir().expect("a folder");
    fs::create_dir(session.path().join("protostub")).expect("a folder");
    fs::set_permissions(session.path().join("protostub"), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let (code, _, stderr) = protostub_in(session.path(), &["list"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("is not a folder that only this user can use"), "{stderr}");
    let mut run = Running::start_in(session.path(), &["run", "--home", "home.example"]);
    assert_eq!(run.event("started")["socket"], Value::Null);
}

/// Root asks a socket of another user.
#[test]
#[expect(clippy::print_stderr, reason = "the output says that the test is skipped")]
fn runtime_of_another_user_is_not_asked() {
    const OTHER: u32 = 12_345;

    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run a command as another user");
        return;
    }
    let session = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(session.path(), Some(OTHER), Some(OTHER)).expect("root may do that");
    let socket = session.path().join("control.sock");
    let args = ["run", "--home", "home.example", "--json", "--socket", socket.to_str().expect("UTF-8")];
    let mut run = command(&args, session.path()).uid(OTHER).gid(OTHER).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut started = String::new();
    BufReader::new(run.stdout.as_mut().expect("a pipe")).read_line(&mut started).expect("a line");
    assert!(started.contains("\"started\""), "{started}");
    let outcome = protostub_json_in(session.path(), &["status", "--socket", socket.to_str().expect("UTF-8")]);
    run.kill().expect("it is killed");
    run.wait().expect("it ends");
    let (code, error) = outcome;
    assert_eq!(code, 2, "{error:?}");
    assert!(text(&error[0]["error"]).contains("belongs to another user (id 12345)"), "{error:?}");
}

/// A client that writes raw lines.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(socket: &Value) -> Self {
        Self(BufReader::new(UnixStream::connect(text(socket)).expect("it listens")))
    }

    fn write(&mut self, line: &[u8]) {
        // If the runtime no longer listens, its last answer shows the reason.
        let _ = self.0.get_mut().write_all(line);
    }

    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("a line");
        let answer = (read > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        answer.inspect(|answer| shapes::check("answer", answer))
    }
}

#[test]
fn control_socket_answers_as_the_readme_documents() {
    let (_server, domain) = serve();
    let (_run, started, _rules) = run_with_rules(&domain, "permit (principal, action, resource);");
    let mut client = Raw::connect(&started["socket"]);
    let mut seen = BTreeSet::new();
    for request in shapes::examples("request") {
        let mut request = request.clone();
        // Replaces the domain in the README's example by the served one.
        for member in ["target", "to"] {
            if let Some(value) = request.get_mut(member).filter(|value| value.is_string()) {
                *value = text(value).replace("sp1.example", &domain).into();
            }
        }
        if let Some(progress) = request.get_mut("progress") {
            *progress = true.into();
        }
        client.write(format!("{request}\n").as_bytes());
        loop {
            let answer = client.read().expect("an answer");
            seen.insert(shapes::kind(&answer));
            assert!(answer.get("error").is_none(), "{request}: {answer}");
            if let Some(result) = answer.get("result") {
                let status = |name, result| shapes::check(name, result);
                match (text(&request["command"]), request["target"].is_string()) {
                    ("deploy" | "undeploy", _) | ("status", true) => status("status DOMAIN", result),
                    ("status" | "follow", _) => status("status", result),
                    ("send", _) => status("send", result),
                    ("update", _) => status("update", result),
                    ("reload", _) => status("reload", result),
                    ("accepted", _) => status("accepted", result),
                    (_, _) => result["stubs"].as_array().expect("a list").iter().for_each(|stub| status("list", stub)),
                }
                break;
            }
        }
    }
    // The last request is `follow`.
    let mut other = Raw::connect(&started["socket"]);
    other.write(format!("{}\n", json!({ "command": "deploy", "target": domain })).as_bytes());
    while let Some(answer) = client.read() {
        seen.insert(shapes::kind(&answer));
        if answer["status"]["status"] == "live" {
            break;
        }
    }
    client.write(b"enough\n");
    while client.read().is_some() {}
    other.write(b"\n");
    seen.insert(shapes::kind(&other.read().expect("the stub")));
    seen.insert(shapes::kind(&other.read().expect("an error")));
    // `hostile.rs` tests `missed`.
    seen.insert("missed".to_owned());
    assert_eq!(seen, shapes::kinds("answer"));
}

/// Returns a request to its own sender, which does not answer.
fn unanswered(number: usize, timeout: f64) -> String {
    let address = format!("hyperty://home.example/{number}");
    format!("{}\n", json!({ "command": "send", "to": address, "from": address, "timeout": timeout }))
}

#[test]
fn client_that_hangs_up_frees_its_place() {
    const CLIENTS: usize = 32;
    /// Less than the requests take.
    const SOON: Duration = Duration::from_secs(60);

    let (run, started) = run("home.example");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Raw::connect(&started["socket"])).collect();
    clients.iter_mut().enumerate().for_each(|(number, client)| client.write(unanswered(number, 600.0).as_bytes()));
    let list = || {
        let mut client = Raw::connect(&started["socket"]);
        client.write(b"{\"command\":\"list\"}\n");
        client.read().expect("an answer")
    };
    assert!(text(&list()["error"]).contains("32 clients"));
    drop(clients);
    let gone = Instant::now();
    while let Some(error) = list().get("error") {
        assert!(gone.elapsed() < SOON, "{error}");
    }
    assert_eq!(run.stop().1, 0);
}

/// `nc -N` closes its own direction after its input.
#[test]
fn client_that_closes_its_own_direction_gets_answers() {
    let (_server, domain) = serve();
    let (run, started) = run(&domain);
    let half_closed = |requests: &str| {
        let mut client = Raw::connect(&started["socket"]);
        client.write(requests.as_bytes());
        client.0.get_mut().shutdown(std::net::Shutdown::Write).expect("half of it");
        client
    };
    let mut client = half_closed(&format!("{}{{\"command\":\"list\"}}\n", unanswered(1, 0.3)));
    assert_eq!(client.read().expect("an answer")["code"], 408);
    assert_eq!(client.read(), Some(json!({ "result": { "stubs": [] } })));
    assert_eq!(client.read(), None);

    let mut follower = half_closed("{\"command\":\"follow\"}\n");
    assert_eq!(follower.read().expect("an answer")["result"]["runtime"], started["runtime"]);
    assert_eq!(protostub_json_in(run.session(), &["deploy", &domain]).0, 0);
    while follower.read().expect("a change")["status"]["status"] != "live" {}
    assert_eq!(run.stop().1, 0);
    assert_eq!(follower.read(), None);
}

#[test]
fn garbage_of_a_client_does_not_end_the_runtime() {
    let (run, started) = run("home.example");
    let refused = |line: &[u8], problem: &str| {
        let mut client = Raw::connect(&started["socket"]);
        client.write(line);
        let answer = client.read().expect("an answer");
        assert_eq!(answer["kind"], "usage", "{answer}");
        assert!(text(&answer["error"]).contains(problem), "{answer}");
        client
    };
    refused(b"\n", "the line is not a request");
    refused(b"\xff\xfe\n", "the line is not a request");
    refused(b"[]\n", "the line is not a request");
    refused(b"{\"command\":\"fly\"}\n", "unknown variant `fly`");
    refused(b"{\"command\":\"list\",\"all\":true}\n", "the line is not a request");
    refused(b"{\"command\":\"deploy\"}\n", "missing field `target`");
    refused(b"{\"command\":\"send\",\"to\":\"hyperty://a.example/1\",\"timeout\":1e300}\n", "0.001 to 600 seconds");
    refused(b"{\"command\":\"send\",\"to\":\"hyperty://a.example/1\",\"bdy\":1}\n", "unknown field `bdy`");
    let deep = format!("{{\"command\":\"send\",\"to\":\"hyperty://a.example/1\",\"body\":{}\n", "[".repeat(100_000));
    refused(deep.as_bytes(), "the line is not a request");
    refused(format!("{}\n", "[".repeat(1_000_000)).as_bytes(), "the line is not a request");
    let long = format!("{{\"command\":\"{}\"}}\n", "\u{202e}".repeat(100_000));
    refused(long.as_bytes(), "unknown variant `\\u{202e}");
    // The connection stays usable after an invalid request.
    let mut client = refused(b"nothing\n", "the line is not a request");
    client.write(b"{\"command\":\"list\"}\n{\"command\":\"list\"}");
    assert_eq!(client.read(), Some(json!({ "result": { "stubs": [] } })));
    client.0.get_mut().shutdown(std::net::Shutdown::Write).expect("half of it");
    assert_eq!(client.read(), Some(json!({ "result": { "stubs": [] } })));
    assert_eq!(client.read(), None);

    // The server does not store an endless line.
    let mut client = Raw::connect(&started["socket"]);
    client.write(&vec![b' '; 4 * 1024 * 1024]);
    assert!(text(&client.read().expect("an answer")["error"]).contains("at most 4194304 bytes"));
    assert_eq!(client.read(), None);

    // Clients over the limit are refused until others disconnect.
    let list = |client: &mut Raw| {
        client.write(b"{\"command\":\"list\"}\n");
        client.read().expect("an answer")
    };
    let mut clients: Vec<_> = (0..32).map(|_| Raw::connect(&started["socket"])).collect();
    // An answer proves that the server has accepted the client.
    while let Some(error) = clients.iter_mut().map(list).find(|answer| answer.get("error").is_some()) {
        // The server is still closing the previous connections.
        assert!(text(&error["error"]).contains("32 clients"), "{error}");
        clients = (0..32).map(|_| Raw::connect(&started["socket"])).collect();
    }
    let mut one_more = Raw::connect(&started["socket"]);
    assert!(text(&one_more.read().expect("an answer")["error"]).contains("32 clients"));
    assert_eq!(one_more.read(), None);
    drop(clients);
    assert_eq!(run.stop().1, 0);
}

#[test]
fn run_prints_every_documented_event() {
    let (server, domain) = serve();
    let me = format!("hyperty://{domain}/me");
    let flags = ["--hyperty", &me, "--register", "--deploy", &domain, "--deploy", "127.0.0.1:1"];
    let (mut run, _folder) = start_with_rules(&domain, "permit (principal, action, resource);", &flags);
    let mut seen = BTreeSet::new();
    let expected = shapes::kinds("run");
    // The registry of the echo stub knows no hyperty: it echoes each request.
    while seen.len() + 5 < expected.len() {
        seen.insert(shapes::kind(&run.line()));
    }
    let (code, _) = protostub_json_in(run.session(), &["send", "--to", &me]);
    assert_eq!(code, 0);
    run.event("message");
    run.hang_up();
    run.event("reloaded");
    seen.extend(["message".to_owned(), "reloaded".to_owned()]);
    let (_, code) = run.stop();
    assert_eq!(code, 1, "one stub could not be deployed");
    // `hostile.rs` tests `dropped`. `run` reads its own changes, so it misses none.
    seen.extend(["stopped".to_owned(), "dropped".to_owned(), "missed".to_owned()]);
    assert_eq!(seen, expected);
    drop(server);
}
