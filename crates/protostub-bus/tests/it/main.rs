//! Tests of the bus through its public API: receivers, outcomes, and matching counts.

mod caution;
mod deadlines;
mod delivery;
mod limits;
mod outcomes;
mod policy;
mod routing;
mod shares;
mod stress;
mod subscriptions;
mod together;

use std::time::Duration;

use protostub_bus::{Bus, BusConfig, BusCounts, Clock, Inbox, InboxLimits, Origin, Route};
use protostub_types::{Address, Domain, Message, MessageId, StubKey};
use tokio::time::timeout;

const STUB: &str = "hyperty-runtime://sp1.example/protostub/1";

fn config() -> BusConfig {
    let mut config = BusConfig::new(Domain::parse("home.example").unwrap(), address("hyperty-runtime://home.example/runtime"));
    // The tests pause tokio's clock.
    config.clock = Clock::new(|| tokio::time::Instant::now().into_std());
    config
}

fn bus() -> Bus {
    Bus::new(config())
}

/// A bus whose deadlines run on the current runtime.
fn timed_bus(config: BusConfig) -> Bus {
    let bus = Bus::new(config);
    let deadlines = bus.clone();
    tokio::spawn(async move { deadlines.run_deadlines().await });
    bus
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn hyperty(name: &str) -> Origin {
    Origin::Hyperty(address(&format!("hyperty://home.example/{name}")))
}

fn stub() -> Origin {
    Origin::Stub(address(STUB))
}

/// A listener with an address of its own.
struct Listener {
    origin: Origin,
    inbox: Inbox,
    _routes: Vec<Route>,
}

impl Listener {
    fn hyperty(bus: &Bus, name: &str) -> Self {
        Self::hyperty_with(bus, name, InboxLimits::default())
    }

    fn hyperty_with(bus: &Bus, name: &str, limits: InboxLimits) -> Self {
        let inbox = bus.inbox(limits);
        let origin = hyperty(name);
        let Origin::Hyperty(at) = &origin else { unreachable!() };
        let route = bus.attach(at, &inbox.mailbox()).unwrap();
        Self { inbox, _routes: vec![route], origin }
    }

    /// The stub of sp1.example.
    fn stub(bus: &Bus) -> Self {
        Self::stub_with(bus, InboxLimits::default())
    }

    fn stub_with(bus: &Bus, limits: InboxLimits) -> Self {
        let inbox = bus.inbox(limits);
        let mailbox = inbox.mailbox();
        mailbox.set_owner(&address(STUB));
        let key = StubKey::Domain(Domain::parse("sp1.example").unwrap());
        let routes = vec![bus.attach(&address(STUB), &mailbox).unwrap(), bus.attach_key(&key, &mailbox).unwrap()];
        Self { origin: stub(), inbox, _routes: routes }
    }

    async fn next(&mut self) -> Message {
        timeout(Duration::from_secs(3600), self.inbox.recv()).await.expect("a message should come").expect("the inbox is open")
    }

    fn waits(&self) -> usize {
        self.inbox.mailbox().len()
    }
}

fn numbered(mut message: Message, id: u64) -> Message {
    message.id = MessageId::Number(id);
    message
}

fn read(to: &str) -> Message {
    Message::read(address(to))
}

fn update(to: &str) -> Message {
    Message::update(address(to))
}

/// Checks that `accepted` is the sum of the outcomes and of the messages without one so far.
fn check_sum(counts: BusCounts, queued: u64) {
    let outcomes = counts.delivered + counts.published + counts.answered + counts.failed + counts.abandoned;
    assert_eq!(counts.accepted, outcomes + counts.open + queued, "{counts:?}");
}
