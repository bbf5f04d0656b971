//! Tests of many subscribers, and of subscribers that do not read.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use protostub_bus::{Bus, Inbox, InboxLimits, Origin, Route};
use protostub_types::{Address, Message, MessageId};

use crate::{Listener, STUB, address, bus, check_sum, config, hyperty, numbered, timed_bus, update};

const MISSED: &str = "missed-copies";

fn topic() -> Address {
    address(&format!("{STUB}/status"))
}

/// Attaches this many listeners with one inbox.
fn attach(bus: &Bus, count: usize) -> (Vec<Address>, Inbox, Vec<Route>) {
    let inbox = bus.inbox(InboxLimits::new(100_000, 1 << 30));
    let addresses: Vec<_> = (0..count).map(|nth| address(&format!("hyperty://home.example/{nth}"))).collect();
    let routes = addresses.iter().map(|at| bus.attach(at, &inbox.mailbox()).unwrap()).collect();
    (addresses, inbox, routes)
}

/// The benchmark figure `subscribe_growth` has the exact bound. Copies of all subscribers for each
/// one would take 40 times as long here.
#[test]
fn subscriptions_among_many_take_no_longer() {
    let time = |count: usize| {
        let bus = bus();
        let (addresses, _inbox, _routes) = attach(&bus, count);
        let began = Instant::now();
        for subscriber in &addresses {
            assert!(bus.subscribe(&topic(), subscriber));
        }
        for subscriber in &addresses {
            bus.unsubscribe(&topic(), subscriber);
        }
        began.elapsed() / u32::try_from(count).unwrap()
    };
    let few = (0..5).map(|_| time(500)).max().unwrap();
    let many = time(20_000);
    assert!(many < few * 5, "{many:?} for one of 20 000 subscribers, {few:?} for one of 500");
}

#[tokio::test]
async fn publication_reaches_each_of_many_subscribers_once() {
    let bus = bus();
    let (addresses, mut inbox, _routes) = attach(&bus, 1000);
    addresses.iter().for_each(|subscriber| assert!(bus.subscribe(&topic(), subscriber)));
    for gone in addresses.iter().step_by(3) {
        bus.unsubscribe(&topic(), gone);
    }
    bus.post(&Origin::Host, update(topic().as_str())).unwrap();
    let mut copies = Vec::new();
    inbox.recv_many(&mut copies, 10_000).await;
    assert_eq!((copies.len(), bus.counts().copies), (666, 666));
    check_sum(bus.counts(), 0);
}

/// Other subscribers come and go during each publication.
#[test]
fn steady_subscribers_get_every_publication_once() {
    const STEADY: usize = 200;
    const PUBLICATIONS: usize = 50;
    let (bus, done) = (bus(), AtomicBool::new(false));
    let (addresses, inbox, _routes) = attach(&bus, 2 * STEADY);
    let _changing = bus.inbox(InboxLimits::default());
    let (steady, others) = addresses.split_at(STEADY);
    steady.iter().for_each(|subscriber| assert!(bus.subscribe(&topic(), subscriber)));
    let before = inbox.mailbox().len();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                others.iter().for_each(|subscriber| assert!(bus.subscribe(&topic(), subscriber)));
                others.iter().for_each(|subscriber| bus.unsubscribe(&topic(), subscriber));
            }
        });
        for _ in 0..PUBLICATIONS {
            bus.post(&Origin::Host, update(topic().as_str())).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let (copies, counts) = (inbox.mailbox().len() - before, bus.counts());
    assert!((PUBLICATIONS * STEADY..=PUBLICATIONS * 2 * STEADY).contains(&copies), "{copies} copies");
    assert_eq!((counts.published, counts.copies_dropped), (PUBLICATIONS as u64, 0));
    others.iter().for_each(|subscriber| bus.unsubscribe(&topic(), subscriber));
    bus.post(&Origin::Host, update(topic().as_str())).unwrap();
    assert_eq!(inbox.mailbox().len() - before, copies + STEADY);
}

#[tokio::test]
async fn subscriber_that_missed_copies_is_told() {
    let bus = bus();
    let mut alice = Listener::hyperty_with(&bus, "alice", InboxLimits::new(4, 100_000));
    assert!(bus.subscribe(&topic(), &address("hyperty://home.example/alice")));
    let publish = |id| {
        let mut message = numbered(update(topic().as_str()), id);
        // Only the host tells of missed copies.
        message.headers.push((MISSED.to_owned(), "99".to_owned()));
        bus.post(&Origin::Host, message).unwrap();
    };
    (1..=3).for_each(publish);
    assert_eq!(alice.inbox.missed_copies(), 0);
    (4..=7).for_each(publish);
    assert_eq!((alice.inbox.missed_copies(), bus.counts().copies_dropped), (4, 4));
    let taken = |message: Message| (message.id.clone(), message.header(MISSED).map(str::to_owned));
    // The newest copies are left.
    assert_eq!(taken(alice.next().await), (MessageId::Number(5), Some("4".to_owned())));
    assert_eq!(taken(alice.next().await), (MessageId::Number(6), None));
    publish(8);
    assert_eq!(taken(alice.next().await), (MessageId::Number(7), None));
    assert_eq!(taken(alice.next().await), (MessageId::Number(8), None));
    assert_eq!((alice.inbox.missed_copies(), bus.counts().copies), (4, 4));
    check_sum(bus.counts(), 0);
}

/// A header beyond the contract's limits would end a stub.
#[tokio::test]
async fn copy_with_full_headers_leaves_the_telling_to_the_next() {
    let bus = bus();
    let mut alice = Listener::hyperty_with(&bus, "alice", InboxLimits::new(1, 100_000));
    assert!(bus.subscribe(&topic(), &address("hyperty://home.example/alice")));
    let mut full = update(topic().as_str());
    full.headers = (0..32).map(|nth| (format!("x-{nth}"), String::new())).collect();
    bus.post(&Origin::Host, full.clone()).unwrap();
    bus.post(&Origin::Host, full).unwrap();
    let copy = alice.next().await;
    assert_eq!((copy.headers.len(), copy.header(MISSED)), (32, None));
    bus.post(&Origin::Host, update(topic().as_str())).unwrap();
    assert_eq!(alice.next().await.header(MISSED), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn copies_that_expire_count_as_missed() {
    let mut config = config();
    config.queue_timeout = Duration::from_secs(60);
    let bus = timed_bus(config);
    let mut alice = Listener::hyperty(&bus, "alice");
    assert!(bus.subscribe(&topic(), &address("hyperty://home.example/alice")));
    bus.post(&Origin::Host, update(topic().as_str())).unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!((alice.waits(), alice.inbox.missed_copies()), (0, 1));
    bus.post(&Origin::Host, update(topic().as_str())).unwrap();
    assert_eq!(alice.next().await.header(MISSED), Some("1"));
}

#[tokio::test]
async fn full_inbox_keeps_the_newest_state_of_each_thing() {
    let bus = bus();
    let mut alice = Listener::hyperty_with(&bus, "alice", InboxLimits::new(4, 100_000));
    let runtime = address("hyperty-runtime://home.example/runtime/status");
    let at_alice = address("hyperty://home.example/alice");
    assert!(bus.subscribe(&runtime, &at_alice) && bus.subscribe(&topic(), &at_alice));
    let publish = |about: &str, id| bus.publish(numbered(update(runtime.as_str()), id), about).unwrap();
    bus.post(&hyperty("bob"), numbered(update("hyperty://home.example/alice"), 1)).unwrap();
    publish("one", 2);
    publish("two", 3);
    // Another publisher's topic, with the same number.
    let mut other = numbered(update(topic().as_str()), 4);
    other.from = address(STUB);
    bus.post(&Origin::Host, other).unwrap();
    publish("one", 5);
    publish("one", 6);
    let mut late = numbered(update(runtime.as_str()), 7);
    late.from = address("hyperty-runtime://home.example/runtime");
    bus.publish_to(&at_alice, &runtime, late, "two");
    // No older one about it waits, so this one is missed.
    publish("three", 8);
    let mut ids = Vec::new();
    while alice.waits() > 0 {
        ids.push(alice.next().await.id);
    }
    assert_eq!(ids, [1, 4, 6, 7].map(MessageId::Number));
    assert_eq!((alice.inbox.missed_copies(), bus.counts().copies_dropped), (4, 4));
    check_sum(bus.counts(), 0);
}
