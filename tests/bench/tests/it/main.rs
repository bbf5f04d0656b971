//! Check that the harness works: it measures each thing once, and judges nothing.

use std::{fs, process::Command};

use serde_json::Value;

/// The ids that the report must have.
const IDS: [&str; 23] = [
    "bus_vs_mpsc",
    "crossing_us",
    "deploy_cold_vs_compile",
    "deploy_growth",
    "deploy_warm_ms",
    "deploy_warm_vs_parts",
    "gateway_100b",
    "gateway_4k",
    "herd_p90_ms",
    "idle_cpu_10000",
    "idle_stub_kib",
    "idle_stub_vs_bare",
    "idle_vs_extism",
    "instantiate_vs_bare",
    "instantiate_vs_extism",
    "message_growth",
    "p99_10000_vs_100",
    "queued_vs_limit",
    "subscribe_growth",
    "trip_loaded_vs_bare",
    "trip_vs_bare",
    "trip_vs_extism",
    "trip_vs_node",
];
/// Figures that need a program that this test does not build, or that may be missing.
const OPTIONAL: [&str; 4] = ["idle_vs_extism", "instantiate_vs_extism", "trip_vs_extism", "trip_vs_node"];

#[test]
fn every_figure_is_measured_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = env!("CARGO_BIN_EXE_protostub-bench");
    let output = Command::new(bench).arg("--smoke").arg("--out").arg(folder.path()).output().expect("it starts");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(folder.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert!(report["machine"]["cpu"].is_string(), "{report}");
    let figures = report["figures"].as_object().expect("figures");
    assert_eq!(figures.keys().map(String::as_str).collect::<Vec<_>>(), IDS);
    for (id, figure) in figures {
        let of_type = figure["unit"].is_string() && figure["target"].is_string() && figure["met"].is_boolean();
        assert!(of_type && figure["spread"].is_number() && figure["runs"].is_number(), "{id}: {figure}");
        let sides = figure["sides"].as_array().expect("sides");
        if figure["value"].is_null() {
            assert!(OPTIONAL.contains(&id.as_str()) && figure["note"].is_string(), "{id}: {figure}");
        } else {
            let wanted = if figure["unit"] == "ratio" { 2 } else { 1 };
            assert!(sides.len() >= wanted && figure["runs"].as_u64() >= Some(1), "{id}: {figure}");
        }
    }
    let last = shown.lines().last().expect("a last line");
    let met = figures.values().filter(|figure| figure["met"] == true).count();
    assert_eq!(last, format!("{met} met, {} short", IDS.len() - met));
}

#[test]
fn unknown_figure_is_rejected_with_the_list() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_protostub-bench")).args(["--only", "trip_vs_bear"]).output().expect("it starts");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("unknown figure `trip_vs_bear`; the figures are: trip_vs_bare,"), "{error}");
}
