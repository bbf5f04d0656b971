//! `protostub inspect`.

use std::fs;

use serde_json::json;

use crate::command::{Running, catalogue, command, protostub, protostub_json};

#[test]
fn inspect_shows_the_contract_of_a_component() {
    let file = protostub_artifacts::path("echo");
    let file = file.to_str().expect("UTF-8");
    let (code, json) = protostub_json(&["inspect", file]);
    assert_eq!(code, 0, "{json}");
    assert_eq!((&json["file"], &json["component"]["contract"]), (&json!(file), &json!("0.1")));
    assert_eq!(json["component"]["exports"], json!(["rethink:protostub/stub@0.1.0"]));
    assert_eq!(json["component"]["bytes"], fs::metadata(file).expect("a file").len());
    let (code, text, _) = protostub(&["inspect", file]);
    assert_eq!(code, 0);
    for line in ["contract  0.1", "exports   rethink:protostub/stub@0.1.0", "rethink:protostub/bus@0.1.0"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn inspect_of_a_non_stub_shows_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes, problem) in [
        ("page.wasm", b"<html>".as_slice(), "the component is not WebAssembly"),
        ("core.wasm", b"\0asm\x01\0\0\0", "the bytes are a core WebAssembly module"),
        ("empty.wasm", b"\0asm\x0d\0\x01\0", "the component is not a protocol stub"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).expect("written");
        let (code, json) = protostub_json(&["inspect", file.to_str().expect("UTF-8")]);
        assert_eq!(code, 1, "{json}");
        assert!(json["component"]["problem"].as_str().expect("a text").starts_with(problem), "{json}");
        assert_eq!(json["component"]["sha256"].as_str().expect("a text").len(), 64);
    }
}

/// The bytes of a file's name need not be UTF-8.
#[cfg(unix)]
#[test]
fn files_with_any_name_are_accepted() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, process::Output};
    let folder = tempfile::tempdir().expect("a folder");
    let odd = folder.path().join(OsStr::from_bytes(b"od\xff\xfe d"));
    fs::create_dir(&odd).expect("made");
    fs::copy(protostub_artifacts::path("echo"), odd.join("echo.wasm")).expect("copied");
    let run = |args: &[&OsStr]| {
        let Output { status, stdout, stderr } = command(&[], folder.path()).args(args).output().expect("the command starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    };
    let (file, missing) = (odd.join("echo.wasm"), odd.join("none.wasm"));
    let (code, json, log) = run(&["inspect".as_ref(), file.as_os_str(), "--json".as_ref()]);
    assert_eq!(code, Some(0), "{log}");
    assert!(json.contains(r#""contract":"0.1""#) && json.contains("od\u{fffd}\u{fffd} d/echo.wasm"), "{json}");
    let (code, _, log) = run(&["inspect".as_ref(), missing.as_os_str()]);
    assert!(code == Some(2) && log.contains("none.wasm: No such file"), "{log}");
    for target in ["inspect", "verify"] {
        let (code, _, log) = run(&[target.as_ref(), odd.as_os_str()]);
        assert!(code == Some(2) && log.contains("is neither a file nor a domain: the text is not UTF-8"), "{log}");
    }
    let (key, jwks) = (odd.join("sp1.key"), odd.join("jwks.json"));
    for _ in ["made", "kept"] {
        let keygen = ["keygen".as_ref(), key.as_os_str(), "--jwks".as_ref(), jwks.as_os_str(), "--json".as_ref()];
        let (code, json, log) = run(&keygen);
        assert!(code == Some(0) && json.contains("jwks.json"), "{json} {log}");
    }
}

#[test]
fn inspect_of_a_domain_verifies_its_stub() {
    let mut server =
        Running::start(&["serve", catalogue().to_str().expect("UTF-8"), "--bind", "127.0.0.1:0", "--default", "echo"]);
    let serving = server.event("serving");
    assert_eq!(
        (&serving["stubs"], &serving["default"], &serving["problems"]),
        (&json!(["echo", "message-node"]), &json!("echo"), &json!([]))
    );
    let domain = serving["domain"].as_str().expect("a text");
    let (code, json) = protostub_json(&["inspect", domain]);
    assert_eq!(code, 0, "{json}");
    assert_eq!((&json["domain"], &json["publisher"]), (&json!(domain), &json!(domain)));
    assert_eq!(json["url"], format!("http://{domain}/.well-known/protostub/default"));
    assert_eq!((&json["descriptor"]["objectName"], &json["component"]["contract"]), (&json!("echo"), &json!("0.1")));
    assert_eq!(json["descriptor"]["sourcePackage"]["sha256"], json["component"]["sha256"]);
    let (code, text, _) = protostub(&["inspect", &format!("hyperty://{domain}/alice")]);
    assert_eq!(code, 0);
    assert!(text.contains("name         echo\n"), "{text}");
    let (last, code) = server.stop();
    assert_eq!((last, code), (json!({ "event": "stopped", "clients": 0, "unfinished": 0 }), 0));
}

#[test]
fn compiled_code_is_loaded_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cache, file) = (folder.path().join("cache"), protostub_artifacts::path("echo"));
    let args = ["inspect", file.to_str().expect("UTF-8"), "--cache-dir", cache.to_str().expect("UTF-8"), "-vv"];
    let inspect = || {
        let (code, text, log) = protostub(&args);
        assert_eq!(code, 0, "{log}");
        (text, log)
    };
    let (first, log) = inspect();
    assert!(log.contains("the compiled code is kept"), "{log}");
    let (second, log) = inspect();
    assert!(log.contains("the compiled code is in the cache") && !log.contains("is kept"), "{log}");
    assert_eq!(first, second);
}
