//! `protostub explain-egress`.

use std::fs;

use serde_json::{Value, json};

use crate::command::{Running, protostub, protostub_json, protostub_json_in};

/// Runs `explain-egress` with these settings. Returns the verdict and the whole answer.
fn explained(domain: &str, url: &str, settings: &str) -> (bool, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("protostub.toml");
    fs::write(&file, settings).expect("written");
    let (code, json) = protostub_json(&["explain-egress", domain, url, "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(code == 0, json["allowed"] == true, "{json}");
    (code == 0, json)
}

fn fits(json: &Value) -> Vec<(&str, &str, &str)> {
    let rules = json["rules"].as_array().expect("a list");
    rules
        .iter()
        .map(|rule| {
            let text = |name: &str| rule[name].as_str().expect("a text");
            (text("rule"), text("by"), text("fit"))
        })
        .collect()
}

#[test]
fn explained_rules_equal_those_of_run() {
    // No server listens there, so the descriptor is unavailable.
    let domain = "127.0.0.1:9";
    let (allowed, json) = explained(domain, "http://127.0.0.1:9/x?secret", "");
    assert!(allowed, "{json}");
    assert_eq!(fits(&json), [("127.0.0.1:9,443,5223,8883", "same domain", "allows it")]);
    assert_eq!(json["addresses"], json!([{ "address": "127.0.0.1", "is": "loopback, RFC 1122", "dialled": true }]));
    assert!(json["descriptor"].is_null() && json["problem"].as_str().expect("a text").contains("no connection"), "{json}");

    let (allowed, json) = explained(domain, "http://10.0.0.1/", "");
    assert!(!allowed);
    assert_eq!(
        json["reason"],
        "`10.0.0.1:80` without TLS is refused: no rule names this host; grant `10.0.0.1:80 plain` to allow it"
    );

    let grant = format!("[domains.'{domain}']\ngrants = ['10.0.0.1:80 plain', '*.cdn.example:443']");
    let (allowed, json) = explained(domain, "http://10.0.0.1/", &grant);
    let reason = json["reason"].as_str().expect("a text");
    assert!(!allowed && reason.contains("private, RFC 1918") && reason.contains("grant private networks"), "{json}");
    assert_eq!(fits(&json)[1], ("10.0.0.1:80 plain", "operator", "allows it"));
    let (allowed, json) = explained(domain, "http://10.0.0.1/", &format!("{grant}\nallow-private = true"));
    assert!(allowed, "{json}");

    // A home domain on this machine does not open this machine to other domains.
    let grant = format!("home = '127.0.0.1:9'\nallow-loopback = true\n[domains.'10.0.0.1']\ngrants = ['{domain} plain']");
    let (allowed, json) = explained("10.0.0.1", &format!("http://{domain}/"), &grant);
    let reason = json["reason"].as_str().expect("a text");
    assert!(!allowed && reason.contains("grant loopback (`allow-loopback` for the domain) to allow it"), "{json}");
    let (allowed, json) = explained("10.0.0.1", &format!("http://{domain}/"), &format!("{grant}\nallow-loopback = true"));
    assert!(allowed, "{json}");

    // No grant opens a metadata service.
    let grant = format!("[domains.'{domain}']\nallow-private = true\ngrants = ['169.254.169.254:80 plain']");
    let (allowed, json) = explained(domain, "http://169.254.169.254/latest/meta-data", &grant);
    assert!(!allowed && json["reason"].as_str().expect("a text").contains("no grant allows it"), "{json}");
}

#[test]
fn explained_rules_include_the_ports_of_the_descriptor() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("echo")).expect("a folder");
    fs::write(folder.path().join("echo/descriptor.json"), r#"{ "version": "1.0", "ports": [4711] }"#).expect("written");
    fs::write(folder.path().join("echo/component.wasm"), b"\0asm").expect("written");
    let mut server = Running::start(&["serve", folder.path().to_str().expect("UTF-8"), "--bind", "127.0.0.1:0"]);
    let domain = server.event("serving")["domain"].as_str().expect("a text").to_owned();
    let (allowed, json) = explained(&domain, "tls://127.0.0.1:4711", "");
    assert!(allowed && json["descriptor"].as_str().expect("a URL").contains("/.well-known/protostub/default"), "{json}");
    assert!(!explained(&domain, "tls://127.0.0.1:4712", "").0);
    let (code, text, _) = protostub(&["explain-egress", &domain, "tls://127.0.0.1:4712"]);
    assert_eq!(code, 1);
    let expected = [
        "is refused: rule `127.0.0.1:",
        "names this host on other ports",
        "(same domain): other ports",
        "the descriptor http://",
    ];
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    server.stop();
}

#[test]
fn explain_egress_of_an_unusable_url_is_a_usage_error() {
    let session = tempfile::tempdir().expect("a folder");
    for (args, expected) in [
        (["sp1.example", "file:///etc/passwd"], "the scheme is not one of"),
        (["sp1.example", "tcp://sp1.example"], "the URL has no port"),
        (["a b", "https://sp1.example"], "a b"),
    ] {
        let (code, error) = protostub_json_in(session.path(), &[&["explain-egress"][..], &args].concat());
        assert!(code == 2 && error[0]["error"].as_str().expect("a text").contains(expected), "{args:?}: {error:?}");
    }
}
