//! Too much at once, too little at a time, and nothing at all.

use std::time::{Duration, Instant};

use protostub_types::{Body, Message};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Bench, Patience,
    link::Manner,
    messages::{incoming_one, pings},
    stage::{APP, Stage, shown},
};
use crate::{
    Case, Verdict,
    case::{Course, Script, expect},
};

/// How many requests are a flood.
const FLOOD: u64 = 1000;
/// How many bytes each message has that is sent while the server does not read, and how many there are: more than a stub may have memory.
const LARGE_BYTES: usize = 100_000;
const LARGE: u64 = 1000;
/// How long a stub has to take another one, and to show that it can bear them.
const STALLED: Duration = Duration::from_secs(2);
const WHILE: Duration = Duration::from_millis(500);
/// How long nothing happens, and how often a stub may be called meanwhile, its connecting included.
const IDLE: Duration = Duration::from_millis(1500);
const IDLE_CALLS: u64 = 50;

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new(
            "stub/pressure/flood",
            "Nothing is lost without a word: a request that cannot be passed on gets an error response.",
            "stubs/README.md",
        ),
        run: |bench| Box::pin(flood(bench)),
    },
    Script {
        case: Case::new(
            "stub/pressure/stalled-server",
            "`pause` stops `message` events, while everything else keeps coming; the host queues the messages meanwhile. Nothing piles up.",
            "wit/0.1/bus.wit, wit/README.md",
        ),
        run: |bench| Box::pin(stalled_server(bench)),
    },
    Script {
        case: Case::new(
            "stub/ready/byte-by-byte",
            "`receive` takes the next bytes, at most so many. An empty list: nothing yet, `ready` follows.",
            "wit/0.1/tcp.wit",
        ),
        run: |bench| Box::pin(byte_by_byte(bench)),
    },
    Script {
        case: Case::new(
            "stub/ready/burst",
            "`ready` comes once for each change since the handle was last asked.",
            "wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(burst(bench)),
    },
    Script {
        case: Case::new("stub/ready/idle", "Return when there is nothing more to do without waiting.", "wit/0.1/stub.wit"),
        run: |bench| Box::pin(idle(bench)),
    },
];

async fn flood(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    let Patience { answer, grace, .. } = stage.patience;
    let mut requests = JoinSet::new();
    for number in 0..FLOOD {
        let (bus, app, request) = (stage.bus.clone(), stage.app.clone(), stage.request(number));
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
    play.meanwhile("an answer to each of a thousand requests", answer + grace, all).await?;
    expect(errors.is_empty(), "an answer of the stub to each of a thousand requests", || {
        format!("{} without one, the first: {}", errors.len(), shown(&errors[0]))
    })?;
    Ok(None)
}

async fn stalled_server(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let link = stage.link()?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    link.set(Manner::Stall);
    let large = json!({ "text": "x".repeat(LARGE_BYTES) });
    let body = Some(Body::from(large));
    let mut posted = 0;
    let mut last = Instant::now();
    while posted < LARGE && last.elapsed() < STALLED {
        let request = Message { body: body.clone(), ..stage.request(posted) };
        if stage.bus.post(&stage.app, request).is_ok() {
            posted += 1;
            last = Instant::now();
        } else {
            // There is no room: the stub takes no more.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        play.still_runs().await?;
    }
    tokio::time::sleep(WHILE).await;
    play.still_runs().await?;
    // The inbox holds two thirds of them, and the network a few.
    expect(posted < LARGE, "it takes no more messages while its server takes none", || {
        format!("{posted} messages of {LARGE_BYTES} bytes could be posted")
    })?;
    link.set(Manner::PassOn);
    let ended = play.stop().await?;
    Ok(Some(format!("{} of memory, with {posted} large messages posted", mib(ended.usage.memory_bytes))))
}

async fn byte_by_byte(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let link = stage.link()?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    // Not before: a host may take an HTTP head in such pieces for an attack.
    link.byte_by_byte(true);
    stage.must_answer(&mut play, "an answer that comes byte by byte").await?;
    stage.must_answer(&mut play, "another one").await?;
    Ok(None)
}

async fn burst(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let (_, peer) = stage.node()?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    incoming_one(&stage, &mut play).await?;
    let link = stage.link()?;
    let sending = async {
        link.set(Manner::Stall);
        for number in 0..100 {
            peer.send(number, "ping", APP, json!({ "n": number })).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        link.set(Manner::PassOn);
    };
    pings(&stage, &mut play, sending).await?;
    Ok(None)
}

async fn idle(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let play = stage.live().await?;
    tokio::time::sleep(IDLE).await;
    let ended = play.stop().await?;
    if !ended.outcome.is_orderly() {
        return Err(Verdict::fail("an instance that goes on while nothing happens", ended.outcome.to_string()));
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
