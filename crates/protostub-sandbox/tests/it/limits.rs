use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protostub_artifacts::component;
use protostub_sandbox::{CompiledStub, Engine, EngineConfig, Exceeded, Limits, Outcome};
use protostub_types::{Allowances, Sha256Digest};
use serde_json::{Value, json};

use crate::support::{Fixture, LimitCounts, RunningActor};

/// Returns how an actor ends that follows this order under these limits.
async fn outcome(limit: impl FnOnce(&mut Limits), order: Value) -> Outcome {
    let actor = Fixture::new(json!({})).limits(limit).live().await;
    assert_eq!(actor.fatal(order).await, 502);
    actor.outcome().await
}

/// Makes a live actor under these limits, and counters of the limits that it reaches.
async fn counted(limit: impl FnOnce(&mut Limits)) -> (RunningActor, Arc<LimitCounts>) {
    let fixture = Fixture::new(json!({})).limits(limit);
    let limit_counts = Arc::clone(&fixture.limit_counts);
    (fixture.live().await, limit_counts)
}

#[tokio::test]
async fn a_call_has_a_budget_of_computing_time() {
    let begun = Instant::now();
    let outcome = outcome(|limits| limits.cpu_per_call = Duration::from_millis(100), json!({ "do": "spin" })).await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Cpu { limit }) if limit == Duration::from_millis(100)), "{outcome}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn every_call_has_its_whole_budget() {
    let actor = Fixture::new(json!({})).limits(|limits| limits.cpu_per_call = Duration::from_millis(400)).live().await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(800) {
        actor.told(json!({ "do": "compute", "rounds": 1_000_000 })).await;
    }
}

#[tokio::test]
async fn all_calls_of_a_second_have_a_budget_together() {
    let (actor, limit_counts) = counted(|limits| limits.cpu_per_second = Duration::from_millis(50)).await;
    let soon = Instant::now() + Duration::from_secs(20);
    while limit_counts.times("cpu_per_second") == 0 {
        assert!(Instant::now() < soon, "the stub computes all the time, and never waits");
        actor.told(json!({ "do": "compute", "rounds": 2_000_000 })).await;
    }
    assert_eq!(actor.told(json!({ "n": 1 })).await["n"], 1, "the stub is slower, and lives");
}

#[tokio::test]
async fn every_limit_hit_is_reported() {
    let (actor, limit_counts) = counted(|limits| {
        limits.posts_per_second = 50;
        limits.timers = 3;
        limits.log_lines_per_second = 5;
        limits.identity_requests = 1;
        limits.body_bytes = 1_000;
        limits.cpu_per_call = Duration::from_millis(20);
    })
    .await;
    let many = |order: Value, times: usize| Value::from(vec![order; times]);
    actor.order(json!({ "do": "timer", "ms": 60_000, "times": 4 })).await.unwrap_err();
    actor.told(json!({ "do": "log", "text": "x", "times": 20 })).await;
    let refused = actor.told(json!({ "do": "post", "to": "hyperty://home.example/x", "bytes": 1_001 })).await;
    assert!(refused[0].as_str().is_some_and(|told| told.contains("1001") && told.contains("1000")), "{refused}");
    actor.order(many(json!({ "do": "ask", "scope": "never" }), 2)).await.unwrap_err();
    // The actor's answer would be one more than the limit.
    let flood = json!({ "do": "post", "to": "hyperty-runtime://home.example/r/x", "times": 100 });
    actor.told(json!([flood, { "do": "sleep", "ms": 1_000 }])).await;
    assert_eq!(actor.fatal(json!({ "do": "spin" })).await, 502);
    for (setting, times) in [("timers", 1), ("log_lines_per_second", 15), ("body_bytes", 1), ("identity_requests", 1)] {
        assert_eq!(limit_counts.times(setting), times, "{setting}");
    }
    for setting in ["posts_per_second", "cpu_per_call"] {
        assert!(limit_counts.times(setting) > 0, "{setting}");
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

/// Makes the actor of an engine whose sandboxes share this memory.
async fn actor_within(total_bytes: usize) -> CompiledStub {
    let mut config = EngineConfig::default();
    (config.max_sandboxes, config.max_total_memory_bytes) = (64, Some(total_bytes));
    let bytes = component("actor");
    let digest = Sha256Digest::of(&bytes);
    Engine::new(&config).expect("an engine").compile(bytes, digest).await.expect("the actor is a stub")
}

#[tokio::test]
async fn memory_of_all_stubs_is_bounded() {
    let program = actor_within(32 << 20).await;
    let fixture = || Fixture { program: Some(program.clone()), ..Fixture::new(json!({})) };
    let (hoarder, limit_counts) = {
        let fixture = fixture();
        let limit_counts = Arc::clone(&fixture.limit_counts);
        (fixture.live().await, limit_counts)
    };
    // A stub gets half of the memory of all, which is less than its own limit.
    assert_eq!(hoarder.told(json!({ "do": "grow", "pages": 400 })).await, json!(false));
    assert_eq!(hoarder.told(json!({ "do": "allocate", "bytes": 8 << 20 })).await, json!(8));
    assert_eq!(limit_counts.times("max_memory_bytes"), 1);
    assert_eq!(hoarder.fatal(json!({ "do": "allocate", "bytes": 16 << 20 })).await, 502);
    let outcome = hoarder.outcome().await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::TotalMemory { limit, .. }) if limit == 32 << 20), "{outcome}");
    assert!(outcome.to_string().contains("`max-memory-bytes`"), "{outcome}");
    assert_eq!(limit_counts.times("max_memory_bytes"), 2);

    // Its memory is free again. Stubs start until no memory is left for another one.
    let mut stubs = Vec::new();
    let refused = loop {
        match fixture().start().await {
            Ok(stub) => stubs.push(stub),
            Err(kind) => break kind,
        }
    };
    assert!(stubs.len() >= 8, "{} stubs", stubs.len());
    assert!(refused.to_string().contains("`max-memory-bytes`"), "{refused}");
}

#[tokio::test]
async fn log_bytes_of_a_day_are_shared_by_instances() {
    let allowance = Allowances::new(u64::MAX, Duration::from_secs(86_400)).of("sp1.example", 2_000);
    let over = async |expected: u64| {
        let fixture = Fixture { log_allowance: Some(allowance.clone()), ..Fixture::new(json!({})) };
        let limit_counts = Arc::clone(&fixture.limit_counts);
        let actor = fixture.live().await;
        actor.told(json!({ "do": "log", "text": "x".repeat(500), "times": 4 })).await;
        actor.told(json!({ "do": "print", "text": "y\n" })).await;
        actor.told(json!({ "n": 1 })).await;
        assert_eq!(limit_counts.times("log_bytes_per_day"), expected);
    };
    // Three lines of 500 bytes fit, and then one of one byte, but no empty one.
    over(2).await;
    over(6).await;
}

#[tokio::test]
async fn a_stub_that_copes_with_little_memory_lives() {
    let actor = Fixture::new(json!({})).limits(|limits| limits.memory_bytes = 8 << 20).live().await;
    assert_eq!(actor.told(json!({ "do": "grow", "pages": 1_000 })).await, json!(false));
    assert_eq!(actor.told(json!({ "do": "allocate", "bytes": 4 << 20 })).await, json!(4));
}

#[tokio::test]
async fn stub_over_its_memory_limit_fails_to_start() {
    let kind = Fixture::new(json!({})).limits(|limits| limits.memory_bytes = 1 << 16).start().await.err().unwrap();
    assert!(kind.to_string().contains("a memory was to grow to"), "{kind}");
}

#[tokio::test]
async fn the_stack_is_bounded() {
    let outcome = outcome(|_| {}, json!({ "do": "overflow" })).await;
    // Either stack: that of calls, or the one in memory on which compilers keep values.
    assert!(
        matches!(&outcome, Outcome::Exceeded(Exceeded::Stack { .. }))
            || outcome.to_string().contains("out of bounds memory access"),
        "{outcome}"
    );
}

#[tokio::test]
async fn hostcall_bytes_are_bounded() {
    let outcome = outcome(
        |limits| limits.hostcall_bytes = 1 << 20,
        json!({ "do": "post", "to": "hyperty://home.example/x", "bytes": 512 << 10, "times": 4 }),
    )
    .await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Hostcall { limit }) if limit == 1 << 20), "{outcome}");
}

#[tokio::test]
async fn a_flood_of_posts_is_bounded() {
    let actor = Fixture::new(json!({})).limits(|limits| limits.posts_per_second = 1_000).live().await;
    // The answer is a message, too: it has to wait for the next second.
    let flood = json!({ "do": "post", "to": "hyperty-runtime://home.example/r/x", "times": 2_000 });
    let result = actor.told(json!([flood, { "do": "sleep", "ms": 1_000 }])).await;
    assert_eq!(result[0]["last"], json!("limit: more than 1000 messages a second"));
}

#[tokio::test]
async fn flood_of_log_lines_does_no_harm() {
    let actor = Fixture::new(json!({})).live().await;
    actor.told(json!({ "do": "log", "text": "x".repeat(20_000), "times": 500 })).await;
    actor.told(json!({ "do": "print", "text": "y\n".repeat(5_000) })).await;
    actor.told(json!({ "do": "complain", "text": "z".repeat(100_000) })).await;
    assert_eq!(actor.told(json!({ "n": 1 })).await["n"], json!(1));
}

#[tokio::test]
async fn a_flood_of_statuses_is_bounded() {
    let (actor, limit_counts) = counted(|limits| limits.publications_per_second = 10).await;
    let orders: Vec<Value> =
        (0..30).map(|n| json!({ "do": "publish", "status": if n % 2 == 0 { "in-progress" } else { "live" } })).collect();
    assert_eq!(actor.order(Value::from(orders)).await, Err("limit: more than 10 statuses a second".to_owned()));
    assert_eq!(limit_counts.times("publications_per_second"), 1);
}

#[tokio::test]
async fn many_sandboxes_run_at_the_same_time() {
    let mut plays = Vec::new();
    for n in 0..40 {
        let mut fixture = Fixture::new(json!({ "n": n }));
        fixture.limits.memory_bytes = 4 << 20;
        plays.push(fixture.live().await);
    }
    for (n, actor) in plays.iter().enumerate() {
        assert_eq!(actor.told(json!({ "do": "configuration" })).await["n"], json!(n));
    }
}
