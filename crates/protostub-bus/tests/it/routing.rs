use std::sync::{Arc, Mutex};

use protostub_bus::{AttachError, Mailbox, Origin, PostError, Unroutable};
use protostub_types::{Domain, Message, MessageId, StubKey};

use crate::{Listener, STUB, address, bus, check_sum, hyperty, numbered, read, stub, update};

#[tokio::test]
async fn exact_listener_precedes_the_domain_route() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let inbox = bus.inbox(Default::default());
    let local = bus.attach(&address("hyperty://sp1.example/local"), &inbox.mailbox()).unwrap();

    bus.post(&Origin::Host, update("hyperty://sp1.example/remote")).unwrap();
    assert_eq!(stub.next().await.to, address("hyperty://sp1.example/remote"));
    bus.post(&alice.origin, update("hyperty://sp1.example/local")).unwrap();
    assert_eq!((stub.waits(), inbox.mailbox().len()), (0, 1));
    drop(local);
    bus.post(&alice.origin, update("hyperty://sp1.example/local")).unwrap();
    assert_eq!((stub.waits(), inbox.mailbox().len()), (1, 1), "after the detachment the domain's route gets it");
    for to in ["domain://registry.sp1.example", "hyperty://msg-node.sp1.example/sm", "runtime://sp1.example/1/2"] {
        bus.post(&Origin::Host, update(to)).unwrap();
    }
    assert_eq!(stub.waits(), 4);
    bus.post(&stub.origin, update("hyperty://home.example/alice")).unwrap();
    let message = alice.next().await;
    assert_eq!((message.from, message.via), (address(STUB), vec![address(STUB)]), "a stub's message has the stub in `via`");
}

#[test]
fn address_without_listener_gets_404() {
    let bus = bus();
    let check = |to: &str, expected: &str| {
        let error = bus.post(&hyperty("alice"), update(to)).unwrap_err();
        assert_eq!((error.code, error.to.as_str()), (404, to));
        assert!(error.reason.contains(expected), "{}", error.reason);
    };
    check("hyperty://sp2.example/bob", "no stub serves sp2.example");
    check("mn:/session", "no domain whose stub");
    check("hyperty-runtime://home.example/runtime/nothing", "the runtime has no listener");
    assert_eq!(bus.counts().refused, 3);
    check_sum(bus.counts(), 0);
}

#[test]
fn second_listener_or_route_is_rejected() {
    let bus = bus();
    let (one, other) = (bus.inbox(Default::default()), bus.inbox(Default::default()));
    let (at, key) = (address("hyperty://home.example/alice"), StubKey::Domain(Domain::parse("sp1.example").unwrap()));
    let routes = (bus.attach(&at, &one.mailbox()).unwrap(), bus.attach_key(&key, &one.mailbox()).unwrap());
    assert!(matches!(bus.attach(&at, &other.mailbox()), Err(AttachError::AddressTaken { address }) if address == at));
    assert!(matches!(bus.attach_key(&key, &other.mailbox()), Err(AttachError::KeyTaken { key: taken }) if taken == key));
    drop(routes);
    let again = (bus.attach(&at, &other.mailbox()).unwrap(), bus.attach_key(&key, &other.mailbox()).unwrap());
    bus.post(&Origin::Host, update("hyperty://home.example/alice")).unwrap();
    bus.post(&Origin::Host, update("hyperty://sp1.example/alice")).unwrap();
    assert_eq!((one.mailbox().len(), other.mailbox().len()), (0, 2));
    drop(again);
}

#[test]
fn message_through_a_stub_never_returns_to_it() {
    let bus = bus();
    let stub = Listener::stub(&bus);
    for message in [update("hyperty://sp1.example/bob"), numbered(read("hyperty://sp1.example/bob"), 1), update(STUB)] {
        let mut message = message;
        message.from = address("hyperty://sp1.example/alice");
        let error = bus.post(&stub.origin, message).unwrap_err();
        assert_eq!(error.code, 508, "{error}");
    }
    let mut relayed = update("hyperty://sp1.example/bob");
    relayed.via = vec![address(STUB), address("hyperty-runtime://sp2.example/protostub/2")];
    assert_eq!(bus.post(&Origin::Host, relayed).unwrap_err().code, 508);
    assert_eq!(stub.waits(), 0);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn post_fills_in_missing_from_and_id() {
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    let mut ids = Vec::new();
    for (origin, from) in
        [(Origin::Host, "hyperty-runtime://home.example/runtime"), (hyperty("bob"), "hyperty://home.example/bob"), (stub(), STUB)]
    {
        bus.post(&origin, update("hyperty://home.example/alice")).unwrap();
        let message = alice.next().await;
        assert_eq!(message.from.as_str(), from);
        ids.push(message.id);
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[2], MessageId::Number(0), "a stub numbers its messages itself");
}

/// Returns one mailbox for every key, and records every call.
struct Hook {
    mailbox: Result<Mailbox, PostError>,
    asked: Mutex<Vec<(Origin, String, String)>>,
}

impl Unroutable for Hook {
    fn unroutable(&self, origin: &Origin, key: &StubKey, message: &Message) -> Result<Mailbox, PostError> {
        self.asked.lock().unwrap().push((origin.clone(), key.to_string(), message.to.to_string()));
        self.mailbox.clone()
    }
}

#[tokio::test]
async fn unroutable_message_goes_to_the_hooks_mailbox() {
    let bus = bus();
    let mut inbox = bus.inbox(Default::default());
    let hook = Arc::new(Hook { mailbox: Ok(inbox.mailbox()), asked: Mutex::default() });
    bus.set_unroutable(hook.clone());
    bus.post(&hyperty("alice"), update("hyperty://sp9.example/bob")).unwrap();
    assert_eq!(inbox.recv().await.unwrap().to, address("hyperty://sp9.example/bob"));
    let stub = stub();
    let answering = async {
        let request = inbox.recv().await.unwrap();
        bus.post(&Origin::Host, request.response(200, None)).unwrap();
    };
    let (response, ()) = tokio::join!(bus.request(&stub, read("slack://user@slack.example"), None), answering);
    assert_eq!(response.unwrap().code(), Some(200));
    let asked = hook.asked.lock().unwrap().clone();
    assert_eq!(asked[0], (hyperty("alice"), "sp9.example".to_owned(), "hyperty://sp9.example/bob".to_owned()));
    assert_eq!(asked[1].0, stub);
    assert_eq!(asked[1].1, "slack.example (scheme slack)");
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn message_refused_by_the_hook_is_refused() {
    let bus = bus();
    let refusal = PostError::new(403, &address("hyperty://sp9.example/bob"), "not you");
    bus.set_unroutable(Arc::new(Hook { mailbox: Err(refusal.clone()), asked: Mutex::default() }));
    assert_eq!(bus.post(&Origin::Host, update("hyperty://sp9.example/bob")).unwrap_err(), refusal);
    assert_eq!(bus.post(&Origin::Host, read("hyperty://sp9.example/bob")).unwrap_err(), refusal);
    let error = bus.request(&Origin::Host, read("hyperty://sp9.example/bob"), None).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (403, "not you"));
    assert_eq!(bus.counts().refused, 3);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn subscribers_get_copies_of_publications() {
    let bus = bus();
    let topic = address(&format!("{STUB}/status"));
    let mut registry = bus.inbox(Default::default());
    let route = bus.attach(&topic, &registry.mailbox()).unwrap();
    let (mut alice, mut bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    assert!(bus.subscribe(&topic, &address("hyperty://home.example/alice")));
    assert!(bus.subscribe(&topic, &address("hyperty://home.example/alice")), "a second subscription has no effect");
    assert!(bus.subscribe(&topic, &address("hyperty://home.example/bob")));
    assert!(!bus.subscribe(&topic, &address("hyperty://home.example/nobody")), "the subscriber has no listener");

    let mut status = update(topic.as_str());
    status.from = address(STUB);
    bus.post(&Origin::Host, status).unwrap();
    for message in [registry.recv().await.unwrap(), alice.next().await, bob.next().await] {
        assert_eq!((message.to, message.from), (topic.clone(), address(STUB)));
    }
    assert_eq!((alice.waits(), bob.waits()), (0, 0));

    bus.post(&stub(), update(topic.as_str())).unwrap();
    assert_eq!(registry.recv().await.unwrap().via, [address(STUB)]);
    assert_eq!((alice.waits(), bob.waits()), (0, 0), "a stub cannot publish at a listener's address");

    bus.post(&hyperty("carol"), numbered(read(topic.as_str()), 1)).unwrap();
    assert_eq!((alice.waits(), registry.mailbox().len()), (0, 1), "a request goes to the listener only");

    bus.unsubscribe(&topic, &address("hyperty://home.example/alice"));
    drop(route);
    bus.post(&stub(), update(topic.as_str())).unwrap();
    assert_eq!((alice.waits(), bob.next().await.to), (0, topic.clone()), "subscribers alone are enough");
    drop(bob);
    bus.post(&stub(), update(topic.as_str())).unwrap();

    bus.publish_to(
        &address("hyperty://home.example/alice"),
        &topic,
        Message::update(address("hyperty://home.example/alice")),
        "",
    );
    assert_eq!(alice.next().await.to, topic);
    let counts = bus.counts();
    assert_eq!((counts.delivered, counts.published, counts.copies, counts.copies_dropped), (2, 2, 4, 0));
    check_sum(counts, 0);
}

#[tokio::test]
async fn host_publication_goes_to_subscribers_only() {
    let bus = bus();
    let topic = address("hyperty-runtime://home.example/runtime/status");
    let registry = bus.inbox(Default::default());
    let _route = bus.attach(&topic, &registry.mailbox()).unwrap();
    let mut alice = Listener::hyperty(&bus, "alice");
    bus.publish(update(topic.as_str()), "").unwrap();
    bus.subscribe(&topic, &address("hyperty://home.example/alice"));
    bus.publish(update(topic.as_str()), "").unwrap();
    assert_eq!(alice.next().await.to, topic);
    assert_eq!((alice.waits(), registry.mailbox().len()), (0, 0));
    bus.shut_down("the end");
    assert_eq!(bus.publish(update(topic.as_str()), "").unwrap_err().code, 503);
    let counts = bus.counts();
    assert_eq!((counts.delivered, counts.published, counts.copies, counts.refused), (0, 2, 1, 1));
    check_sum(counts, 0);
}

#[test]
fn subscription_ends_with_its_listener() {
    let bus = bus();
    let topic = address("hyperty-runtime://home.example/runtime/status");
    let publish = |expected: usize, alice: &Listener| {
        let mut message = update(topic.as_str());
        message.from = address("hyperty-runtime://home.example/runtime");
        bus.post(&Origin::Host, message).unwrap();
        assert_eq!(alice.waits(), expected);
    };
    let alice = Listener::hyperty(&bus, "alice");
    bus.subscribe(&topic, &address("hyperty://home.example/alice"));
    publish(1, &alice);
    drop(alice);
    let alice = Listener::hyperty(&bus, "alice");
    publish(0, &alice);
    assert_eq!(bus.counts().published, 2);
}

#[test]
fn publication_without_subscribers_deploys_no_stub() {
    let bus = bus();
    bus.post(&hyperty("chat"), update("hyperty://home.example/chat/room")).unwrap();
    let stub = Listener::stub(&bus);
    bus.post(&stub.origin, update(&format!("{STUB}/status"))).unwrap();
    assert_eq!((bus.counts().published, stub.waits()), (2, 0), "the message does not return by the stub's own route");
    let error = bus.post(&hyperty("chat"), update("hyperty://home.example/chatter")).unwrap_err();
    assert_eq!(error.code, 404);
    let error = bus.post(&hyperty("chat"), read("hyperty://home.example/chat/room")).unwrap_err();
    assert_eq!(error.code, 404, "a request is not a publication");
    check_sum(bus.counts(), 0);
}
