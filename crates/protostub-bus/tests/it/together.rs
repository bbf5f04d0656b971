//! Tests of posting and taking several messages at once: each has the same outcome as alone.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use protostub_bus::{InboxLimits, Mailbox, Origin, PostError, Poster, Unroutable};
use protostub_types::{Domain, Message, StubKey};

use crate::{Listener, address, bus, check_sum, hyperty, numbered, read, update};

#[tokio::test]
async fn post_all_returns_one_result_each_in_order() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let mut carol = Listener::hyperty(&bus, "carol");
    let topic = address("hyperty://sp1.example/news");
    assert!(bus.subscribe(&topic, &address("hyperty://home.example/carol")));
    let messages = [
        update("hyperty://sp1.example/bob"),
        update("hyperty://sp1.example/bob"),
        update("hyperty://sp1.example/bob"),
        update("hyperty://sp2.example/bob"),
        update("hyperty://sp1.example/bob"),
        read("hyperty://sp1.example/bob"),
        update(topic.as_str()),
        update("hyperty://sp1.example/eve"),
        update("hyperty://sp1.example/bob"),
    ];
    let posted = bus.post_all(&alice.origin, (1..).zip(messages).map(|(id, message)| numbered(message, id)));
    let codes: Vec<_> = posted.into_iter().map(|posted| posted.err().map(|error| error.code)).collect();
    assert_eq!(codes, [None, None, None, Some(404), None, None, None, None, None]);

    let mut taken = Vec::new();
    assert_eq!(stub.inbox.recv_many(&mut taken, 3).await, 3);
    assert_eq!(stub.inbox.recv_many(&mut taken, usize::MAX).await, 4);
    let ids: Vec<_> = taken.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(ids, ["1", "2", "3", "5", "6", "8", "9"]);
    assert!(taken.iter().all(|message| message.from == address("hyperty://home.example/alice")));
    assert_eq!(carol.next().await.to, topic);
    let request = taken.swap_remove(4);
    bus.post_all(&stub.origin, [request.response(200, None)]).remove(0).unwrap();
    assert_eq!(alice.next().await.code(), Some(200));
    assert_eq!((bus.counts().accepted, bus.counts().refused, bus.counts().delivered), (8, 1, 6));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn poster_refused_for_room_posts_again_later() {
    let bus = bus();
    let mut alice = Listener::hyperty_with(&bus, "alice", InboxLimits::new(4, 16 << 20));
    let to_alice = |id| numbered(update("hyperty://home.example/alice"), id);
    let poster = bus.poster(hyperty("bob"));
    let post = |id| poster.post(to_alice(id)).map_err(|error| error.code);
    assert_eq!([1, 2, 3, 4, 5].map(&post), [Ok(()), Ok(()), Ok(()), Err(429), Err(429)]);
    let mut taken = Vec::new();
    assert_eq!(alice.inbox.recv_many(&mut taken, 2).await, 2);
    assert_eq!([6, 7, 8].map(&post), [Ok(()), Ok(()), Err(429)]);
    assert_eq!(alice.inbox.recv_many(&mut taken, 9).await, 3);
    let ids: Vec<_> = taken.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(ids, ["1", "2", "3", "6", "7"]);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn poster_reaches_the_successor_of_an_ended_listener() {
    let bus = bus();
    let alice = Listener::hyperty(&bus, "alice");
    let poster = bus.poster(hyperty("bob"));
    let post = || poster.post(update("hyperty://home.example/alice")).map_err(|error| error.code);
    assert_eq!([post(), post(), post()], [Ok(()); 3]);
    drop(alice);
    let mut alice = Listener::hyperty(&bus, "alice");
    assert_eq!([post(), post()], [Ok(()); 2]);
    assert_eq!(alice.inbox.recv_many(&mut Vec::new(), 9).await, 2);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn new_listener_or_subscriber_gets_the_next_message() {
    let bus = bus();
    let (stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let dave = Listener::hyperty(&bus, "dave");
    let poster = bus.poster(hyperty("bob"));
    let post = |to: &str| poster.post(update(to)).unwrap();
    // The route leads to the stub until the address has a listener.
    let own = address("hyperty://sp1.example/carol");
    (0..4).for_each(|_| post(own.as_str()));
    let carol = bus.inbox(InboxLimits::default());
    let route = bus.attach(&own, &carol.mailbox()).unwrap();
    (0..4).for_each(|_| post(own.as_str()));
    drop(route);
    post(own.as_str());
    assert_eq!((stub.waits(), carol.mailbox().len()), (5, 4));
    // The listener gets every message; the subscriber gets copies while it is subscribed.
    let at = address("hyperty://home.example/alice");
    (0..4).for_each(|_| post(at.as_str()));
    assert!(bus.subscribe(&at, &address("hyperty://home.example/dave")));
    (0..4).for_each(|_| post(at.as_str()));
    bus.unsubscribe(&at, &address("hyperty://home.example/dave"));
    post(at.as_str());
    assert_eq!((alice.waits(), dave.waits()), (9, 4));
}

#[tokio::test]
async fn message_after_detached_route_gets_404() {
    let bus = bus();
    let inbox = bus.inbox(InboxLimits::default());
    let route = bus.attach_key(&StubKey::Domain(Domain::parse("sp9.example").unwrap()), &inbox.mailbox()).unwrap();
    let poster = bus.poster(hyperty("bob"));
    let post = || poster.post(update("hyperty://sp9.example/x")).map_err(|error| error.code);
    assert_eq!([post(), post(), post()], [Ok(()); 3]);
    drop(route);
    assert_eq!((post(), inbox.mailbox().len()), (Err(404), 3));
}

#[tokio::test]
async fn hook_is_asked_about_each_message() {
    struct Hook(Mailbox, AtomicUsize);
    impl Unroutable for Hook {
        fn unroutable(&self, _: &Origin, _: &StubKey, _: &Message) -> Result<Mailbox, PostError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(self.0.clone())
        }
    }
    let bus = bus();
    let inbox = bus.inbox(InboxLimits::default());
    let hook = Arc::new(Hook(inbox.mailbox(), AtomicUsize::new(0)));
    bus.set_unroutable(hook.clone());
    let poster = bus.poster(hyperty("bob"));
    (0..5).for_each(|_| poster.post(update("hyperty://sp9.example/x")).unwrap());
    assert_eq!((hook.1.load(Ordering::Relaxed), inbox.mailbox().len()), (5, 5));
}

#[tokio::test]
async fn poster_used_inside_its_own_post_does_not_wait() {
    struct Hook(Mailbox, OnceLock<Arc<Poster>>);
    impl Unroutable for Hook {
        fn unroutable(&self, _: &Origin, _: &StubKey, _: &Message) -> Result<Mailbox, PostError> {
            self.1.get().expect("the test set it").post(update("hyperty://home.example/alice"))?;
            Ok(self.0.clone())
        }
    }
    let bus = bus();
    let alice = Listener::hyperty(&bus, "alice");
    let inbox = bus.inbox(InboxLimits::default());
    let (hook, poster) = (Arc::new(Hook(inbox.mailbox(), OnceLock::new())), Arc::new(bus.poster(hyperty("bob"))));
    assert!(hook.1.set(Arc::clone(&poster)).is_ok());
    bus.set_unroutable(hook);
    (0..3).for_each(|_| poster.post(update("hyperty://sp9.example/x")).unwrap());
    assert_eq!((alice.waits(), inbox.mailbox().len()), (3, 3));
}

#[tokio::test]
async fn returned_message_among_others_is_refused() {
    let bus = bus();
    let stub = Listener::stub(&bus);
    let poster = bus.poster(hyperty("bob"));
    let to_alice = || update("hyperty://sp1.example/alice");
    let mut returned = to_alice();
    returned.via.push(address(crate::STUB));
    let posted = [to_alice(), to_alice(), to_alice(), returned, to_alice()].map(|message| poster.post(message));
    let codes = posted.map(|posted| posted.err().map(|error| error.code));
    assert_eq!(codes, [None, None, None, Some(508), None]);
    assert_eq!(stub.waits(), 4);
}

#[tokio::test]
async fn recv_many_on_zero_limit_or_sealed_inbox_returns() {
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    let mut taken = Vec::new();
    assert_eq!(alice.inbox.recv_many(&mut taken, 0).await, 0);
    assert!(bus.post_all(&Origin::Host, []).is_empty());
    bus.post(&Origin::Host, update("hyperty://home.example/alice")).unwrap();
    alice.inbox.mailbox().seal(503, "the inbox ends");
    assert_eq!(alice.inbox.recv_many(&mut taken, 9).await, 1);
    assert_eq!(alice.inbox.recv_many(&mut taken, 9).await, 0);
    assert_eq!(taken.len(), 1);
}
