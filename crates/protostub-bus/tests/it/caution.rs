//! Tests of an inbox after crashes of its owner: messages one at a time, and refused senders.

use std::{future, time::Duration};

use protostub_bus::{Bus, Envelope, Inbox, InboxLimits, Origin};
use protostub_types::{Message, MessageType};
use tokio::time::advance;

use crate::{Listener, address, bus, check_sum, config, hyperty, numbered, read, timed_bus, update};

const BOB: &str = "hyperty://sp1.example/bob";

/// Takes a batch as a stub's task does.
async fn take(inbox: &mut Inbox) -> Vec<Envelope> {
    let mut batch = Vec::new();
    future::poll_fn(|cx| inbox.poll_batch(cx, 64, usize::MAX, &mut batch)).await;
    batch
}

async fn take_ids(inbox: &mut Inbox) -> Vec<String> {
    take(inbox).await.iter().map(|message| message.id.to_string()).collect()
}

/// Takes a batch that the owner does not survive.
async fn crash(bus: &Bus, inbox: &mut Inbox) -> Vec<String> {
    let batch = take(inbox).await;
    inbox.crashed(&batch);
    for message in batch.iter().filter(|message| !message.expects_response()) {
        bus.fail(message, 502, "the stub crashed");
    }
    bus.fail_taken(&inbox.mailbox(), 502, "the stub crashed");
    batch.iter().map(|message| message.id.to_string()).collect()
}

#[tokio::test]
async fn next_owner_gets_single_messages_until_it_survived_ten() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let carol = Listener::hyperty(&bus, "carol");
    assert!(!stub.inbox.is_cautious());
    for id in 1..=3 {
        bus.post(&alice.origin, numbered(update(BOB), id)).unwrap();
    }
    for id in 4..=20 {
        bus.post(&carol.origin, numbered(update(BOB), id)).unwrap();
    }
    let mut batch = Vec::new();
    future::poll_fn(|cx| stub.inbox.poll_batch(cx, 3, usize::MAX, &mut batch)).await;
    stub.inbox.crashed(&batch);
    assert!(stub.inbox.is_cautious());
    for message in &batch {
        bus.fail(message, 502, "the stub crashed");
    }
    for id in 4..=13 {
        assert_eq!(take_ids(&mut stub.inbox).await, [id.to_string()], "the messages of the batch are not handed out again");
    }
    assert_eq!(take_ids(&mut stub.inbox).await, ["14", "15", "16", "17", "18", "19", "20"]);
    for id in ["1", "2", "3"] {
        let error = alice.next().await;
        assert_eq!((error.code(), error.id.to_string().as_str()), (Some(502), id));
    }
    // The messages of a suspect come alone for longer.
    for (id, origin) in [(21, &carol.origin), (22, &alice.origin), (23, &alice.origin), (24, &carol.origin), (25, &carol.origin)]
    {
        bus.post(origin, numbered(update(BOB), id)).unwrap();
    }
    for ids in [&["21"][..], &["22"], &["23"], &["24", "25"]] {
        assert_eq!(take_ids(&mut stub.inbox).await, ids);
    }
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn crash_during_the_ten_starts_the_count_again() {
    let bus = bus();
    let mut stub = Listener::stub(&bus);
    for id in 1..=30 {
        let sender = hyperty(&format!("sender{id}"));
        bus.post(&sender, numbered(update(BOB), id)).unwrap();
    }
    stub.inbox.crashed(&[]);
    for id in 1..=9 {
        assert_eq!(take_ids(&mut stub.inbox).await, [id.to_string()]);
    }
    // The owner crashes with the tenth.
    assert_eq!(crash(&bus, &mut stub.inbox).await, ["10"]);
    for id in 11..=20 {
        assert_eq!(take_ids(&mut stub.inbox).await, [id.to_string()]);
    }
    assert_eq!(take_ids(&mut stub.inbox).await.len(), 10);
    check_sum(bus.counts(), 0);
}

#[tokio::test(start_paused = true)]
async fn sender_that_ends_two_owners_is_refused_for_its_time() {
    let bus = timed_bus(config());
    let mut limits = InboxLimits::default();
    limits.suspicion = Duration::from_secs(20);
    let mut stub = Listener::stub_with(&bus, limits);
    let (mut mallory, alice) = (Listener::hyperty(&bus, "mallory"), Listener::hyperty(&bus, "alice"));
    bus.post(&alice.origin, numbered(update(BOB), 1)).unwrap();
    bus.post(&mallory.origin, numbered(update(BOB), 2)).unwrap();
    assert_eq!(crash(&bus, &mut stub.inbox).await, ["1", "2"]);
    for id in 3..=4 {
        bus.post(&mallory.origin, numbered(read(BOB), id)).unwrap();
    }
    bus.post(&alice.origin, numbered(update(BOB), 5)).unwrap();
    bus.post(&mallory.origin, numbered(update(BOB), 6)).unwrap();
    assert_eq!(crash(&bus, &mut stub.inbox).await, ["3"]);
    // The fourth and the sixth were waiting.
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let error = mallory.next().await;
        outcomes.push((error.id.to_string(), error.code().unwrap()));
    }
    outcomes.sort();
    assert_eq!(outcomes, [("2", 502), ("3", 502), ("4", 503), ("6", 503)].map(|(id, code)| (id.to_owned(), code)));
    for message in [update(BOB), read(BOB)] {
        let refused = bus.post(&mallory.origin, message).unwrap_err();
        assert_eq!(refused.code, 503);
        let expected = "messages of hyperty://home.example/mallory ended two instances of the receiving stub; try again in 20 s";
        assert_eq!(refused.reason, expected);
    }
    // The other sender, with a message in the first crash, goes on.
    assert_eq!(take_ids(&mut stub.inbox).await, ["5"]);
    bus.post(&alice.origin, numbered(update(BOB), 7)).unwrap();
    assert_eq!(take_ids(&mut stub.inbox).await, ["7"]);

    advance(Duration::from_secs(19)).await;
    assert_eq!(bus.post(&mallory.origin, update(BOB)).unwrap_err().code, 503);
    advance(Duration::from_secs(1)).await;
    bus.post(&mallory.origin, numbered(update(BOB), 8)).unwrap();
    assert_eq!(take_ids(&mut stub.inbox).await, ["8"]);
    check_sum(bus.counts(), 0);
}

#[tokio::test(start_paused = true)]
async fn crashes_further_apart_than_the_time_refuse_no_sender() {
    let bus = timed_bus(config());
    let (mut stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    for id in 1..=3 {
        bus.post(&alice.origin, numbered(update(BOB), id)).unwrap();
        assert_eq!(crash(&bus, &mut stub.inbox).await, [id.to_string()]);
        advance(Duration::from_secs(60)).await;
    }
    let mut off = InboxLimits::default();
    off.suspicion = Duration::ZERO;
    let mut carol = Listener::hyperty_with(&bus, "carol", off);
    for id in 4..=6 {
        bus.post(&alice.origin, numbered(update("hyperty://home.example/carol"), id)).unwrap();
        assert_eq!(crash(&bus, &mut carol.inbox).await, [id.to_string()]);
    }
    check_sum(bus.counts(), 0);
}

/// A stub may choose `from` among all addresses of its domain.
#[tokio::test]
async fn sender_of_a_message_is_the_stub_that_posted_it() {
    let bus = bus();
    let mut stub = Listener::stub(&bus);
    let other = Origin::Stub(address("hyperty-runtime://sp2.example/protostub/1"));
    let of = |name: &str, id| {
        let mut message = numbered(update(BOB), id);
        message.from = address(&format!("hyperty://sp2.example/{name}"));
        message
    };
    for (name, id) in [("one", 1), ("two", 2)] {
        bus.post(&other, of(name, id)).unwrap();
        assert_eq!(crash(&bus, &mut stub.inbox).await, [id.to_string()]);
    }
    assert_eq!(bus.post(&other, of("three", 3)).unwrap_err().code, 503);
    // A hyperty at an address that the stub used is another sender.
    bus.post(&Origin::Hyperty(address("hyperty://sp2.example/one")), of("one", 4)).unwrap();
    assert_eq!(take_ids(&mut stub.inbox).await, ["4"]);
}

/// Responses can be poison too. The stub's requests still get one response each.
#[tokio::test]
async fn refused_responder_gives_the_stub_an_error_response() {
    let bus = bus();
    let (mut stub, mut mallory) = (Listener::stub(&bus), Listener::hyperty(&bus, "mallory"));
    let to_mallory = |id| numbered(read("hyperty://home.example/mallory"), id);
    for id in 1..=5 {
        bus.post(&stub.origin, to_mallory(id)).unwrap();
    }
    let mut requests = Vec::new();
    for _ in 0..5 {
        requests.push(mallory.next().await);
    }
    let answer = |request: Message| bus.post(&mallory.origin, request.response(200, None));
    answer(requests.remove(0)).unwrap();
    assert_eq!(crash(&bus, &mut stub.inbox).await, ["1"]);
    answer(requests.remove(0)).unwrap();
    answer(requests.remove(0)).unwrap();
    assert_eq!(crash(&bus, &mut stub.inbox).await, ["2"]);

    // The third response was waiting, and the fourth comes too late.
    assert_eq!(answer(requests.remove(0)).unwrap_err().code, 503);
    for id in ["3", "4"] {
        let batch = take(&mut stub.inbox).await;
        let [response] = &batch[..] else { panic!("{batch:?}") };
        assert_eq!((response.id.to_string().as_str(), response.code(), &response.kind), (id, Some(503), &MessageType::Response));
        assert_eq!(response.from, address("hyperty://home.example/mallory"));
    }
    let provisional = requests.remove(0).response(100, None);
    assert_eq!(bus.post(&mallory.origin, provisional).unwrap_err().code, 503);
    assert_eq!((stub.waits(), bus.counts().open), (0, 1));
    check_sum(bus.counts(), 0);
}
