//! Kills of the runtime's process and of its servers: see `cargo xtask kills`.

#[path = "../kills/campaign/mod.rs"]
mod campaign;

use self::campaign::Campaign;

/// The whole campaign has more kills of each kind, and the same checks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_leave_every_message_an_outcome() {
    let report = campaign::run(Campaign::quick(1), |_| {}).await.expect("all parties work after each kill");
    assert!(report.faults.is_empty(), "{report}");
}
