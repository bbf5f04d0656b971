//! Replays the fuzzers' corpus: the seeds, and inputs that once found a fault. `cargo xtask fuzz`
//! searches for more with the same functions.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "the fuzzers' own library exports them")]
#[path = "../fuzz/src/consumers.rs"]
mod consumers;
#[expect(unreachable_pub, reason = "the fuzzers' own library exports them")]
#[path = "../fuzz/src/sandbox.rs"]
mod sandbox;
#[expect(unreachable_pub, reason = "the fuzzers' own library exports them")]
#[path = "../fuzz/src/text.rs"]
mod text;

/// Runs a target with each file of its corpus. Names the file if the target panics.
fn replay(target: &str, with: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no seeds");
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        if let Err(panic) = std::panic::catch_unwind(|| with(&bytes)) {
            let text =
                panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("{target} fails with {}: {}", file.display(), text.unwrap_or_default());
        }
    }
}

#[test]
fn corpus_of_addresses() {
    replay("address", text::address);
}

#[test]
fn corpus_of_messages() {
    replay("message", text::message);
}

#[test]
fn corpus_of_descriptors() {
    replay("descriptor", text::descriptor);
}

#[test]
fn corpus_of_signatures() {
    replay("jws", text::jws);
}

#[test]
fn corpus_of_http_answers() {
    replay("http", text::http);
}

#[test]
fn corpus_of_policies() {
    replay("policy", text::policy);
}

#[test]
fn corpus_of_consumers() {
    replay("consumer", consumers::consumer);
}

#[test]
fn corpus_of_control_lines() {
    replay("control", consumers::control);
}

#[test]
fn corpus_of_settings() {
    replay("settings", sandbox::settings);
}

/// Components and calls share a runtime, which must be unchanged after each input. So they run one
/// after the other.
#[test]
fn corpus_of_components_and_host_calls() {
    replay("component", sandbox::component);
    replay("host_calls", sandbox::host_calls);
}
