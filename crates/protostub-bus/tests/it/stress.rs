use std::{
    collections::HashMap,
    future,
    sync::{Arc, Mutex},
    time::Duration,
};

use protostub_bus::{Bus, Envelope, Inbox, InboxLimits, Mailbox, Origin};
use protostub_types::{Domain, MessageId, MessageType, StubKey};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{Listener, STUB, address, check_sum, config, hyperty, numbered, read, stub, timed_bus, update};

const SENDERS: u64 = 4;
const ROUNDS: u64 = 4_000;
const POSTED_TO: &str = "hyperty://sp1.example/x";
const AWAITED_FROM: &str = "hyperty://sp1.example/y";

/// Name of a message: its sender and its number.
type Name = (String, String);

/// Observations of the participants.
#[derive(Default)]
struct Seen {
    /// Outcomes of every message that `post` accepted.
    posted: Mutex<HashMap<Name, Vec<&'static str>>>,
    /// Number of calls of `post` that were refused.
    refused: Mutex<u64>,
    /// Results of `request`, with their numbers.
    awaited: Mutex<HashMap<&'static str, u64>>,
}

impl Seen {
    fn outcome(&self, name: Name, outcome: &'static str) {
        self.posted.lock().unwrap().entry(name).or_default().push(outcome);
    }

    fn awaited(&self, outcome: &'static str) {
        *self.awaited.lock().unwrap().entry(outcome).or_default() += 1;
    }
}

/// Checks the counts under load. Senders post and request in every way. A receiver takes batches,
/// answers some requests, some twice, and leaves some to time out. It crashes, closes, ends and
/// restarts. The deadlines run. In the end every accepted message has exactly one outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_accepted_message_has_one_outcome() {
    let mut config = config();
    config.request_timeout = Duration::from_millis(30);
    config.queue_timeout = Duration::from_millis(50);
    config.max_open_requests = 300;
    let bus = timed_bus(config);
    let seen = Arc::new(Seen::default());
    let (done, is_done) = watch::channel(false);
    let receiver = tokio::spawn(receive(bus.clone(), Arc::clone(&seen), is_done));
    let mut senders = JoinSet::new();
    for number in 0..SENDERS {
        senders.spawn(send(bus.clone(), Arc::clone(&seen), number));
    }
    let mut inboxes = senders.join_all().await;
    done.send(true).unwrap();
    receiver.await.unwrap();

    // The receiver has ended, so messages without an outcome are being answered.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut complete = false;
    while !complete {
        complete = seen.posted.lock().unwrap().values().all(|outcomes| outcomes.len() > 1) || Instant::now() > deadline;
        // Collects once more after completion: no further response may exist.
        collect(&mut inboxes, &seen).await;
    }
    let counts = bus.counts();
    check_sum(counts, 0);
    assert_eq!(counts.open, 0);
    assert_eq!(counts.accepted + counts.refused, SENDERS * ROUNDS, "{counts:?}");

    let posted = seen.posted.lock().unwrap();
    let mut totals = HashMap::<_, u64>::new();
    for (name, outcomes) in posted.iter() {
        assert_eq!(outcomes.len(), 2, "{name:?} must be accepted and have one outcome, in any order: {outcomes:?}");
        assert!(outcomes.contains(&"accepted"), "{name:?} was refused and still has an outcome: {outcomes:?}");
        for outcome in outcomes {
            *totals.entry(*outcome).or_default() += 1;
        }
    }
    let awaited = seen.awaited.lock().unwrap();
    let of = |what: &str| totals.get(what).copied().unwrap_or_default();
    let of_awaited = |what: &str| awaited.get(what).copied().unwrap_or_default();
    // The result of `request` does not tell a refusal from a failure; the remaining counts do.
    let awaited_accepted = counts.accepted - of("accepted");
    assert_eq!(awaited_accepted + counts.refused - *seen.refused.lock().unwrap(), awaited.values().sum::<u64>());
    assert_eq!(counts.delivered, of("delivered"), "{counts:?} {totals:?}");
    // An abandoned request may have been answered at the same moment.
    let answered = of("answered") + of_awaited("answered");
    assert!((answered..=answered + of_awaited("given up")).contains(&counts.answered), "{counts:?} {totals:?} {awaited:?}");
    assert!(counts.failed >= of("failed"), "{counts:?} {totals:?}");
    assert!(
        counts.abandoned <= of_awaited("given up") && counts.undeliverable <= of_awaited("given up"),
        "{counts:?} {awaited:?}"
    );
    for (what, count) in [
        ("delivered", of("delivered")),
        ("answered", of("answered")),
        ("failed", of("failed")),
        ("answered while waited for", of_awaited("answered")),
        ("failed while waited for", of_awaited("failed")),
        ("given up", counts.abandoned),
        ("refused", counts.refused),
        ("late", counts.unawaited),
    ] {
        assert!(count > 0, "no message was {what}: {counts:?} {totals:?} {awaited:?}");
    }
}

/// A request during the shutdown is refused or gets its outcome, and no request stays open.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_requests_end_at_shutdown() {
    for _ in 0..50 {
        let bus = Bus::new(config());
        let mut alice = Listener::hyperty(&bus, "alice");
        let mut askers = JoinSet::new();
        for number in 0..SENDERS {
            let bus = bus.clone();
            askers.spawn(async move {
                let origin = hyperty(&format!("sender{number}"));
                loop {
                    match bus.request(&origin, read("hyperty://home.example/alice"), None).await {
                        Ok(_) => {}
                        Err(error) => break error.code,
                    }
                }
            });
        }
        for _ in 0..20 {
            let request = alice.next().await;
            bus.post(&alice.origin, request.response(200, None)).unwrap();
        }
        bus.shut_down("the bus shuts down");
        // No deadlines run here, so an open request would stay open.
        let codes = timeout(Duration::from_secs(20), askers.join_all()).await.unwrap();
        assert_eq!(codes, vec![503; SENDERS as usize]);
        assert_eq!((bus.counts().open, alice.waits()), (0, 0));
        check_sum(bus.counts(), 0);
    }
}

/// Posts, and returns the inbox where responses may still arrive.
async fn send(bus: Bus, seen: Arc<Seen>, number: u64) -> (Inbox, protostub_bus::Route) {
    let own = address(&format!("hyperty://home.example/sender{number}"));
    let origin = Origin::Hyperty(own.clone());
    let inbox = bus.inbox(InboxLimits::new(100_000, 1 << 30));
    let route = bus.attach(&own, &inbox.mailbox()).unwrap();
    let mut waiting = JoinSet::new();
    for id in 1..=ROUNDS {
        let message = match id % 4 {
            0 | 1 => numbered(update(POSTED_TO), id),
            2 => numbered(read(POSTED_TO), id),
            _ => {
                let (bus, seen, origin) = (bus.clone(), Arc::clone(&seen), origin.clone());
                waiting.spawn(async move {
                    let request = bus.request(&origin, numbered(read(AWAITED_FROM), id), None);
                    let patience = Duration::from_millis(if id % 8 == 7 { id % 20 } else { 10_000 });
                    seen.awaited(match timeout(patience, request).await {
                        Ok(Ok(_)) => "answered",
                        Ok(Err(_)) => "failed",
                        Err(_) => "given up",
                    });
                });
                continue;
            }
        };
        match bus.post(&origin, message) {
            Ok(()) => seen.outcome((own.to_string(), id.to_string()), "accepted"),
            Err(_) => *seen.refused.lock().unwrap() += 1,
        }
        if id % 8 == 0 {
            tokio::task::yield_now().await;
        }
    }
    waiting.join_all().await;
    (inbox, route)
}

/// Collects the responses that wait or arrive within a millisecond.
async fn collect(inboxes: &mut [(Inbox, protostub_bus::Route)], seen: &Seen) {
    for (inbox, _) in inboxes {
        loop {
            let patience = if inbox.mailbox().is_empty() { Duration::from_millis(1) } else { Duration::from_secs(10) };
            let Ok(message) = timeout(patience, inbox.recv()).await else { break };
            let message = message.unwrap();
            assert_eq!(message.kind, MessageType::Response);
            let outcome = if message.code() == Some(200) { "answered" } else { "failed" };
            seen.outcome((message.to.to_string(), message.id.to_string()), outcome);
        }
    }
}

/// The stub of sp1.example, which crashes, closes and restarts.
async fn receive(bus: Bus, seen: Arc<Seen>, mut is_done: watch::Receiver<bool>) {
    let key = StubKey::Domain(Domain::parse("sp1.example").unwrap());
    let mut turn = 0_u64;
    while !*is_done.borrow() {
        let mut inbox = bus.inbox(InboxLimits::new(200, 1 << 20));
        let mailbox = inbox.mailbox();
        mailbox.set_owner(&address(STUB));
        let route = bus.attach_key(&key, &mailbox).unwrap();
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until && !*is_done.borrow() {
            turn += 1;
            let mut batch = Vec::new();
            let taken = future::poll_fn(|cx| inbox.poll_batch(cx, 16, 1 << 20, &mut batch));
            tokio::select! {
                taken = timeout(Duration::from_millis(5), taken) => if taken.is_err() { continue },
                _ = is_done.changed() => continue,
            }
            handle(&bus, &seen, &mailbox, batch, turn).await;
        }
        match turn % 3 {
            0 => drop(inbox),
            1 => inbox.close(502, "the stub crashed"),
            _ => {
                // The stub is detached first. Messages that were posted meanwhile are still in the
                // inbox.
                drop(route);
                inbox.close(503, "the stub was undeployed");
            }
        }
        bus.fail_taken(&mailbox, 502, "the stub has ended");
    }
}

async fn handle(bus: &Bus, seen: &Seen, mailbox: &Mailbox, batch: impl IntoIterator<Item = Envelope>, turn: u64) {
    if turn.is_multiple_of(7) {
        // Sleeps for longer than the requests' timeout.
        tokio::time::sleep(Duration::from_millis(35)).await;
    }
    if turn.is_multiple_of(11) {
        bus.fail_taken(mailbox, 502, "the stub crashed");
        for message in batch {
            bus.fail(&message, 502, "the stub crashed");
        }
        return;
    }
    for message in batch {
        let MessageId::Number(id) = message.id else { unreachable!() };
        match message.kind {
            MessageType::Update => seen.outcome((message.from.to_string(), id.to_string()), "delivered"),
            _ if id % 5 == 0 => {}
            _ => {
                for _ in 0..1 + id % 2 {
                    bus.post(&stub(), message.response(200, None)).unwrap();
                }
            }
        }
    }
}
