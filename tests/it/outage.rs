//! Tests of server outages. Every message accepted before and meanwhile arrives, or its sender gets
//! an error. Both sides count.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use protostub_domain::{Limits, Memory};
use protostub_runtime::{Body, Hyperty, Message, MessageType, Protostub, Runtime, StatusReport, StubStatus};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    mosquitto::Mosquitto,
    mqtt::{create, mqtt_app, runtime_of, subscribe, tcp, tls},
    support::{TestRuntime, body, builder, soon},
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
    let asker = Arc::new(asker);
    let mut outcomes = JoinSet::new();
    let mut next = 0_u64;
    let mut ask = |outcomes: &mut JoinSet<(u64, Result<u64, u16>)>| {
        let (n, asker) = (next, Arc::clone(&asker));
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
    let alice_app = Arc::new(alice_app);
    let mut outcomes = JoinSet::new();
    let mut next = 0_u64;
    let mut publish = |outcomes: &mut JoinSet<(u64, u16)>| {
        let (n, app) = (next, Arc::clone(&alice_app));
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

/// Number of runtimes whose server goes away.
const PARTIES: usize = 3;
/// Numbers of requests that wait during an outage, for each runtime.
const WAITING: [usize; PARTIES] = [0, 1, 100];
/// Number of messages of each runtime that its server has not received before the outage.
const UNSENT: usize = 60;
/// Length of an unsent publication. The session that outlives an instance has room for six of them.
const BYTES: usize = 10_000;
/// Time limit from the return of the server to the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A runtime whose requests wait during an outage.
struct Party {
    runtime: Runtime,
    stub: Protostub,
    waiting: usize,
    /// A request that the server answers with 200.
    question: Message,
    codes: JoinSet<u16>,
}

impl Party {
    /// Deploys the stub by the first request.
    async fn begin(runtime: Runtime, waiting: usize, question: Message) -> Self {
        let answer = runtime.request(question.clone()).await.expect("an answer");
        assert_eq!(answer.code(), Some(200));
        let stub = runtime.protostubs().remove(0);
        Self { runtime, stub, waiting, question, codes: JoinSet::new() }
    }

    /// Sends requests that are answered even after an outage of this length.
    fn ask(&mut self, times: usize, outage: Duration) {
        for _ in 0..times {
            let (runtime, mut question) = (self.runtime.clone(), self.question.clone());
            let patience = (outage + Duration::from_secs(30)).as_millis().to_string();
            question.headers.push(("timeout-ms".into(), patience));
            self.codes.spawn(async move {
                match runtime.request(question).await {
                    Ok(answer) => answer.code().expect("a code"),
                    Err(error) => error.code,
                }
            });
        }
    }

    /// Checks the answers after the return of the server. The instance is still the same. Returns
    /// the time until the first answer.
    async fn recovers(&mut self) -> Duration {
        let returned = Instant::now();
        if self.waiting == 0 {
            self.ask(1, Duration::ZERO);
        }
        let first = timeout(FIRST_ANSWER, self.codes.join_next()).await;
        let first = first.unwrap_or_else(|_| panic!("{} requests wait without an answer", self.waiting));
        let waited = returned.elapsed();
        let mut codes = vec![first.expect("a request").expect("a task")];
        while let Some(code) = self.codes.join_next().await {
            codes.push(code.expect("a task"));
        }
        assert_eq!(codes, vec![200; self.waiting.max(1)]);
        assert_eq!((self.stub.restarts(), self.stub.status().status), (0, StubStatus::Live));
        waited
    }
}

/// Returns the longest time until a first answer.
async fn recover(parties: &mut [Party]) -> Duration {
    join_all(parties.iter_mut().map(Party::recovers)).await.into_iter().max().unwrap_or_default()
}

/// The stubs have taken publications that the broker has not read. Then the broker is away for
/// longer than the connect timeout, several times.
///
/// Returns the longest time until a first answer.
async fn broker_outage(outage: Duration, connect_timeout: Duration) -> Duration {
    let mut broker = Mosquitto::start().await.expect("a broker");
    let (mut parties, mut apps) = (Vec::new(), Vec::new());
    for waiting in WAITING {
        let builder = runtime_of(&broker, tcp(&broker)).connect_timeout(connect_timeout);
        let (runtime, app) = TestRuntime::start(builder).await.into_parts();
        let question = create(&format!("requests/{waiting}"), json!("now").into());
        parties.push(Party::begin(runtime, waiting, question).await);
        apps.push(app);
    }
    broker.freeze().await.expect("frozen");
    for (Party { runtime, waiting, .. }, app) in parties.iter().zip(&apps) {
        let taken = runtime.counts().delivered + u64::try_from(UNSENT).expect("few");
        for n in 0..UNSENT {
            let mut publication = create(&format!("orders/{waiting}/{n}"), Body::Bytes(vec![b'x'; BYTES].into()));
            publication.kind = MessageType::Update;
            // The broker keeps a retained message for subscribers that come later.
            publication.headers.push(("retain".into(), "true".into()));
            app.post(publication).expect("a place in the queue");
        }
        soon(async {
            while runtime.counts().delivered < taken {
                yield_now().await;
            }
        })
        .await;
    }
    broker.kill().await.expect("killed");
    for party in &mut parties {
        until(&party.stub, StubStatus::Disconnected).await;
        party.ask(party.waiting, outage);
    }
    sleep(outage).await;
    broker.resume().await.expect("started again");
    let first_answer = recover(&mut parties).await;

    let (_runtime, mut bob) = mqtt_app(&broker, tls(&broker)).await;
    subscribe(&bob, "orders/#").await;
    let mut missing: BTreeSet<String> =
        WAITING.iter().flat_map(|waiting| (0..UNSENT).map(move |n| format!("/orders/{waiting}/{n}"))).collect();
    while !missing.is_empty() {
        let publication = timeout(Duration::from_secs(30), bob.recv()).await.unwrap_or_else(|_| panic!("lost: {missing:?}"));
        let topic = publication.expect("a publication").from;
        missing.retain(|missing| !topic.as_str().ends_with(missing));
    }
    for party in parties {
        assert_eq!(party.runtime.counts().open, 0, "{:?}", party.runtime.counts());
    }
    first_answer
}

/// Messages wait for the stubs while their message node is away for longer than the connect
/// timeout, several times.
///
/// Returns the longest time until a first answer.
async fn message_node_outage(outage: Duration, connect_timeout: Duration) -> Duration {
    let mut limits = Limits::default();
    limits.max_queued_messages = 4096;
    let (server, _folder) = server_with(limits).await;
    let start = || builder().home_domain(server.domain().as_str()).connect_timeout(connect_timeout).build();
    // A message that arrived, or `None` for an error that its sender got.
    let (reporter, mut outcomes) = mpsc::unbounded_channel();
    let bob = start().await.expect("a runtime");
    let mut bob_app = app(&bob, &server).await;
    let (to, arrivals) = (bob_app.address().clone(), reporter.clone());
    tokio::spawn(async move {
        while let Some(ping) = bob_app.recv().await {
            let _ = arrivals.send(Some(body(&ping)));
        }
    });
    let (mut parties, mut senders) = (Vec::new(), Vec::new());
    for waiting in WAITING {
        let runtime = start().await.expect("a runtime");
        senders.push(app(&runtime, &server).await);
        let node = format!("domain://msg-node.{}/address-allocation", server.domain());
        let question = Message::create(node.parse().unwrap()).with_body(json!({ "value": { "number": 1 } }));
        parties.push(Party::begin(runtime, waiting, question).await);
    }
    server.stop().await.expect("stopped");
    for (party, mut sender) in parties.iter_mut().zip(senders) {
        until(&party.stub, StubStatus::Disconnected).await;
        for n in 0..UNSENT {
            let ping = Message::new(MessageType::Other("ping".into()), to.clone());
            sender.post(ping.with_body(json!([party.waiting, n]))).expect("a place in the queue");
        }
        let errors = reporter.clone();
        tokio::spawn(async move {
            while let Some(error) = sender.recv().await {
                assert_eq!(error.kind, MessageType::Response, "{error:?}");
                let _ = errors.send(None);
            }
        });
        party.ask(party.waiting, outage);
    }
    sleep(outage).await;
    server.start_again(Memory::Kept).await.expect("started again");
    let bob_returns = bob.deploy_protostub(server.domain().as_str());
    let (bob_returned, first_answer) = tokio::join!(bob_returns, recover(&mut parties));
    bob_returned.expect("live");

    // Until bob is back, the message node answers his messages with 503. The bus counts these
    // answers, which came before the answer to each last request.
    let refused: u64 = parties.iter().map(|party| party.runtime.counts().unawaited).sum();
    let (mut arrived, mut told) = (BTreeSet::new(), 0);
    let mut left = PARTIES * UNSENT - usize::try_from(refused).expect("few");
    while left > 0 {
        let outcome = timeout(Duration::from_secs(30), outcomes.recv()).await;
        match outcome.unwrap_or_else(|_| panic!("{} arrived, {told} and {refused} were refused", arrived.len())) {
            Some(Some(ping)) => assert!(arrived.insert(ping.to_string()), "{ping} arrived twice"),
            _ => told += 1,
        }
        left -= 1;
    }
    assert!(outcomes.try_recv().is_err(), "a message has two outcomes");
    for party in parties {
        assert_eq!(party.runtime.counts().open, 0, "{:?}", party.runtime.counts());
    }
    first_answer
}

#[tokio::test]
async fn broker_outage_ends_no_instance_and_loses_nothing() {
    broker_outage(Duration::from_secs(6), Duration::from_secs(2)).await;
}

#[tokio::test]
async fn message_node_outage_ends_no_instance_and_loses_nothing() {
    message_node_outage(Duration::from_secs(6), Duration::from_secs(2)).await;
}

/// With the default connect timeout. `cargo xtask kills --outages` shows the line of the test.
#[tokio::test]
#[ignore = "takes two minutes"]
#[expect(clippy::print_stdout, reason = "the command shows the figures")]
async fn outages_of_20_50_and_90_seconds_lose_nothing() {
    let lengths = [20, 50, 90].map(Duration::from_secs);
    let connect_timeout = Duration::from_secs(30);
    let (of_brokers, of_nodes) = tokio::join!(
        join_all(lengths.map(|outage| broker_outage(outage, connect_timeout))),
        join_all(lengths.map(|outage| message_node_outage(outage, connect_timeout))),
    );
    let first_answer = of_brokers.iter().chain(&of_nodes).max().expect("outages");
    let of_server = lengths.len() * WAITING.iter().map(|waiting| waiting.max(&1) + UNSENT).sum::<usize>();
    println!(
        "{} outages, {} messages, 0 without an outcome, first answers within {:.1} s",
        2 * lengths.len() * PARTIES,
        2 * of_server,
        first_answer.as_secs_f64()
    );
}
