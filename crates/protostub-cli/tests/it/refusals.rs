//! What cannot be done is told, with an exit code that scripts can use.

use std::{fs, net::TcpListener};

use crate::command::protostub;

#[test]
fn a_wrong_command_line_has_exit_code_2() {
    for args in [
        &["fly"] as &[&str],
        &["send"],
        &["send", "--to", "a b"],
        &["send", "--to", "mn:/session"],
        &["send", "--to", "hyperty://a.example/1", "--body", "hello"],
        &["send", "--to", "hyperty://a.example/1", "--type", ""],
        &["send", "--to", "hyperty://a.example/1", "--timeout", "0"],
        &["send", "--to", "hyperty://a.example/1", "--grant", "b.example:1"],
        &["send", "--to", "hyperty://a.example/1", "--trust-root", "/nothing/here.pem"],
        &["run"],
        &["run", "--home", "home.example", "--config", "/nothing/here.toml"],
        &["serve", "/nothing/here"],
        &["serve", "--bind", "nowhere"],
        &["serve", "--default", "echo"],
        &["inspect", "nothing.wasm"],
        &["inspect", "a b"],
    ] {
        let (code, stdout, stderr) = protostub(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_settings_file_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("protostub.toml");
    let check = |text: &str, expected: &str| {
        fs::write(&file, text).expect("written");
        let (code, _, stderr) = protostub(&["run", "--config", file.to_str().expect("UTF-8")]);
        assert!(code == 2 && stderr.contains(expected), "{text}: {code} {stderr}");
    };
    check("hom = 'home.example'", "unknown field `hom`");
    check("home = 'a b'", "is not a domain");
    check("home =", "TOML parse error at line 1");
    check("home = 'home.example'\n[domains.'sp1.example']\ngrants = ['everything']", "is not a rule");
    check(
        "home = 'home.example'\n[domains.'sp1.example']\ncredential = { kind = 'bearer', file = 'none' }",
        "none: No such file",
    );
    check("allow-loopback = true", "needs a home domain");
}

#[test]
fn what_does_not_work_has_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, stderr) = protostub(&["serve", "--bind", &address]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with(&format!("protostub: failed to listen on {address}: is the port in use")), "{stderr}");

    drop(taken);
    let (code, stdout, stderr) = protostub(&["send", "--to", &format!("hyperty://{address}/alice"), "--json"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let error: serde_json::Value = serde_json::from_str(stderr.lines().last().expect("a line")).expect("JSON");
    assert_eq!(error["code"], 503, "{stderr}");
    let (code, _, stderr) = protostub(&["inspect", &address]);
    assert_eq!(code, 1);
    assert!(stderr.contains("/.well-known/protostub/default"), "{stderr}");
}
