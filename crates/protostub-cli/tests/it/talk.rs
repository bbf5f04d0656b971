//! `protostub send` and `protostub run`, over a domain of `protostub serve`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{Running, catalogue, protostub, protostub_json};

fn serve(default: &str) -> (Running, String) {
    let folder = catalogue().to_str().expect("UTF-8");
    let mut server = Running::start(&["serve", folder, "--bind", "127.0.0.1:0", "--default", default]);
    let domain = server.event("serving")["domain"].as_str().expect("a text").to_owned();
    (server, domain)
}

#[test]
fn send_prints_the_reply_and_logs_every_step() {
    let (_server, domain) = serve("echo");
    let to = format!("hyperty://{domain}/alice");
    let cache = tempfile::tempdir().expect("a folder");
    let cache = cache.path().to_str().expect("UTF-8");
    let (code, json) =
        protostub_json(&["send", "--to", &to, "--type", "create", "--body", r#"{"text":"é"}"#, "--cache-dir", cache]);
    assert_eq!(code, 0, "{json}");
    let reply = &json["reply"];
    assert_eq!((&reply["type"], &reply["from"], &reply["body"]["code"]), (&json!("response"), &json!(to), &json!(200)));
    assert_eq!(reply["body"]["value"], json!({ "text": "é" }));
    assert!(json["milliseconds"].is_u64());

    let (code, text, log) = protostub(&["send", "--to", &to, "--body", "\"hello\"", "--cache-dir", cache, "-v"]);
    assert_eq!(code, 0);
    assert!(text.starts_with(&format!("200 from {to} after ")), "{text}");
    assert!(text.contains(r#""value": "hello""#), "{text}");
    for step in 1..=22 {
        assert!(log.contains(&format!("step={step} ")), "step {step}: {log}");
    }
}

#[test]
fn runtimes_talk_over_a_message_node() {
    let (server, domain) = serve("message-node");
    let bob = format!("hyperty://{domain}/bob");
    let mut run = Running::start(&["run", "--home", &domain, "--hyperty", &bob, "--register", "--answer", r#""Here is Bob.""#]);
    assert_eq!(run.event("listening")["hyperty"], json!(bob));
    let registered = run.event("registered");
    assert_eq!(registered["hyperty"], json!(bob));

    let (code, json) = protostub_json(&["send", "--to", &bob, "--body", r#"{"resource":"greeting"}"#]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["reply"]["body"]["value"], "Here is Bob.");
    let arrived = run.event("message");
    assert_eq!((&arrived["hyperty"], &arrived["message"]["body"]["resource"]), (&json!(bob), &json!("greeting")));

    // The message node answers for an unknown receiver.
    let (code, json) = protostub_json(&["send", "--to", &format!("hyperty://{domain}/nobody")]);
    assert_eq!((code, &json["reply"]["body"]["code"]), (1, &json!(404)), "{json}");

    let (last, code) = run.stop();
    assert_eq!((code, last), (0, json!({ "event": "stopped", "stopped": [domain], "abandoned": [] })));
    assert_eq!(server.stop().1, 0);
}

/// A server that was killed has lost its registrations.
#[test]
fn registered_hyperty_is_found_after_its_server_was_killed() {
    let (mut server, domain) = serve("message-node");
    let bob = format!("hyperty://{domain}/bob");
    let mut run = Running::start(&["run", "--home", &domain, "--hyperty", &bob, "--register"]);
    run.event("registered");
    server.kill();
    let folder = catalogue().to_str().expect("UTF-8");
    let mut server = Running::start(&["serve", folder, "--bind", &domain, "--default", "message-node"]);
    server.event("serving");
    run.status("live");
    let begin = Instant::now();
    loop {
        let (code, json) = protostub_json(&["send", "--to", &bob]);
        if code == 0 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{json}");
    }
    assert_eq!(run.stop().1, 0);
}

#[test]
fn registration_whose_deployment_fails_is_a_problem() {
    let bob = "hyperty://127.0.0.1:1/bob";
    let mut run = Running::start(&["run", "--home", "127.0.0.1:1", "--hyperty", bob, "--register"]);
    let mut problem = run.line();
    while problem["event"] != "problem" {
        problem = run.line();
    }
    assert_eq!(problem["what"], format!("registering {bob}"));
    assert!(problem["error"].as_str().expect("a text").contains("failed to deploy"), "{problem}");
    assert_eq!(run.stop().1, 1);
}

#[test]
fn run_deploys_a_stub_at_the_start() {
    let (_server, domain) = serve("echo");
    let mut run = Running::start(&["run", "--home", &domain, "--deploy", &domain]);
    let runtime = run.event("started")["runtime"].as_str().expect("a text").to_owned();
    assert!(runtime.starts_with(&format!("runtime://{domain}/")));
    let deployed = run.event("deployed");
    assert_eq!(deployed["target"], json!(domain));
    assert!(
        deployed["stub"].as_str().expect("a text").starts_with(&format!("hyperty-runtime://{domain}/protostub/")),
        "{deployed}"
    );
    assert_eq!(run.stop().1, 0);
}

#[test]
fn run_prints_the_statuses_of_stubs() {
    let (_server, domain) = serve("echo");
    let mut run = Running::start(&["run", "--home", &domain, "--deploy", &domain]);
    let mut status: Value;
    loop {
        status = run.event("status");
        if status["status"] == "live" {
            break;
        }
    }
    assert!(status["stub"].as_str().expect("a text").starts_with("hyperty-runtime://"), "{status}");
}
