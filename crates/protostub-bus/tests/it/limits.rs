use protostub_bus::{Bus, InboxLimits, MAX_ID_BYTES, Origin};
use protostub_types::{Body, Message, MessageId, MessageType};
use serde_json::json;

use crate::{Listener, STUB, address, bus, check_sum, config, hyperty, numbered, read, update};

fn limits(messages: usize, bytes: usize) -> InboxLimits {
    InboxLimits::new(messages, bytes)
}

fn carrying(mut message: Message, bytes: usize) -> Message {
    message.body = Some(Body::Bytes(vec![0; bytes].into()));
    message
}

#[tokio::test]
async fn full_inbox_refuses_until_messages_are_taken() {
    let bus = bus();
    let alice = Listener::hyperty(&bus, "alice");
    let mut stub = Listener::stub_with(&bus, limits(2, 10_000));
    bus.post(&alice.origin, update(STUB)).unwrap();
    bus.post(&alice.origin, read(STUB)).unwrap();
    for message in [update(STUB), read(STUB)] {
        let error = bus.post(&alice.origin, message).unwrap_err();
        assert_eq!((error.code, error.to.as_str()), (429, STUB));
        assert!(error.reason.contains("2 messages wait"), "{error}");
    }
    stub.next().await;
    bus.post(&alice.origin, carrying(update(STUB), 8_000)).unwrap();
    stub.next().await;
    let error = bus.post(&alice.origin, carrying(update(STUB), 4_000)).unwrap_err();
    assert!(error.code == 429 && error.reason.contains("(limit: 10000)"), "{error}");
    let error = bus.post(&alice.origin, carrying(update(STUB), 10_000)).unwrap_err();
    assert!(error.code == 413 && error.reason.contains("more than the receiver's inbox may hold"), "{error}");
    stub.next().await;
    assert_eq!(bus.counts().open, 1, "refused requests are not open");
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn subscriber_without_room_misses_its_copy() {
    let bus = bus();
    let (alice, bob) = (Listener::hyperty_with(&bus, "alice", limits(1, 10_000)), Listener::hyperty(&bus, "bob"));
    let topic = address("hyperty://home.example/bob/room");
    bus.subscribe(&topic, &address("hyperty://home.example/alice"));
    for _ in 0..3 {
        bus.post(&bob.origin, update(topic.as_str())).unwrap();
    }
    assert_eq!((alice.waits(), bob.waits(), bus.counts().copies_dropped), (1, 0, 2));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn full_inbox_still_accepts_responses() {
    let bus = bus();
    let mut stub = Listener::stub_with(&bus, limits(3, 10_000));
    let mut alice = Listener::hyperty(&bus, "alice");
    for id in 1..=3 {
        bus.post(&hyperty(&format!("sender{id}")), update(STUB)).unwrap();
        bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), id)).unwrap();
    }
    // The stub's inbox is full of messages, and still accepts responses.
    let error = bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 4)).unwrap_err();
    assert!(error.code == 429 && error.reason.contains("responses waiting or outstanding"), "{error}");
    let requests = [alice.next().await, alice.next().await, alice.next().await];
    for request in &requests[..2] {
        bus.post(&alice.origin, carrying(request.response(200, None), 4_000)).unwrap();
    }
    let error = bus.post(&alice.origin, carrying(requests[2].response(200, None), 4_000)).unwrap_err();
    assert_eq!(error.code, 429, "{error}");
    let error = bus.post(&alice.origin, carrying(requests[2].response(200, None), 14_000)).unwrap_err();
    assert_eq!(error.code, 413, "{error}");
    assert_eq!(bus.counts().open, 1, "the responder may try again");
    for _ in 0..3 {
        assert_eq!(stub.next().await.kind, MessageType::Update);
    }
    assert_eq!(stub.next().await.kind, MessageType::Response);
    bus.post(&alice.origin, carrying(requests[2].response(200, None), 4_000)).unwrap();
    assert_eq!(stub.waits(), 2);
    assert_eq!(bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 5)), Ok(()));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn open_requests_are_bounded() {
    let mut config = config();
    config.max_open_requests = 2;
    let bus = Bus::new(config);
    let (mut alice, bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    let ask = || bus.post(&bob.origin, read("hyperty://home.example/alice"));
    ask().unwrap();
    ask().unwrap();
    let error = ask().unwrap_err();
    assert!(error.code == 429 && error.reason.contains("2 open requests"), "{error}");
    assert_eq!(bus.request(&Origin::Host, read("hyperty://home.example/alice"), None).await.unwrap_err().code, 429);
    let request = alice.next().await;
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    ask().unwrap();
    // Refusals released the reserved places for responses.
    let counts = bus.counts();
    assert_eq!((counts.open, counts.accepted, counts.refused), (2, 3, 2));
    check_sum(counts, 0);
}

/// 64 stubs with 1024 requests each would take all 65 536 places.
#[tokio::test]
async fn hoarding_stubs_leave_open_requests_for_others() {
    let bus = bus();
    let sink = Listener::hyperty_with(&bus, "sink", limits(100_000, usize::MAX / 2));
    let listen = |n: u64| {
        let (url, inbox) = (address(&format!("hyperty-runtime://sp{n}.example/protostub/1")), bus.inbox(InboxLimits::default()));
        inbox.mailbox().set_owner(&url);
        let route = bus.attach(&url, &inbox.mailbox()).unwrap();
        (Origin::Stub(url), inbox, route)
    };
    let ask = |origin: &Origin, id| bus.post(origin, numbered(read("hyperty://home.example/sink"), id));
    let hoarders: Vec<_> = (0..64).map(listen).collect();
    let mut refused = None;
    for id in 0..1024 {
        for (hoarder, ..) in &hoarders {
            refused = ask(hoarder, id).err().or(refused);
        }
    }
    let refused = refused.expect("the hoarders reach their share");
    assert!(refused.code == 429 && refused.reason.contains("open requests left; try again later"), "{refused}");
    // Three quarters for 64 hoarders and a newcomer.
    let share = 49_152 / 65;
    let open = bus.counts().open;
    assert!((64 * share..=64 * (share + 1)).contains(&open), "{open} open requests");
    let (newcomer, _inbox, _route) = listen(64);
    for id in 0..share / 2 {
        ask(&newcomer, id).unwrap();
    }
    // Hyperties have the rest for themselves.
    for n in 0..16 {
        let origin = crate::hyperty(&format!("asker{n}"));
        let _asker = Listener::hyperty(&bus, &format!("asker{n}"));
        for id in 1..=1024 {
            ask(&origin, id).unwrap();
        }
    }
    let before = bus.counts().open;
    drop(sink);
    assert!(before > 65_000 && bus.counts().open == 0, "{before} open requests");
    ask(&newcomer, 0).unwrap_err();
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn body_over_the_receivers_limit_gets_413() {
    let bus = bus();
    let mut limits = limits(10, 1 << 20);
    limits.body_bytes = 1000;
    let mut stub = Listener::stub_with(&bus, limits);
    let mut alice = Listener::hyperty(&bus, "alice");
    for message in [update(STUB), read(STUB), read("hyperty://sp1.example/bob")] {
        let error = bus.post(&alice.origin, carrying(message.clone(), 1001)).unwrap_err();
        let expected =
            "the body has 1001 bytes, more than the 1000 that the receiving stub takes (`body-bytes`); send a smaller one";
        assert_eq!((error.code, error.reason.as_str()), (413, expected));
        bus.post(&alice.origin, carrying(message, 1000)).unwrap();
        stub.next().await;
    }
    // A responder may try again with a smaller body.
    bus.post(&stub.origin, numbered(carrying(read("hyperty://home.example/alice"), 10_000), 1)).unwrap();
    let request = alice.next().await;
    for code in [100, 200] {
        let response = |length| request.response(code, Some(json!("x".repeat(length))));
        let error = bus.post(&alice.origin, response(1000)).unwrap_err();
        assert!(error.code == 413 && error.reason.contains("(`body-bytes`)"), "{error}");
        bus.post(&alice.origin, response(900)).unwrap();
        assert_eq!(stub.next().await.code(), Some(code));
    }
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn refused_request_releases_its_reply_place() {
    let bus = bus();
    let mut stub = Listener::stub_with(&bus, limits(1, 10_000));
    let full = Listener::hyperty_with(&bus, "full", limits(1, 10_000));
    let mut alice = Listener::hyperty(&bus, "alice");
    bus.post(&alice.origin, update("hyperty://home.example/full")).unwrap();
    for (to, code) in [
        ("hyperty://home.example/full", 429),
        ("hyperty://home.example/nobody", 404),
        ("hyperty://sp1.example/myself", 508),
        ("hyperty://home.example/full", 429),
    ] {
        assert_eq!(bus.post(&stub.origin, numbered(read(to), 1)).unwrap_err().code, code);
    }
    bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    let request = alice.next().await;
    assert_eq!(bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap_err().code, 429);
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    assert_eq!(stub.next().await.code(), Some(200));
    drop(full);
    check_sum(bus.counts(), 0);
}

#[test]
fn message_over_general_limits_gets_400() {
    let bus = bus();
    let _alice = Listener::hyperty(&bus, "alice");
    let check = |change: &dyn Fn(&mut Message), expected: &str| {
        let mut message = update("hyperty://home.example/alice");
        change(&mut message);
        let error = bus.post(&Origin::Host, message).unwrap_err();
        assert!(error.code == 400 && error.reason.contains(expected), "{error}");
    };
    check(&|message| message.id = MessageId::Text("x".repeat(MAX_ID_BYTES + 1).into()), "`id` has 257 bytes");
    check(&|message| message.kind = MessageType::Other("x".repeat(65).into()), "`type` has 65 bytes");
    check(&|message| message.via = vec![address(STUB); 17], "`via`");
    check(&|message| message.headers = vec![(String::new(), "x".repeat(9000))], "`headers`");
}
