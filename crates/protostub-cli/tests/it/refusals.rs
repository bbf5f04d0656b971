//! Failures: their texts, and the exit codes that scripts rely on.

use std::{fs, net::TcpListener};

use crate::command::protostub;

#[test]
fn wrong_command_line_has_exit_code_2() {
    for args in [
        &["fly"] as &[&str],
        &["send"],
        &["send", "--to", "a b"],
        &["send", "--to", "mn:/session"],
        &["send", "--to", "hyperty://a.example/1", "--body", "hello"],
        &["send", "--to", "hyperty://a.example/1", "--type", ""],
        &["send", "--to", "hyperty://a.example/1", "--timeout", "0"],
        &["send", "--to", "hyperty://a.example/1", "--grant", "b.example:1"],
        &["send", "--to", "hyperty://a.example/1", "--grant", "b.example=c.example:1", "--grant", "B.example=d.example:1"],
        &["send", "--to", "hyperty://a.example/1", "--trust-root", "/nothing/here.pem"],
        &["run"],
        &["send", "--to", "hyperty://a.example/1", "--socket", "s", "--here"],
        &["deploy"],
        &["deploy", "a b", "--here"],
        &["deploy", "sp1.example", "--socket", "s", "--home", "home.example"],
        &["undeploy"],
        &["list", "--follow"],
        &["list", "--quiet", "--verbose"],
        &["run", "--home", "home.example", "--config", "/nothing/here.toml"],
        &["serve", "/nothing/here"],
        &["serve", "--bind", "nowhere"],
        &["serve", "--default", "echo"],
        &["inspect", "nothing.wasm"],
        &["conformance"],
        &["conformance", "nothing.wasm"],
        &["conformance", "nothing.wasm", "--configuration", "[]"],
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
    check("hom = 'home.example'", "protostub.toml:1:1: unknown key `hom`; did you mean `home`?");
    check("home = 'a b'", "is not a domain");
    check("home =", "protostub.toml:1:7: ");
    check("home = 'home.example'\n[domains.'sp1.example']\ngrants = ['everything']", "is not a rule");
    check(
        "home = 'home.example'\n[domains.'sp1.example']\ncredential = { kind = 'bearer', file = 'none' }",
        "none: No such file",
    );
    check("allow-loopback = true", "needs a home domain");
    check("home = 'home.example'\nmax-stubs = 0", "protostub.toml:2:13: `max-stubs` is 0, but no stub could be deployed");
    check("home = 'home.example'\n[limits]\nbody-bytes = -1", "protostub.toml:3:14: `body-bytes` is `-1`; write a whole number");
    check("home = 'home.example'\nsocket = ''", "protostub.toml:2:10: `socket`: the path is empty");
    let far = "x".repeat(300);
    check(&format!("home = 'home.example'\nsocket = '{far}'"), "protostub.toml:2:10: `socket`: failed to ");
    check(
        &format!("home = 'home.example'\ncache-dir = '{far}'"),
        "protostub.toml:2:13: `cache-dir`: failed to prepare the cache",
    );
    check("home = 'home.example'\ndeploy = ['a b']", "protostub.toml:2:10: `deploy`: `a b` is not an address");
    let twice = "home = 'home.example'\nhyperties = ['hyperty://home.example/a', 'hyperty://home.example/a']";
    check(twice, "protostub.toml:2:13: `hyperties`: `hyperty://home.example/a` is listed twice");
    check(
        "home = 'home.example'\n[domains.'LocalHost:8001']\nsignatures = 'require'\n[domains.'localhost:8001']\nregister = true",
        "protostub.toml:4:10: `localhost:8001` and `LocalHost:8001` are two spellings of `localhost:8001`: keep one of the two",
    );
    check(
        "home = 'home.example'\n[domains]\n'xn--bcher-kva.example' = {}\n'bücher.example' = {}",
        "protostub.toml:3:1: `xn--bcher-kva.example` and `bücher.example` are two spellings of `xn--bcher-kva.example`",
    );
    check("home = 'home.example'\n[domains.'[::1]']\n[domains.'[0:0::1]']", "`[::1]` and `[0:0::1]` are two");
    check("home = 'home.example'\n[domains.'sp1.example']\n[domains.'sp1.example.']", "`sp1.example.` and `sp1.example` are two");
    check(
        "home = 'home.example'\n[domains.'sp1.example']\nsignatures = 'require'\n[domains.'sp1.example:443']\nsignatures = 'off'",
        "protostub.toml:4:10: `sp1.example:443` and `sp1.example` are two spellings of `sp1.example`: keep one of the two",
    );
    check(
        "home = 'home.example'\n[domains.'sp1.example']\noauth2 = { token-endpoint = 'https://a.example', client-id = 'a', client-secret = { env = 'A' }, scopes = ['chat mail'] }",
        "the domain `sp1.example`: `chat mail` is not a valid scope; write each scope as a separate string",
    );
    check("home = 'home.example'\npolicy = 'none.cedar'", "failed to read the policies in ");
    fs::write(folder.path().join("rules.cedar"), "permit (principal is Stab, action, resource);").expect("written");
    let expected = "rules.cedar:1:22: unrecognized entity type `Stab`: did you mean `Stub`?";
    check("home = 'home.example'\npolicy = 'rules.cedar'", expected);
}

#[test]
fn failed_command_has_exit_code_1() {
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

#[test]
fn errors_match_the_reviewed_snapshot() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("protostub.toml");
    fs::write(&file, "home = 'home.example'\nconect-timeout-seconds = 3\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let socket = folder.path().join("socket");
    let socket = socket.to_str().expect("UTF-8");
    let commands: [&[&str]; 8] = [
        &["list"],
        &["undeploy", "sp1.example", "--socket", socket],
        &["deploy", "sp1.example"],
        &["deploy", "sp1.example", "--socket", socket, "--here"],
        &["run"],
        &["run", "--config", file],
        &["inspect", "a b"],
        &["list", "--json"],
    ];
    let outputs = commands.map(|args| {
        let (code, stdout, stderr) = protostub(args);
        assert_eq!(stdout, "");
        format!("$ protostub {}\n{stderr}exit code {code}\n", args.join(" "))
    });
    let folder = folder.path().to_str().expect("UTF-8");
    insta::assert_snapshot!("errors", outputs.join("\n").replace(folder, "FOLDER"));
}
