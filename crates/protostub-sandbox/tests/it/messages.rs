use std::time::Duration;

use protostub_bus::{InboxLimits, Origin};
use protostub_types::{Body, Message, MessageId, MessageType, StubStatus};
use serde_json::{Value, json};

use crate::support::{Fixture, Listener, address, domain, observed};

#[tokio::test]
async fn a_message_is_answered() {
    let actor = Fixture::new(json!({})).live().await;
    let response = actor.request(json!({ "do": "echo", "text": "ä\u{0}\"" })).await.unwrap();
    assert_eq!(response.code(), Some(200));
    assert_eq!(response.from, address("hyperty://sp1.example/actor"));
    let body: Value = response.body.unwrap().parse().unwrap();
    assert_eq!(body["value"], json!({ "do": "echo", "text": "ä\u{0}\"" }));
}

#[tokio::test]
async fn all_parts_of_a_message_cross_both_ways() {
    let (fixture, mut listener) = observed(json!({}));
    let actor = fixture.live().await;
    let order = json!({
        "do": "post", "id": "seven", "type": "wave", "from": "hyperty://sp1.example/bob", "to": Listener::ADDRESS,
        "via": ["hyperty-runtime://other.example/1"], "headers": { "traceparent": "00-ab" }, "bytes": 5,
    });
    assert_eq!(actor.told(order).await, json!(["ok"]));
    let message = listener.message().await;
    assert_eq!(message.id, MessageId::Text("seven".into()));
    assert_eq!(message.kind, MessageType::Other("wave".into()));
    assert_eq!(message.from, address("hyperty://sp1.example/bob"));
    assert_eq!(message.via, [address("hyperty-runtime://other.example/1"), actor.url.clone()]);
    assert_eq!(message.headers, [("traceparent".to_owned(), "00-ab".to_owned())]);
    assert_eq!(message.body, Some(Body::Bytes(b"bbbbb".as_slice().into())));
}

#[tokio::test]
async fn messages_keep_their_order_and_come_in_batches() {
    let mut fixture = Fixture::new(json!({}));
    fixture.limits.batch_events = 10;
    let mut actor = fixture.start().await.unwrap();
    for n in 0..35 {
        actor
            .bus
            .post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(json!({ "n": n })))
            .unwrap();
    }
    actor.handle.connect(None).await.unwrap();
    actor.status(StubStatus::Live).await;
    let calls = actor.told(json!({ "do": "calls" })).await;
    let calls = calls.as_array().unwrap();
    assert_eq!(calls[0], json!(["connect"]));
    let messages: Vec<&Value> =
        calls[1..].iter().flat_map(|call| call.as_array().unwrap()).filter(|event| event.is_number()).collect();
    assert_eq!(messages, (0..35).map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert!(calls.iter().all(|call| call.as_array().unwrap().len() <= 10), "{calls:?}");
    assert!(calls.len() <= 7, "waiting messages come together: {calls:?}");
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_too() {
    let mut fixture = Fixture::new(json!({}));
    fixture.limits.batch_bytes = 10_000;
    let actor = fixture.start().await.unwrap();
    let text = "x".repeat(4_000);
    for n in 0..6 {
        actor
            .bus
            .post(
                &Origin::Host,
                Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(json!({ "n": n, "text": text })),
            )
            .unwrap();
    }
    actor.handle.connect(None).await.unwrap();
    let calls = actor.told(json!({ "do": "calls" })).await;
    let sizes: Vec<usize> = calls
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call.as_array().unwrap().iter().filter(|event| event.is_number()).count())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 6, "{calls}");
    assert!(sizes.iter().all(|size| *size <= 2), "two messages have more than 8 000 bytes, and three more than 10 000: {calls}");
}

#[tokio::test]
async fn messages_come_only_while_the_stub_is_live() {
    let (fixture, mut listener) = observed(json!({ "connect": { "do": "publish", "status": "in-progress" } }));
    let mut actor = fixture.start().await.unwrap();
    let order = json!({ "do": "post", "to": Listener::ADDRESS, "body": "handled" });
    actor.bus.post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(order)).unwrap();
    actor.handle.connect(None).await.unwrap();
    actor.status(StubStatus::InProgress).await;
    // A second command has been handled, and the message has not come.
    actor.handle.connect(None).await.unwrap();
    assert!(listener.is_quiet());
    actor.handle.disconnect(protostub_sandbox::DisconnectReason::Request).await.unwrap();
    assert_eq!(listener.hears().await, json!({ "disconnect": "request" }));
    assert!(listener.is_quiet());
    let waiting = actor.handle.clone();
    waiting.stop();
    let ended = actor.ended().await;
    assert_eq!(ended.inbox.mailbox().len(), 1, "it waits for the successor");
}

#[tokio::test]
async fn paused_stub_gets_all_events_except_messages() {
    let (fixture, mut listener) = observed(json!({}));
    let actor = fixture.live().await;
    actor.told(json!([{ "do": "pause" }, { "do": "timer", "ms": 1 }])).await;
    let order = json!({ "do": "post", "to": Listener::ADDRESS, "body": "handled" });
    actor.bus.post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(order)).unwrap();
    assert_eq!(listener.hears().await, json!({ "timer": 1 }));
    actor.handle.connect(None).await.unwrap();
    assert!(listener.is_quiet(), "the message still waits");
}

#[tokio::test]
async fn resumed_stub_gets_waiting_messages() {
    let (fixture, mut listener) = observed(json!({ "connect": [{ "do": "publish", "status": "live" }, { "do": "resume" }] }));
    let actor = fixture.live().await;
    actor.told(json!({ "do": "pause" })).await;
    let order = json!({ "do": "post", "to": Listener::ADDRESS, "body": "handled" });
    actor.bus.post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(order)).unwrap();
    actor.handle.connect(None).await.unwrap();
    assert_eq!(listener.hears().await, json!("handled"));
}

#[tokio::test]
async fn a_stub_speaks_only_as_itself_and_for_its_domain() {
    let (mut fixture, mut listener) = observed(json!({}));
    fixture.relays = vec![domain("relayed.example")];
    let actor = fixture.live().await;
    let check = async |from: &str, expected: &str| {
        let result = actor.told(json!({ "do": "post", "from": from, "to": Listener::ADDRESS })).await;
        let result = result[0].as_str().unwrap().to_owned();
        assert!(result.starts_with(expected), "{from}: {result}");
    };
    for from in [
        "hyperty-runtime://sp1.example/protostub/1",
        "hyperty-runtime://sp1.example/protostub/1/below",
        "hyperty://sp1.example/alice",
        "domain://sp1.example",
        "hyperty://relayed.example/x",
    ] {
        check(from, "ok").await;
        assert_eq!(listener.message().await.from, address(from));
    }
    check("hyperty://sub.sp1.example/x", "denied").await;
    check("hyperty://sp1.example:8443/x", "denied").await;
    check("hyperty://other.example/x", "denied").await;
    check("hyperty://sp1.example.evil/x", "denied").await;
    check("mn:/session", "denied").await;
    check("hyperty-runtime://home.example/r", "denied").await;
    check("hyperty-runtime://sp1.example/protostub/1/status", "denied: `from` is").await;
    check("hyperty-runtime://sp1.example/protostub/1/status/x", "denied").await;
    check("hyperty-runtime://sp1.example/protostub/2", "denied").await;
    check("hyperty-runtime://sp1.example/protostub/2/status", "denied").await;
    check("HYPERTY-RUNTIME://SP1.example/protostub/2", "denied").await;
    check("no address", "invalid: `from`: `no address` is not an address").await;
    check("", "invalid").await;
    assert!(listener.is_quiet());
}

#[tokio::test]
async fn the_home_domains_stub_is_not_the_runtime() {
    let (mut fixture, mut listener) = observed(json!({ "runtimeURL": "hyperty-runtime://home.example/r" }));
    fixture.domain = domain("home.example");
    fixture.url = address("hyperty-runtime://home.example/protostub/1");
    let actor = fixture.live().await;
    let post = |from: &str| json!({ "do": "post", "from": from, "to": Listener::ADDRESS });
    for from in ["hyperty-runtime://home.example/r", "hyperty-runtime://home.example/r/ua"] {
        let result = actor.told(post(from)).await;
        assert!(result[0].as_str().unwrap().contains("an address of the runtime itself"), "{from}: {result}");
    }
    assert_eq!(actor.told(post("hyperty-runtime://home.example/other")).await, json!(["ok"]));
    assert_eq!(listener.message().await.from, address("hyperty-runtime://home.example/other"));
}

#[tokio::test]
async fn invalid_message_is_refused_alone() {
    let (fixture, listener) = observed(json!({}));
    let actor = fixture.live().await;
    let check = async |extra: Value, expected: &str| {
        let mut order = json!({ "do": "post", "to": Listener::ADDRESS });
        order.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let result = actor.told(order).await;
        let result = result[0].as_str().unwrap().to_owned();
        assert!(result.starts_with(expected), "{extra}: {result}");
    };
    check(json!({ "to": "" }), "invalid: `to`").await;
    check(json!({ "id": "x".repeat(257) }), "invalid: `id` has 257 bytes").await;
    check(json!({ "type": "" }), "invalid: the message's `type`").await;
    check(json!({ "bytes": (1 << 20) + 1 }), "invalid: `body` has 1048577 bytes, and the limit is 1048576").await;
    check(json!({ "headers": { "Upper": "x" } }), "invalid: the name of the header `Upper`").await;
    check(json!({ "headers": { "long": "x".repeat(9_000) } }), "invalid: the message's `headers` has 9004 bytes").await;
    check(json!({ "via": vec!["hyperty://a.example/x"; 17] }), "invalid: the message's `via`").await;
    check(json!({ "to": "hyperty-runtime://home.example/r/nobody" }), "io: ").await;
    check(json!({ "to": "hyperty://sp1.example/back" }), "denied: the message came through this stub already").await;
    assert!(listener.is_quiet());
}

#[tokio::test]
async fn a_full_inbox_is_busy() {
    let fixture = Fixture::new(json!({}));
    let small = fixture.bus.inbox(InboxLimits::new(1, 1 << 20));
    let _route = fixture.bus.attach(&address(Listener::ADDRESS), &small.mailbox()).unwrap();
    let actor = fixture.live().await;
    assert_eq!(actor.told(json!({ "do": "post", "to": Listener::ADDRESS, "times": 3 })).await, json!(["ok", "busy", "busy"]));
}

#[tokio::test]
async fn crash_answers_taken_messages_and_returns_the_rest() {
    let mut fixture = Fixture::new(json!({}));
    fixture.limits.batch_events = 3;
    let bus = fixture.bus.clone();
    let mut sender = Listener::new(&bus);
    let origin = Origin::Hyperty(address(Listener::ADDRESS));
    let actor = fixture.live().await;
    let post = |kind: MessageType, id: u64, order: Value| {
        let mut message = Message::new(kind, "hyperty://sp1.example/actor".parse().unwrap()).with_body(order);
        message.from = address(Listener::ADDRESS);
        message.id = MessageId::Number(id);
        bus.post(&origin, message).unwrap();
    };
    post(MessageType::Read, 1, json!({ "do": "keep" }));
    actor.told(json!({})).await;
    // All messages are there before the actor's task has a turn: one batch of three, and the rest.
    post(MessageType::Read, 2, json!({ "n": 2 }));
    post(MessageType::Update, 3, json!({ "n": 3 }));
    post(MessageType::Update, 4, json!({ "do": "trap" }));
    post(MessageType::Update, 5, json!({ "n": 5 }));
    post(MessageType::Read, 6, json!({ "n": 6 }));
    let ended = actor.ended().await;
    assert_eq!(ended.outcome.to_string(), "the stub crashed: wasm `unreachable` instruction executed");
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = sender.message().await;
        answers.push((answer.id.to_string(), answer.code().unwrap()));
    }
    answers.sort();
    // The first was kept. The second was answered before the crash, and the answer stands.
    let expected = [("1", 502), ("2", 200), ("3", 502), ("4", 502)].map(|(id, code)| (id.to_owned(), code));
    assert_eq!(answers, expected);
    assert!(sender.is_quiet());
    let mut rest = ended.inbox;
    assert_eq!(rest.mailbox().len(), 2);
    assert_eq!(rest.recv().await.unwrap().id, MessageId::Number(5));
    assert_eq!(rest.recv().await.unwrap().id, MessageId::Number(6));
}

/// The crash of a call then has one possible culprit.
#[tokio::test]
async fn message_after_a_crash_comes_apart_from_other_events() {
    let fixture = Fixture::new(json!({}));
    let bus = fixture.bus.clone();
    let actor = fixture.live().await;
    assert_eq!(actor.fatal(json!({ "do": "trap" })).await, 502);
    let inbox = actor.ended().await.inbox;
    assert!(inbox.is_cautious());

    let mut next = Fixture::new(json!({}));
    next.bus = bus.clone();
    let mut actor = next.start_with(inbox).await.map_err(|(kind, _)| kind).unwrap();
    actor.handle.connect(None).await.unwrap();
    actor.status(StubStatus::Live).await;
    actor.told(json!({ "do": "timer", "ms": 1, "times": 50 })).await;
    for n in 1..=5 {
        // All timers are due after the first of these messages.
        let order = json!({ "do": "sleep", "ms": 2, "n": n });
        bus.post(&Origin::Host, Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(order)).unwrap();
    }
    let calls = actor.told(json!({ "do": "calls" })).await;
    let calls: Vec<_> = calls.as_array().unwrap().iter().map(|call| call.as_array().unwrap().clone()).collect();
    let (timers, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| call[0]["timer"].is_u64());
    assert!(timers.iter().flatten().all(|event| event["timer"].is_u64()), "{timers:?}");
    assert_eq!(timers.iter().flatten().count(), 50);
    let expected = [json!("connect"), json!("message"), json!(1), json!(2), json!(3), json!(4), json!(5), json!("message")];
    assert_eq!(others, expected.map(|event| vec![event]));
}

#[tokio::test]
async fn stop_answers_kept_requests() {
    let actor = Fixture::new(json!({})).live().await;
    let (response, _) = tokio::join!(actor.request(json!({ "do": "keep" })), async {
        actor.told(json!({})).await;
        actor.handle.stop();
    });
    assert_eq!(response.unwrap_err().code, 502);
    assert!(actor.outcome().await.is_orderly());
}

#[tokio::test]
async fn a_late_answer_is_an_answer() {
    let actor = Fixture::new(json!({})).live().await;
    let (response, _) = tokio::join!(actor.request(json!({ "do": "keep" })), async {
        actor.told(json!({})).await;
        actor.told(json!({ "do": "answer-kept" })).await;
    });
    assert_eq!(response.unwrap().code(), Some(200));
}

#[tokio::test]
async fn two_stubs_do_not_wait_for_each_other() {
    let mut first = Fixture::new(json!({}));
    // The test requests as often as the actor answers, and an answer over the limit would not come.
    first.limits.posts_per_second = u32::MAX;
    let mut second = Fixture::new(json!({}));
    second.bus = first.bus.clone();
    second.domain = domain("sp2.example");
    second.url = address("hyperty-runtime://sp2.example/protostub/2");
    second.limits.cpu_per_call = Duration::from_millis(300);
    let (first, second) = (first.live().await, second.live().await);
    let spinning = tokio::spawn(async move {
        assert_eq!(second.fatal(json!({ "do": "spin" })).await, 502);
        second.outcome().await
    });
    let mut answered = 0;
    while !spinning.is_finished() {
        first.told(json!({ "n": answered })).await;
        answered += 1;
    }
    let outcome = spinning.await.unwrap();
    assert_eq!(
        outcome.to_string(),
        "the stub exceeded a limit: a call computed for more than 300ms (`cpu-per-call-milliseconds`)"
    );
    assert!(answered > 20, "{answered} answers next to a stub that spins, on one thread");
}
