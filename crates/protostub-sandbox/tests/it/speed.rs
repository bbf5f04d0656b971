//! Measurements without assertions: `cargo test -p protostub-sandbox --release -- --ignored
//! --nocapture speed`.

use std::time::{Duration, Instant};

use protostub_bus::{InboxLimits, Origin};
use protostub_types::Message;
use serde_json::json;

use crate::support::{Fixture, engine};

#[tokio::test]
#[ignore = "measures"]
async fn speed() {
    let mut samples = Vec::new();
    for _ in 0..200 {
        let fixture = Fixture::new(json!({}));
        let (sandbox, _statuses) = fixture.sandbox().await;
        let inbox = fixture.bus.inbox(InboxLimits::default());
        let begun = Instant::now();
        let (handle, task) = sandbox.unwrap().deploy_component(inbox).await.unwrap();
        samples.push(begun.elapsed());
        drop((handle, task));
    }
    report("instantiate and start", &mut samples);

    let actor = Fixture::new(json!({})).live().await;
    let mut samples = Vec::new();
    for _ in 0..5_000 {
        let begun = Instant::now();
        actor.request(json!({ "do": "echo" })).await.unwrap();
        samples.push(begun.elapsed());
    }
    report("request and answer", &mut samples);

    let mut samples = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        for n in 0..500 {
            actor
                .bus
                .post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(json!({ "n": n })))
                .unwrap();
        }
        actor.told(json!({ "do": "calls" })).await;
        samples.push(begun.elapsed() / 500);
    }
    report("an update, of 500", &mut samples);
    report_line(&format!("pooled: {}", engine().is_pooled()));
}

fn report(what: &str, samples: &mut [Duration]) {
    samples.sort();
    report_line(&format!("{what}: min {:?}, median {:?}", samples[0], samples[samples.len() / 2]));
}

#[expect(clippy::print_stdout, reason = "the caller asks for the output with --nocapture")]
fn report_line(line: &str) {
    println!("{line}");
}
