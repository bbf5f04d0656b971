//! Tests of the shares of senders in one inbox, and in the memory of all inboxes.

use protostub_bus::{Bus, Inbox, InboxLimits, Origin, Route};
use protostub_types::{Body, Message};

use crate::{Listener, STUB, address, check_sum, config, hyperty, numbered, read, update};

const MIB: usize = 1 << 20;

fn carrying(mut message: Message, bytes: usize) -> Message {
    message.body = Some(Body::Bytes(vec![0; bytes].into()));
    message
}

/// Posts the message until it is refused. Returns the number of accepted ones and the refusal.
fn flood(bus: &Bus, origin: &Origin, message: &Message) -> (usize, String) {
    let mut accepted = 0;
    loop {
        match bus.post(origin, message.clone()) {
            Ok(()) => accepted += 1,
            Err(refused) => {
                assert_eq!(refused.code, 429, "{refused}");
                return (accepted, refused.reason);
            }
        }
    }
}

fn bus_of(max_queued_bytes: usize) -> Bus {
    let mut config = config();
    config.max_queued_bytes = max_queued_bytes;
    Bus::new(config)
}

/// Attaches this many receivers that never read.
fn sleepers(bus: &Bus, count: usize) -> Vec<(Inbox, Route)> {
    let sleeper = |nth| {
        let inbox = bus.inbox(InboxLimits::default());
        let route = bus.attach(&address(&format!("hyperty://home.example/sleeper/{nth}")), &inbox.mailbox()).unwrap();
        (inbox, route)
    };
    (0..count).map(sleeper).collect()
}

#[tokio::test]
async fn flooder_leaves_places_for_other_senders() {
    let bus = crate::bus();
    let mut stub = Listener::stub(&bus);
    let flooder = hyperty("flooder");
    let (places, reason) = flood(&bus, &flooder, &carrying(update(STUB), 100));
    let expected = "hyperty://home.example/flooder has 513 messages in the receiver's inbox (places left for all senders: 511); try again later";
    assert_eq!((places, reason.as_str()), (513, expected));
    let request = bus.post(&flooder, numbered(read(STUB), 1)).unwrap_err();
    assert_eq!((request.code, request.reason.as_str()), (429, expected));
    // Ten others get all that they need, while the flooder goes on.
    for round in 0..20 {
        for other in 0..10 {
            let origin = hyperty(&format!("other{other}"));
            bus.post(&origin, update(STUB)).unwrap();
            bus.post(&origin, numbered(read(STUB), round)).unwrap();
        }
        bus.post(&flooder, update(STUB)).unwrap_err();
    }
    // A second flooder gets half of the rest, and a third one half of the rest then.
    let (second, _) = flood(&bus, &hyperty("second"), &update(STUB));
    let (third, _) = flood(&bus, &hyperty("third"), &update(STUB));
    assert_eq!((second, third), (56, 28));
    // Each message that is taken gives its place back.
    while stub.waits() > 700 {
        stub.next().await;
    }
    assert_eq!(flood(&bus, &flooder, &update(STUB)).0, 54);
    while stub.waits() > 0 {
        stub.next().await;
    }
    assert_eq!(flood(&bus, &flooder, &update(STUB)).0, 513);
    check_sum(bus.counts(), 513);
}

#[test]
fn sender_of_large_messages_leaves_bytes_for_others() {
    let bus = crate::bus();
    let _stub = Listener::stub(&bus);
    let (accepted, reason) = flood(&bus, &hyperty("flooder"), &carrying(update(STUB), MIB));
    assert!(accepted == 8 && reason.contains("left for all senders"), "{accepted}: {reason}");
    for other in ["one", "two"] {
        bus.post(&hyperty(other), carrying(update(STUB), MIB)).unwrap();
    }
}

/// Messages of a stub count as its own, regardless of their `from`.
#[test]
fn stub_with_many_addresses_has_one_share() {
    let bus = crate::bus();
    let (_alice, stub) = (Listener::hyperty(&bus, "alice"), Listener::stub(&bus));
    let mut accepted = 0;
    for nth in 0..1024 {
        let mut message = update("hyperty://home.example/alice");
        message.from = address(&format!("hyperty://sp1.example/{nth}"));
        accepted += u32::from(bus.post(&stub.origin, message).is_ok());
    }
    assert_eq!(accepted, 513);
    bus.post(&hyperty("bob"), update("hyperty://home.example/alice")).unwrap();
}

#[tokio::test]
async fn memory_of_all_inboxes_is_bounded() {
    let bus = bus_of(64 * MIB);
    let mut sleepers = sleepers(&bus, 60);
    let flooder = hyperty("flooder");
    let message = |nth: usize, bytes| carrying(update(&format!("hyperty://home.example/sleeper/{nth}")), bytes);
    let (mut queued, mut reasons) = (0, Vec::new());
    for bytes in [MIB, 100_000, 1000, 0] {
        for nth in 0..60 {
            let message = message(nth, bytes);
            let (accepted, reason) = flood(&bus, &flooder, &message);
            queued += accepted * message.size();
            reasons.push(reason);
        }
    }
    // Half of three quarters, a message more, and the own memory of each inbox.
    assert!((24 * MIB..26 * MIB).contains(&queued), "{queued} bytes");
    assert!(reasons.iter().any(|reason| reason.contains("`max-queued-bytes`")), "{reasons:?}");
    // Other senders have their shares, and the sum stays within the limit.
    for other in 0..20 {
        for nth in 0..60 {
            let message = message(nth, MIB);
            while bus.post(&hyperty(&format!("other{other}")), message.clone()).is_ok() {
                queued += message.size();
            }
        }
    }
    assert!((46 * MIB..=52 * MIB).contains(&queued), "{queued} bytes");
    // Receivers that keep up get all their messages.
    let mut alice = Listener::hyperty(&bus, "alice");
    for _ in 0..100 {
        bus.post(&flooder, carrying(update("hyperty://home.example/alice"), 4000)).unwrap();
        alice.next().await;
    }
    // All memory comes back, however a message ends.
    for (inbox, _) in &mut sleepers[..30] {
        while !inbox.mailbox().is_empty() {
            inbox.recv().await.unwrap();
        }
    }
    drop(sleepers);
    let _sleepers = self::sleepers(&bus, 60);
    let again: usize = (0..60).map(|nth| flood(&bus, &flooder, &message(nth, MIB)).0).sum();
    assert_eq!(again, 24);
}

/// A response that finds no memory is refused to the responder, and the request stays open.
#[tokio::test]
async fn response_without_memory_can_be_sent_again() {
    let bus = bus_of(8 * MIB);
    let mut sleepers = sleepers(&bus, 1);
    let (mut alice, _bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    bus.post(&hyperty("bob"), numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    let request = alice.next().await;
    for sender in 0..10 {
        flood(&bus, &hyperty(&format!("sender{sender}")), &carrying(update("hyperty://home.example/sleeper/0"), MIB));
    }
    let response = carrying(request.response(200, None), 2 * MIB);
    let refused = bus.post(&alice.origin, response.clone()).unwrap_err();
    assert!(refused.code == 429 && refused.reason.contains("`max-queued-bytes`"), "{refused}");
    assert_eq!(bus.counts().open, 1);
    while !sleepers[0].0.mailbox().is_empty() {
        sleepers[0].0.recv().await.unwrap();
    }
    bus.post(&alice.origin, response).unwrap();
    check_sum(bus.counts(), 0);
}

#[test]
fn message_over_the_shared_memory_gets_413() {
    let bus = bus_of(2 * MIB);
    let _sleepers = sleepers(&bus, 1);
    let message = carrying(update("hyperty://home.example/sleeper/0"), 2 * MIB);
    let refused = bus.post(&hyperty("alice"), message).unwrap_err();
    assert!(refused.code == 413 && refused.reason.contains("`max-queued-bytes`"), "{refused}");
}
