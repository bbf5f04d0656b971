//! Floods, stalls, single bytes, bursts and idleness.

use std::time::{Duration, Instant};

use protostub_types::{Body, Message};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    StubSuiteContext, Timeouts,
    fixture::{APP, StubFixture, shown},
    link::LinkMode,
    messages::{incoming_one, pings},
};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// Number of requests in a flood.
const FLOOD: u64 = 1000;
/// Size in bytes and number of the messages that are sent while the server does not read. Together
/// they exceed the memory limit of a stub.
const LARGE_BYTES: usize = 100_000;
const LARGE: u64 = 1000;
/// Time for the stub to take another message, and to keep running afterwards.
const STALLED: Duration = Duration::from_secs(2);
const WHILE: Duration = Duration::from_millis(500);
/// Duration of the idle phase, and the maximum number of calls of the stub, including those for
/// connecting.
const IDLE: Duration = Duration::from_millis(1500);
const IDLE_CALLS: u64 = 50;

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/pressure/flood",
            "No request is lost silently: a request that the stub cannot pass on gets an error response.",
            "stubs/README.md",
        ),
        run: |context| Box::pin(flood(context)),
    },
    Script {
        case: Case::new(
            "stub/pressure/stalled-server",
            "While its server does not read, a stub stops taking messages (`pause`), and the host queues them. The stub's memory stays bounded.",
            "wit/0.1/bus.wit, wit/README.md",
        ),
        run: |context| Box::pin(stalled_server(context)),
    },
    Script {
        case: Case::new(
            "stub/ready/byte-by-byte",
            "A stub assembles a message from any number of `receive` calls, down to one byte each.",
            "wit/0.1/tcp.wit",
        ),
        run: |context| Box::pin(byte_by_byte(context)),
    },
    Script {
        case: Case::new(
            "stub/ready/burst",
            "A stub reads all messages that have arrived before it waits for the next `ready`.",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(burst(context)),
    },
    Script {
        case: Case::new(
            "stub/ready/idle",
            "An idle stub returns from `handle`, and is not called again until something happens.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(idle(context)),
    },
];

async fn flood(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let Timeouts { answer, grace, .. } = fixture.timeouts;
    let mut requests = JoinSet::new();
    for number in 0..FLOOD {
        let (bus, app, request) = (fixture.bus.clone(), fixture.app.clone(), fixture.request(number));
        requests.spawn(async move { bus.request(&app, request, Some(answer)).await });
    }
    let mut errors = Vec::new();
    let all = async {
        while let Some(answer) = requests.join_next().await {
            if let Ok(Err(error)) = answer {
                errors.push(Err(format!("{} {}", error.code, error.reason)));
            }
        }
    };
    instance.meanwhile("an answer to each of a thousand requests", answer + grace, all).await?;
    expect(errors.is_empty(), "an answer of the stub to each of a thousand requests", || {
        format!("{} without one, the first: {}", errors.len(), shown(&errors[0]))
    })?;
    Ok(None)
}

async fn stalled_server(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let link = fixture.link()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    link.set(LinkMode::Stall);
    let large = json!({ "text": "x".repeat(LARGE_BYTES) });
    let body = Some(Body::from(large));
    let mut posted = 0;
    let mut last = Instant::now();
    while posted < LARGE && last.elapsed() < STALLED {
        let request = Message { body: body.clone(), ..fixture.request(posted) };
        if fixture.bus.post(&fixture.app, request).is_ok() {
            posted += 1;
            last = Instant::now();
        } else {
            // The inbox is full: the stub takes no more messages.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        instance.still_runs().await?;
    }
    tokio::time::sleep(WHILE).await;
    instance.still_runs().await?;
    // The inbox holds two thirds of the messages, and the network a few.
    expect(posted < LARGE, "the stub takes no more messages while its server takes none", || {
        format!("{posted} messages of {LARGE_BYTES} bytes could be posted")
    })?;
    link.set(LinkMode::PassOn);
    let ended = instance.stop().await?;
    Ok(Some(format!("{} of memory, with {posted} large messages posted", mib(ended.usage.memory_bytes))))
}

async fn byte_by_byte(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let link = fixture.link()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    // Only now, because a host may reject an HTTP head in such pieces as an attack.
    link.split_into_bytes();
    fixture.expect_answer(&mut instance, "an answer that arrives byte by byte").await?;
    fixture.expect_answer(&mut instance, "another answer").await?;
    Ok(None)
}

async fn burst(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let (_, peer) = fixture.node()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    incoming_one(&fixture, &mut instance).await?;
    let link = fixture.link()?;
    let sending = async {
        link.set(LinkMode::Stall);
        for number in 0..100 {
            peer.send(number, "ping", APP, json!({ "n": number })).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        link.set(LinkMode::PassOn);
    };
    pings(&fixture, &mut instance, sending).await?;
    Ok(None)
}

async fn idle(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let instance = fixture.live().await?;
    tokio::time::sleep(IDLE).await;
    let ended = instance.stop().await?;
    if !ended.outcome.is_orderly() {
        return Err(Verdict::fail("an instance that keeps running while nothing happens", ended.outcome.to_string()));
    }
    let calls = ended.usage.calls;
    expect(calls <= IDLE_CALLS, &format!("at most {IDLE_CALLS} calls of `handle` while nothing happens"), || {
        format!("{calls} calls in {} s", IDLE.as_secs_f64())
    })?;
    Ok(Some(format!("{calls} calls of `handle`")))
}

pub(super) fn mib(bytes: usize) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & ((1 << 20) - 1)) * 10) >> 20)
}
