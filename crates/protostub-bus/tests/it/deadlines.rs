use std::time::Duration;

use protostub_bus::{Bus, InboxLimits, MAX_REQUEST_TIMEOUT, Origin};
use protostub_types::Message;
use tokio::time::{Instant, advance};

use crate::{Listener, STUB, address, check_sum, config, hyperty, numbered, read, timed_bus, update};

fn within(message: Message, milliseconds: &str) -> Message {
    let mut message = message;
    message.headers.push(("timeout-ms".to_owned(), milliseconds.to_owned()));
    message
}

/// Lets the sweeper run without advancing the clock.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_request_gets_408_at_its_timeout() {
    let bus = timed_bus(config());
    let mut stub = Listener::stub(&bus);
    let check = async |message: Message, timeout: Option<Duration>, expected: Duration| {
        let began = Instant::now();
        let error = bus.request(&hyperty("alice"), message, timeout).await.unwrap_err();
        assert_eq!((error.code, error.to.as_str()), (408, "hyperty://sp1.example/bob"));
        assert!(error.reason.contains("did not take the request in time"), "{error}");
        let took = began.elapsed();
        assert!(took >= expected && took < expected + Duration::from_millis(5), "{took:?} for {expected:?}");
    };
    let bob = || read("hyperty://sp1.example/bob");
    check(bob(), None, Duration::from_secs(15)).await;
    check(within(bob(), "250"), None, Duration::from_millis(250)).await;
    check(within(bob(), "60000"), None, Duration::from_secs(60)).await;
    check(within(bob(), "soon"), None, Duration::from_secs(15)).await;
    check(within(bob(), "18446744073709551615"), None, MAX_REQUEST_TIMEOUT).await;
    check(within(bob(), "250"), Some(Duration::from_secs(1)), Duration::from_secs(1)).await;
    check(bob(), Some(Duration::ZERO), Duration::ZERO).await;
    assert_eq!(stub.waits(), 0, "an expired request leaves the inbox");

    let taking = async {
        let request = stub.next().await;
        advance(Duration::from_secs(16)).await;
        settle().await;
        bus.post(&stub.origin, request.response(200, None)).unwrap();
    };
    let alice = hyperty("alice");
    let (outcome, ()) = tokio::join!(bus.request(&alice, bob(), None), taking);
    let error = outcome.unwrap_err();
    assert!(error.code == 408 && error.reason.contains("did not answer in time"), "{error}");
    assert_eq!((bus.counts().failed, bus.counts().unawaited), (8, 1));
    check_sum(bus.counts(), 0);
}

#[tokio::test(start_paused = true)]
async fn earlier_deadline_after_later_one_expires_first() {
    let bus = timed_bus(config());
    let (_stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    for (id, milliseconds) in [(1, "9000"), (2, "300"), (3, "5000"), (4, "300")] {
        settle().await;
        bus.post(&alice.origin, within(numbered(read("hyperty://sp1.example/bob"), id), milliseconds)).unwrap();
    }
    let began = Instant::now();
    let mut order = Vec::new();
    for _ in 0..4 {
        let response = alice.next().await;
        assert_eq!((response.code(), response.from), (Some(408), address("hyperty://sp1.example/bob")));
        order.push((response.id.to_string(), began.elapsed().as_millis() / 100));
    }
    let expected = [("2", 3), ("4", 3), ("3", 50), ("1", 90)];
    assert_eq!(order, expected.map(|(id, at)| (id.to_owned(), at)));
}

#[tokio::test(start_paused = true)]
async fn message_waiting_too_long_in_inbox_gets_408() {
    let bus = timed_bus(config());
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    bus.post(&alice.origin, within(numbered(read(STUB), 1), "600000")).unwrap();
    bus.post(&alice.origin, numbered(update(STUB), 2)).unwrap();
    advance(Duration::from_secs(20)).await;
    bus.post(&alice.origin, numbered(update("hyperty://sp1.example/bob"), 3)).unwrap();
    advance(Duration::from_secs(30)).await;
    settle().await;
    assert_eq!((stub.waits(), alice.waits()), (3, 0));
    advance(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!((stub.waits(), alice.waits()), (2, 1));
    let response = alice.next().await;
    assert_eq!((response.code(), response.id.to_string(), response.from.as_str()), (Some(408), "2".to_owned(), STUB));
    advance(Duration::from_secs(20)).await;
    settle().await;
    assert_eq!((stub.waits(), alice.next().await.id.to_string()), (1, "3".to_owned()));
    // The sweeper watches the inbox again after it was empty.
    assert_eq!(stub.next().await.id.to_string(), "1");
    bus.post(&alice.origin, numbered(update(STUB), 4)).unwrap();
    advance(Duration::from_secs(61)).await;
    settle().await;
    assert_eq!((stub.waits(), alice.next().await.id.to_string()), (0, "4".to_owned()));
    check_sum(bus.counts(), 0);
}

#[tokio::test(start_paused = true)]
async fn expired_copy_is_dropped_and_response_waits() {
    let bus = timed_bus(config());
    let (mut alice, mut bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    let topic = address("hyperty://home.example/bob/room");
    bus.subscribe(&topic, &address("hyperty://home.example/alice"));
    bus.post(&bob.origin, update(topic.as_str())).unwrap();
    bus.post(&alice.origin, numbered(read("hyperty://home.example/bob"), 1)).unwrap();
    let request = bob.next().await;
    bus.post(&bob.origin, request.response(200, None)).unwrap();
    advance(Duration::from_secs(120)).await;
    settle().await;
    assert_eq!((alice.waits(), bob.waits(), bus.counts().copies_dropped), (1, 0, 1));
    assert_eq!(alice.next().await.code(), Some(200));
}

#[tokio::test(start_paused = true)]
async fn restarted_deadlines_still_expire() {
    let mut config = config();
    config.request_timeout = Duration::from_secs(1);
    let bus = Bus::new(config);
    let (_stub, mut alice) = (Listener::stub_with(&bus, InboxLimits::default()), Listener::hyperty(&bus, "alice"));
    for id in 1..=3 {
        bus.post(&alice.origin, numbered(read(STUB), id)).unwrap();
        tokio::select! {
            () = bus.run_deadlines() => unreachable!(),
            message = alice.next() => assert_eq!(message.id.to_string(), id.to_string()),
        }
    }
    let outcome = tokio::select! {
        () = bus.run_deadlines() => unreachable!(),
        outcome = bus.request(&Origin::Host, read(STUB), None) => outcome,
    };
    assert_eq!(outcome.unwrap_err().code, 408);
}
