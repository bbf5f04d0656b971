//! The host program of `crates/protostub-runtime/examples/embed.rs`, run as its documentation says.

use std::process::Command;

use serde_json::json;

use crate::support::{component, descriptor};

#[test]
fn a_host_program_of_30_lines_embeds_the_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let echo = component("echo");
    std::fs::write(folder.path().join("descriptor.json"), descriptor(&echo, json!({})).to_json()).expect("written");
    std::fs::write(folder.path().join("component.wasm"), &echo).expect("written");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .args(["run", "--quiet", "--example", "embed", "--"])
        .arg(folder.path())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    let output = String::from_utf8_lossy(&run.stdout);
    let told = format!("{output}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{told}");
    assert!(output.contains(r#"reply: {"id":1,"type":"response","from":"hyperty://sp1.example/alice""#), "{told}");
    assert!(output.contains("sp1.example is live"), "{told}");
    assert!(output.contains("abandoned: []"), "{told}");
}
