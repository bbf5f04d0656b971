//! Tests of a server outage of ten seconds. Every message accepted meanwhile arrives, or its sender
//! gets an error. Both sides count.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protostub_domain::{Limits, Memory};
use protostub_runtime::{Hyperty, Message, MessageType, Protostub, StatusReport, StubStatus};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{
    mosquitto::Mosquitto,
    mqtt::{create, mqtt_app, subscribe, tcp, tls},
    support::body,
    two_runtimes::{app, runtime, server_with},
};

/// Length of the outage.
const OUTAGE: Duration = Duration::from_secs(10);
/// Period of the requests before, during and after the outage.
const EVERY: Duration = Duration::from_millis(50);
/// Timeout of each request, in milliseconds: long enough that none expires here.
const PATIENCE: &str = "30000";

fn patient(mut message: Message) -> Message {
    message.headers.push(("timeout-ms".into(), PATIENCE.into()));
    message
}

async fn until(stub: &Protostub, status: StubStatus) -> StatusReport {
    stub.watch().until(|report| report.status == status).await
}

/// Messages that bob received.
#[derive(Debug, Default)]
struct Seen {
    requests: BTreeMap<u64, u32>,
    pings: BTreeMap<u64, u32>,
}

/// Answers requests with their number, and counts all messages, until `enough` gets a signal.
async fn bob_answers(mut bob: Hyperty, mut enough: mpsc::Receiver<()>) -> Seen {
    let mut seen = Seen::default();
    loop {
        let message = tokio::select! {
            message = bob.recv() => message.expect("a message"),
            _ = enough.recv() => return seen,
        };
        let n = body(&message)["n"].as_u64().expect("a number");
        if message.kind == MessageType::Read {
            *seen.requests.entry(n).or_default() += 1;
            bob.post(message.response(200, Some(json!(n)))).expect("accepted");
        } else {
            *seen.pings.entry(n).or_default() += 1;
        }
    }
}

#[tokio::test]
async fn message_node_outage_leaves_every_message_an_outcome() {
    // The waiting messages arrive at once. The server's queue must not be the reason for a loss.
    let mut limits = Limits::default();
    limits.max_queued_messages = 4096;
    let (server, _folder) = server_with(limits).await;
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let (mut alice_app, bob_app) = tokio::join!(app(&alice, &server), app(&bob, &server));
    let (alice_stub, bob_stub) = (alice.protostubs().remove(0), bob.protostubs().remove(0));
    let to = bob_app.address().clone();
    let (enough, is_enough) = mpsc::channel(1);
    let bob_sees = tokio::spawn(bob_answers(bob_app, is_enough));

    // Requests are sent all the time. Those during the outage are distinguished by their numbers.
    let asker = alice.register_hyperty(format!("hyperty://{}/asker", server.domain())).await.expect("a hyperty");
    let asker = std::sync::Arc::new(asker);
    let mut outcomes = JoinSet::new();
    let mut next = 0_u64;
    let mut ask = |outcomes: &mut JoinSet<(u64, Result<u64, u16>)>| {
        let (n, asker) = (next, std::sync::Arc::clone(&asker));
        next += 1;
        let question = patient(Message::read(to.clone()).with_body(json!({ "n": n })));
        outcomes.spawn(async move {
            match asker.request(question).await {
                Ok(reply) if reply.code() == Some(200) => (n, Ok(body(&reply)["value"].as_u64().expect("a number"))),
                Ok(reply) => (n, Err(reply.code().expect("a code"))),
                Err(error) => (n, Err(error.code)),
            }
        });
        n
    };
    let mut clock = interval(EVERY);
    for _ in 0..50 {
        clock.tick().await;
        ask(&mut outcomes);
    }
    server.stop().await.expect("stopped");
    tokio::join!(until(&alice_stub, StubStatus::Disconnected), until(&bob_stub, StubStatus::Disconnected));
    let first_queued = ask(&mut outcomes);
    let mut pings = BTreeSet::new();
    let outage = sleep(OUTAGE);
    tokio::pin!(outage);
    loop {
        tokio::select! {
            () = &mut outage => break,
            _ = clock.tick() => {
                let n = ask(&mut outcomes);
                let ping = Message::new(MessageType::Other("ping".into()), to.clone()).with_body(json!({ "n": n }));
                if alice_app.post(ping).is_ok() {
                    pings.insert(n);
                }
            }
        }
    }
    assert_ne!(alice_stub.status().status, StubStatus::Live);
    server.start_again(Memory::Kept).await.expect("started again");
    tokio::join!(until(&alice_stub, StubStatus::Live), until(&bob_stub, StubStatus::Live));
    for _ in 0..50 {
        clock.tick().await;
        ask(&mut outcomes);
    }

    let (mut answered, mut refused) = (BTreeSet::new(), BTreeMap::new());
    while let Some(outcome) = outcomes.join_next().await {
        match outcome.expect("a task") {
            (n, Ok(reply)) => {
                assert_eq!(reply, n, "somebody else's answer");
                answered.insert(n);
            }
            (n, Err(code)) => {
                refused.insert(n, code);
            }
        }
    }
    // Sends a ping after all others and waits for its outcome: bob has it and all before it, or
    // alice gets an error.
    let last = asker.request(patient(Message::read(to.clone()).with_body(json!({ "n": u64::MAX })))).await.expect("an answer");
    assert_eq!(last.code(), Some(200));
    enough.send(()).await.expect("bob listens");
    let seen = bob_sees.await.expect("a task");
    // The order of the reconnections is random. If alice is first, the message node has no receiver
    // for the waiting messages and answers 503. Pings are answered with 503 too, although their
    // sender awaits no response. Those answers arrive before the last one.
    let refused_pings = usize::try_from(alice.counts().unawaited).expect("few");
    let mut told = 0;
    while told + refused_pings + seen.pings.len() < pings.len() {
        let message = alice_app.recv().await.expect("an error response");
        assert_eq!(message.kind, MessageType::Response, "{message:?}");
        told += 1;
    }

    assert_eq!(answered.len() + refused.len(), usize::try_from(next).expect("few"));
    // Requests that waited here during the outage were answered, except those that the message node
    // refused with 503.
    assert!(
        refused.iter().all(|(n, code)| *n < first_queued || *code == 503 && refused_pings > 0),
        "{first_queued}: {refused:?}"
    );
    assert!(answered.iter().all(|n| seen.requests.contains_key(n)));
    assert!(seen.requests.values().chain(seen.pings.values()).all(|times| *times == 1), "something came twice: {seen:?}");
    assert!(seen.pings.keys().all(|n| pings.contains(n)));
    assert!(
        pings.len() > 100 && seen.pings.len() + refused_pings == pings.len(),
        "{} of {} pings, {refused_pings} refused there, {told} here",
        seen.pings.len(),
        pings.len()
    );
    for runtime in [alice, bob] {
        assert_eq!(runtime.counts().open, 0, "{:?}", runtime.counts());
    }
    assert_eq!((alice_stub.restarts(), bob_stub.restarts()), (0, 0));
}

#[tokio::test]
async fn broker_outage_leaves_every_message_an_outcome() {
    let mut broker = Mosquitto::start().await.expect("a broker");
    let (alice, alice_app) = mqtt_app(&broker, tcp(&broker)).await;
    let (bob, mut bob_app) = mqtt_app(&broker, tls(&broker)).await;
    subscribe(&bob_app, "orders/#").await;
    let alice_app = std::sync::Arc::new(alice_app);
    let mut outcomes = JoinSet::new();
    let mut next = 0_u64;
    let mut publish = |outcomes: &mut JoinSet<(u64, u16)>| {
        let (n, app) = (next, std::sync::Arc::clone(&alice_app));
        next += 1;
        outcomes.spawn(async move {
            match app.request(patient(create("orders/new", json!(n).into()))).await {
                Ok(answer) => (n, answer.code().expect("a code")),
                Err(error) => (n, error.code),
            }
        });
    };
    publish(&mut outcomes);
    assert_eq!(outcomes.join_next().await.expect("one").expect("a task"), (0, 200));
    let (alice_stub, bob_stub) = (alice.protostubs().remove(0), bob.protostubs().remove(0));
    let mut clock = interval(EVERY);
    for _ in 0..50 {
        clock.tick().await;
        publish(&mut outcomes);
    }
    broker.stop().await.expect("stopped");
    let outage = sleep(OUTAGE);
    tokio::pin!(outage);
    loop {
        tokio::select! {
            () = &mut outage => break,
            _ = clock.tick() => publish(&mut outcomes),
        }
    }
    assert_ne!(alice_stub.status().status, StubStatus::Live);
    broker.resume().await.expect("started again");
    tokio::join!(until(&alice_stub, StubStatus::Live), until(&bob_stub, StubStatus::Live));
    for _ in 0..50 {
        clock.tick().await;
        publish(&mut outcomes);
    }
    let mut acknowledged = BTreeSet::from([0]);
    let mut refused = BTreeMap::new();
    while let Some(outcome) = outcomes.join_next().await {
        match outcome.expect("a task") {
            (n, 200) => drop(acknowledged.insert(n)),
            (n, code) => drop(refused.insert(n, code)),
        }
    }
    assert_eq!(acknowledged.len() + refused.len(), usize::try_from(next).expect("few"));
    assert!(refused.is_empty(), "{refused:?}");
    // QoS 1: every message that the broker acknowledged reaches the subscriber at least once.
    let mut arrived = BTreeSet::new();
    while !acknowledged.is_subset(&arrived) {
        let message = bob_app.recv().await.expect("an update");
        let n: Value = body(&message);
        arrived.insert(n.as_u64().expect("a number"));
    }
    for runtime in [alice, bob] {
        assert_eq!(runtime.counts().open, 0, "{:?}", runtime.counts());
    }
}
