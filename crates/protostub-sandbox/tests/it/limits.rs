use std::time::{Duration, Instant};

use protostub_sandbox::{Exceeded, Limits, Outcome};
use serde_json::{Value, json};

use crate::support::Stage;

/// What becomes of an actor that follows this order under these limits.
async fn outcome(limit: impl FnOnce(&mut Limits), order: Value) -> Outcome {
    let play = Stage::new(json!({})).limits(limit).live().await;
    assert_eq!(play.fatal(order).await, 502);
    play.outcome().await
}

#[tokio::test]
async fn a_call_has_a_budget_of_computing_time() {
    let begun = Instant::now();
    let outcome = outcome(|limits| limits.cpu_per_call = Duration::from_millis(100), json!({ "do": "spin" })).await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Cpu { limit }) if limit == Duration::from_millis(100)), "{outcome}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn every_call_has_its_whole_budget() {
    let play = Stage::new(json!({})).limits(|limits| limits.cpu_per_call = Duration::from_millis(400)).live().await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(800) {
        play.told(json!({ "do": "compute", "rounds": 1_000_000 })).await;
    }
}

#[tokio::test]
async fn a_call_has_a_time_limit_too() {
    let outcome =
        outcome(|limits| limits.time_per_call = Duration::from_millis(100), json!({ "do": "sleep", "ms": 60_000 })).await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Time { limit }) if limit == Duration::from_millis(100)), "{outcome}");
}

#[tokio::test]
async fn memory_is_bounded() {
    let outcome = outcome(|limits| limits.memory_bytes = 8 << 20, json!({ "do": "allocate", "bytes": 16 << 20 })).await;
    let Outcome::Exceeded(Exceeded::Memory { wanted, limit }) = outcome else { panic!("{outcome}") };
    assert_eq!(limit, 8 << 20);
    assert!(wanted > limit && wanted < 11 << 20, "{wanted}");
}

#[tokio::test]
async fn a_stub_that_copes_with_little_memory_lives() {
    let play = Stage::new(json!({})).limits(|limits| limits.memory_bytes = 8 << 20).live().await;
    assert_eq!(play.told(json!({ "do": "grow", "pages": 1_000 })).await, json!(false));
    assert_eq!(play.told(json!({ "do": "allocate", "bytes": 4 << 20 })).await, json!(4));
}

#[tokio::test]
async fn a_stub_that_does_not_even_fit_is_told_so() {
    let kind = Stage::new(json!({})).limits(|limits| limits.memory_bytes = 1 << 16).start().await.err().unwrap();
    assert!(kind.to_string().contains("a memory was to grow to"), "{kind}");
}

#[tokio::test]
async fn the_stack_is_bounded() {
    let outcome = outcome(|_| {}, json!({ "do": "overflow" })).await;
    // Either stack: that of calls, or the one in memory that compilers keep values on.
    assert!(
        matches!(&outcome, Outcome::Exceeded(Exceeded::Stack { .. }))
            || outcome.to_string().contains("out of bounds memory access"),
        "{outcome}"
    );
}

#[tokio::test]
async fn what_a_call_of_the_host_carries_is_bounded() {
    let outcome = outcome(
        |limits| limits.hostcall_bytes = 1 << 20,
        json!({ "do": "post", "to": "hyperty://home.example/x", "bytes": 512 << 10, "times": 4 }),
    )
    .await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Hostcall { limit }) if limit == 1 << 20), "{outcome}");
}

#[tokio::test]
async fn a_flood_of_posts_is_bounded() {
    let play = Stage::new(json!({})).limits(|limits| limits.posts_per_second = 1_000).live().await;
    // The answer is a message, too: it has to wait for the next second.
    let flood = json!({ "do": "post", "to": "hyperty-runtime://home.example/r/x", "times": 2_000 });
    let result = play.told(json!([flood, { "do": "sleep", "ms": 1_000 }])).await;
    assert_eq!(result[0]["last"], json!("limit: more than 1000 messages a second"));
}

#[tokio::test]
async fn a_flood_of_log_lines_harms_nobody() {
    let play = Stage::new(json!({})).live().await;
    play.told(json!({ "do": "log", "text": "x".repeat(20_000), "times": 500 })).await;
    play.told(json!({ "do": "print", "text": "y\n".repeat(5_000) })).await;
    play.told(json!({ "do": "complain", "text": "z".repeat(100_000) })).await;
    assert_eq!(play.told(json!({ "n": 1 })).await["n"], json!(1));
}

#[tokio::test]
async fn a_flood_of_statuses_is_bounded() {
    let play = Stage::new(json!({})).limits(|limits| limits.publications_per_second = 10).live().await;
    let orders: Vec<Value> =
        (0..30).map(|n| json!({ "do": "publish", "status": if n % 2 == 0 { "in-progress" } else { "live" } })).collect();
    assert_eq!(play.order(Value::from(orders)).await, Err("limit: more than 10 statuses a second".to_owned()));
}

#[tokio::test]
async fn many_sandboxes_run_beside_each_other() {
    let mut plays = Vec::new();
    for n in 0..40 {
        let mut stage = Stage::new(json!({ "n": n }));
        stage.limits.memory_bytes = 4 << 20;
        plays.push(stage.live().await);
    }
    for (n, play) in plays.iter().enumerate() {
        assert_eq!(play.told(json!({ "do": "configuration" })).await["n"], json!(n));
    }
}
