//! Tests of the operator's rules: the bus asks before every hop and reports refusals.

use std::sync::{Arc, Mutex};

use protostub_bus::{Bus, Decision, Hop, Origin, Policy, PostError, Receiver, Unroutable};
use protostub_types::{Domain, Message, MessageId, MessageType, StubKey};

use crate::{Listener, STUB, address, bus, check_sum, hyperty, numbered, read, update};

/// Refuses the hops that a test names, and records every question.
struct Rules<F> {
    refuses: F,
    asked: Arc<Mutex<Vec<(Origin, MessageType, Receiver)>>>,
}

impl<F: Fn(&Hop<'_>) -> bool + Send + Sync> Policy for Rules<F> {
    fn decide(&self, hop: &Hop<'_>) -> Decision {
        self.asked.lock().unwrap().push((hop.origin.clone(), hop.message.kind.clone(), hop.receiver.clone()));
        if (self.refuses)(hop) { Decision::Refuse("these two do not talk".to_owned()) } else { Decision::Permit }
    }
}

type Asked = Arc<Mutex<Vec<(Origin, MessageType, Receiver)>>>;

fn put_in_force(bus: &Bus, refuses: impl Fn(&Hop<'_>) -> bool + Send + Sync + 'static) -> Asked {
    let asked = Asked::default();
    bus.set_policy(Some(Arc::new(Rules { refuses, asked: Arc::clone(&asked) })));
    asked
}

fn refused(posted: Result<(), PostError>) {
    let error = posted.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (403, "these two do not talk"));
}

#[tokio::test]
async fn policy_is_asked_about_every_hop() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let asked = put_in_force(&bus, |_| false);
    let (topic, at_alice) = (address("hyperty://home.example/alice/news"), address("hyperty://home.example/alice"));
    bus.subscribe(&topic, &at_alice);
    bus.subscribe(&topic, &address(STUB));

    bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), 1)).unwrap();
    let request = stub.next().await;
    bus.post(&stub.origin, request.response(200, None)).unwrap();
    alice.next().await;
    bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    let request = alice.next().await;
    assert_eq!(request.via, [address(STUB)]);
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    bus.post(&Origin::Host, update("hyperty://home.example/alice")).unwrap();
    bus.post(&alice.origin, update(topic.as_str())).unwrap();
    bus.publish_to(&at_alice, &topic, update("hyperty://home.example/x"), "");
    bus.post(&alice.origin, update("hyperty://sp2.example/bob")).unwrap_err();
    bus.post(&alice.origin, update("mn:/session")).unwrap_err();

    use MessageType::{Read, Response, Update};
    let (at_stub, sp2) = (|| Receiver::Stub(address(STUB)), Receiver::Domain(Domain::parse("sp2.example").unwrap()));
    let (alice, stub, host) = (|| alice.origin.clone(), || stub.origin.clone(), || Origin::Host);
    let expected = [
        (alice(), Read, at_stub()),
        (stub(), Response, Receiver::Listener),
        (stub(), Read, Receiver::Listener),
        (alice(), Response, at_stub()),
        (host(), Update, Receiver::Listener),
        (alice(), Update, Receiver::Nobody),
        (alice(), Update, Receiver::Subscriber(at_alice)),
        (alice(), Update, at_stub()),
        (host(), Update, Receiver::Subscriber(address("hyperty://home.example/alice"))),
        (alice(), Update, sp2),
        (alice(), Update, Receiver::Nobody),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
    assert_eq!(bus.counts().denied, 0);
}

#[tokio::test]
async fn refused_message_is_dropped_and_poster_gets_403() {
    let bus = bus();
    let (stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    put_in_force(&bus, |_| true);
    for message in
        [read("hyperty://sp1.example/bob"), update("hyperty://sp1.example/bob"), update("hyperty://home.example/alice/x")]
    {
        refused(bus.post(&alice.origin, message));
    }
    refused(bus.post(&stub.origin, read("hyperty://home.example/alice")));
    refused(bus.post(&Origin::Host, update(STUB)));
    refused(bus.publish(update("runtime://home.example/1/status"), ""));
    let error = bus.request(&alice.origin, read("hyperty://sp1.example/bob"), None).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (403, "these two do not talk"));
    assert_eq!((stub.waits(), alice.waits()), (0, 0));
    let counts = bus.counts();
    assert_eq!((counts.denied, counts.refused, counts.accepted), (7, 7, 0));
}

#[tokio::test]
async fn refused_response_fails_its_request() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    put_in_force(&bus, |hop| hop.message.kind == MessageType::Response);
    bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), 1)).unwrap();
    let answer = async {
        let posted = stub.next().await;
        // A refused provisional response leaves the request open.
        refused(bus.post(&stub.origin, posted.response(100, None)));
        assert_eq!(alice.waits(), 0);
        refused(bus.post(&stub.origin, posted.response(200, None)));
        let asked = stub.next().await;
        refused(bus.post(&stub.origin, asked.response(200, None)));
    };
    let (outcome, ()) = tokio::join!(bus.request(&Origin::Host, read("hyperty://sp1.example/bob"), None), answer);
    let error = outcome.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (403, "the response was refused: these two do not talk"));
    let response = alice.next().await;
    assert_eq!((response.code(), response.from.as_str()), (Some(403), "hyperty://sp1.example/bob"));
    // No requester waits any more, so the policy is not asked.
    bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1).response(200, None)).unwrap();
    let counts = bus.counts();
    assert_eq!((counts.failed, counts.answered, counts.denied, counts.unawaited), (2, 0, 3, 1));
    check_sum(counts, 0);
}

#[tokio::test]
async fn copy_refused_for_one_subscriber_reaches_the_others() {
    let bus = bus();
    let (mut alice, bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    let topic = address("hyperty://home.example/carol/news");
    for name in ["alice", "bob"] {
        assert!(bus.subscribe(&topic, &address(&format!("hyperty://home.example/{name}"))));
    }
    let at_bob = address("hyperty://home.example/bob");
    put_in_force(&bus, move |hop| hop.receiver == Receiver::Subscriber(at_bob.clone()));
    bus.post(&hyperty("carol"), update(topic.as_str())).unwrap();
    assert_eq!(alice.next().await.to, topic);
    let counts = bus.counts();
    assert_eq!((bob.waits(), counts.denied, counts.copies_dropped, counts.refused), (0, 1, 1, 0));
}

#[tokio::test]
async fn refused_message_deploys_no_stub() {
    struct Never;
    impl Unroutable for Never {
        fn unroutable(&self, _: &Origin, _: &StubKey, message: &Message) -> Result<protostub_bus::Mailbox, PostError> {
            Err(PostError::new(503, &message.to, "asked to deploy"))
        }
    }
    let bus = bus();
    bus.set_unroutable(Arc::new(Never));
    let home = |hop: &Hop<'_>| hop.domain_of(&hop.message.to) == Some(Domain::parse("home.example").unwrap());
    put_in_force(&bus, home);
    refused(bus.post(&hyperty("alice"), read("global://registry/")));
    assert_eq!(bus.post(&hyperty("alice"), read("domain://registry.sp1.example")).unwrap_err().code, 503);
}

#[tokio::test]
async fn replaced_policy_applies_to_later_messages() {
    let bus = bus();
    let mut bob = Listener::hyperty(&bus, "bob");
    let post = || bus.post(&hyperty("alice"), update("hyperty://home.example/bob"));
    post().unwrap();
    put_in_force(&bus, |_| true);
    refused(post());
    // The accepted message stays in the inbox.
    bob.next().await;
    put_in_force(&bus, |hop| hop.message.kind == MessageType::Read);
    post().unwrap();
    put_in_force(&bus, |_| true);
    refused(post());
    bus.set_policy(None);
    post().unwrap();
    assert_eq!((bob.waits(), bus.counts().denied), (2, 2));
}

#[tokio::test]
async fn poster_asks_the_policy_about_each_message() {
    let bus = bus();
    let (stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let to_bob = |id| numbered(update("hyperty://sp1.example/bob"), id);
    let poster = bus.poster(alice.origin.clone());
    for id in 1..=3 {
        poster.post(to_bob(id)).unwrap();
    }
    // The poster has the receiver of the next message in its cache.
    let asked = put_in_force(&bus, |hop| hop.message.id == MessageId::Number(5));
    poster.post(to_bob(4)).unwrap();
    refused(poster.post(to_bob(5)));
    poster.post(to_bob(6)).unwrap();
    assert_eq!(asked.lock().unwrap().len(), 3);
    assert_eq!((stub.waits(), bus.counts().denied), (5, 1));
    check_sum(bus.counts(), 5);
}
