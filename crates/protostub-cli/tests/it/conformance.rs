//! `protostub conformance`.

use std::fs;

use crate::command::{protostub, protostub_json, protostub_json_in};

#[test]
fn conformance_reports_a_stub_in_each_format() {
    let file = protostub_artifacts::path("echo");
    let file = file.to_str().expect("UTF-8");
    let only = ["--only", "stub/start", "--only", "stub/server/drops"];
    let (code, json) = protostub_json(&[&["conformance", file], &only[..]].concat());
    assert_eq!((code, &json["passed"], &json["failed"], &json["skipped"]), (0, &3.into(), &0.into(), &1.into()), "{json}");
    let (code, text, _) = protostub(&[&["conformance", file], &only[..]].concat());
    assert_eq!((code, text.lines().last()), (0, Some("3 passed, 0 failed, 1 skipped")), "{text}");
    assert!(text.contains("skip  stub/server/drops                   the stub has no server"), "{text}");
    let (code, xml, _) = protostub(&[&["conformance", file, "--format", "junit"], &only[..]].concat());
    assert!(code == 0 && xml.starts_with("<?xml") && xml.contains("classname=\"stub.start\""), "{xml}");
}

#[test]
fn conformance_of_a_non_stub_fails_with_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("page.wasm");
    fs::write(&file, "<html>").expect("written");
    let (code, json) = protostub_json(&["conformance", file.to_str().expect("UTF-8")]);
    assert_eq!((code, &json["passed"], &json["failed"]), (1, &0.into(), &1.into()), "{json}");
    assert_eq!(json["outcomes"][0]["observed"], "the component is not WebAssembly: the bytes do not begin with `\\0asm`");
}

#[test]
fn conformance_list_prints_all_cases() {
    let session = tempfile::tempdir().expect("a folder");
    let (code, cases) = protostub_json_in(session.path(), &["conformance", "--list"]);
    assert!(code == 0 && cases.len() > 30, "{cases:?}");
}
