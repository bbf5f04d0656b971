//! The host programs in `crates/protostub-runtime/examples`, run as their documentation says.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::json;

use crate::support::{component, descriptor};

/// The program has 30 lines.
#[test]
fn example_embed_deploys_a_stub_and_gets_a_reply() {
    let folder = tempfile::tempdir().expect("a folder");
    let echo = component("echo");
    std::fs::write(folder.path().join("descriptor.json"), descriptor(&echo, json!({})).to_json()).expect("written");
    std::fs::write(folder.path().join("component.wasm"), &echo).expect("written");
    let run = run_example("embed", &[folder.path()]);
    let output = String::from_utf8_lossy(&run.stdout);
    let told = format!("{output}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{told}");
    assert!(output.contains(r#"reply: {"id":1,"type":"response","from":"hyperty://sp1.example/alice""#), "{told}");
    assert!(output.contains("sp1.example is live"), "{told}");
    assert!(output.contains("abandoned: []"), "{told}");
}

#[test]
fn host_program_with_its_own_settings_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let echo = component("echo");
    std::fs::write(folder.path().join("descriptor.json"), descriptor(&echo, json!({})).to_json()).expect("written");
    std::fs::write(folder.path().join("component.wasm"), &echo).expect("written");
    let settings = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/protostub-runtime/examples/host.toml"));
    let run = run_example("host", &[settings, folder.path()]);
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}\n{}", String::from_utf8_lossy(&run.stderr));
    let expected = [
        "the peer answers with code 200",
        "broken.example: the domain has to publish another component: the component is not WebAssembly: the bytes do not begin with `\\0asm`",
        "1 stopped, 0 abandoned",
        "10 echoes",
        "after the shutdown: start the program again",
        "the stub: it ended with the program",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn errors_are_inspected_without_other_crates() {
    let run = run_example("errors", &[]);
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}\n{}", String::from_utf8_lossy(&run.stderr));
    let expected = [&["correct the home domain"][..], &["true"; 5], &[r#"{"url":"https://sp1.example/"}"#]].concat();
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

fn run_example(name: &str, arguments: &[&Path]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args(["run", "--quiet", "--example", name, "--"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs")
}
