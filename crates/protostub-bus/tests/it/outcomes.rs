use protostub_bus::Origin;

use crate::{Listener, STUB, address, bus, check_sum, hyperty, numbered, read, update};

#[tokio::test]
async fn closed_inbox_answers_waiting_messages() {
    let bus = bus();
    let (stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), 1)).unwrap();
    bus.post(&alice.origin, numbered(update("hyperty://sp1.example/bob"), 2)).unwrap();
    let mailbox = stub.inbox.mailbox();
    let close = async {
        stub.inbox.close(503, "the stub could not be deployed");
        stub.inbox.close(500, "a second close has no effect");
    };
    let (outcome, ()) = tokio::join!(bus.request(&alice.origin, read("hyperty://sp1.example/carol"), None), close);
    let error = outcome.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (503, "the stub could not be deployed"));
    for id in ["1", "2"] {
        let response = alice.next().await;
        assert_eq!((response.code(), response.id.to_string().as_str()), (Some(503), id));
        assert_eq!(response.from, address("hyperty://sp1.example/bob"));
    }
    let error = bus.post(&alice.origin, update(STUB)).unwrap_err();
    assert_eq!((error.code, error.reason.as_str(), mailbox.len()), (503, "the stub could not be deployed", 0));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn mailbox_without_open_work_is_quiet() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let (of_stub, of_alice) = (stub.inbox.mailbox(), alice.inbox.mailbox());
    let quiet = || (of_stub.is_quiet(), of_alice.is_quiet());
    assert_eq!(quiet(), (true, true));
    for (id, ends) in [(1, "answered"), (2, "failed"), (3, "crashed")] {
        bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), id)).unwrap();
        assert_eq!(quiet(), (false, false), "the stub has a message, and alice waits for the response");
        let request = stub.next().await;
        assert_eq!(quiet(), (false, false));
        match ends {
            "answered" => bus.post(&stub.origin, request.response(200, None)).unwrap(),
            "failed" => bus.fail(&request, 502, "cannot be handled"),
            _ => bus.fail_taken(&of_stub, 502, "the stub crashed"),
        }
        assert_eq!(quiet(), (true, false), "{ends}: the response waits");
        alice.next().await;
        assert_eq!(quiet(), (true, true), "{ends}");
    }
    bus.post(&alice.origin, update("hyperty://sp1.example/bob")).unwrap();
    assert_eq!(quiet(), (false, true));
    stub.next().await;
    assert_eq!(quiet(), (true, true));
}

#[tokio::test]
async fn dropped_inbox_is_closed() {
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    let inbox = bus.inbox(Default::default());
    let _route = bus.attach(&address("hyperty://home.example/bob"), &inbox.mailbox()).unwrap();
    bus.post(&alice.origin, numbered(read("hyperty://home.example/bob"), 1)).unwrap();
    drop(inbox);
    assert_eq!(alice.next().await.code(), Some(503));
    assert_eq!(bus.post(&alice.origin, update("hyperty://home.example/bob")).unwrap_err().code, 503);
}

#[tokio::test]
async fn sealed_inbox_returns_waiting_messages_then_ends() {
    let bus = bus();
    let (mut bob, mut alice) = (Listener::hyperty(&bus, "bob"), Listener::hyperty(&bus, "alice"));
    let to_bob = || update("hyperty://home.example/bob");
    bus.post(&alice.origin, numbered(to_bob(), 1)).unwrap();
    let mailbox = bob.inbox.mailbox();
    mailbox.seal(503, "the runtime is shutting down");
    let error = bus.post(&alice.origin, to_bob()).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (503, "the runtime is shutting down"));
    assert_eq!(bob.next().await.id.to_string(), "1");
    assert_eq!(bob.inbox.recv().await, None);
    // Sealing also ends a `recv` that waits already.
    let sealed = alice.inbox.mailbox();
    let (heard, ()) = tokio::join!(alice.inbox.recv(), async { sealed.seal(503, "the runtime is shutting down") });
    assert_eq!(heard, None);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn crash_fails_only_taken_messages() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let mailbox = stub.inbox.mailbox();
    let mut other = Listener::hyperty(&bus, "other");
    bus.post(&alice.origin, numbered(read("hyperty://home.example/other"), 1)).unwrap();
    other.next().await;
    for id in 2..=5 {
        bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), id)).unwrap();
    }
    bus.post(&alice.origin, numbered(update("hyperty://sp1.example/bob"), 6)).unwrap();
    let answered = stub.next().await;
    let mut taken = vec![stub.next().await, stub.next().await];
    bus.post(&stub.origin, answered.response(200, None)).unwrap();

    bus.fail_taken(&mailbox, 502, "the stub crashed");
    assert_eq!(stub.waits(), 2, "the waiting messages stay for the next instance");
    assert_eq!(alice.next().await.code(), Some(200));
    let mut failed = Vec::new();
    for _ in 0..2 {
        let response = alice.next().await;
        assert_eq!(response.code(), Some(502));
        failed.push(response.id.to_string());
    }
    failed.sort();
    assert_eq!(failed, ["3", "4"]);

    // The rest of the crashed batch: the requests in it that were taken have their outcome already.
    taken.push(stub.next().await);
    taken.push(stub.next().await);
    for message in &taken {
        bus.fail(message, 502, "the stub crashed");
    }
    for id in ["5", "6"] {
        let response = alice.next().await;
        assert_eq!((response.code(), response.id.to_string().as_str()), (Some(502), id));
    }
    assert_eq!(alice.waits(), 0);
    bus.post(&stub.origin, taken[0].response(200, None)).unwrap();
    let counts = bus.counts();
    assert_eq!((counts.failed, counts.delivered, counts.answered, counts.open, counts.unawaited), (4, 0, 1, 1, 1));
    check_sum(counts, 0);
}

#[tokio::test]
async fn crash_with_responses_and_copies_sends_no_errors() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let topic = address("hyperty://home.example/alice/room");
    assert!(bus.subscribe(&topic, &address(STUB)));
    bus.post(&alice.origin, update(topic.as_str())).unwrap();
    bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    let request = alice.next().await;
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    for message in [stub.next().await, stub.next().await] {
        bus.fail(&message, 502, "the stub crashed");
    }
    let counts = bus.counts();
    assert_eq!((alice.waits(), counts.failed, counts.copies, counts.copies_dropped), (0, 0, 0, 1));
    check_sum(counts, 0);
}

#[tokio::test]
async fn outcome_for_ended_requester_is_undeliverable() {
    let bus = bus();
    let (mut stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), 1)).unwrap();
    bus.post(&alice.origin, numbered(read("hyperty://sp1.example/bob"), 2)).unwrap();
    bus.post(&alice.origin, numbered(update("hyperty://sp1.example/bob"), 3)).unwrap();
    bus.post(&Origin::Host, numbered(read("hyperty://sp1.example/bob"), 4)).unwrap();
    let request = stub.next().await;
    drop(alice);
    bus.post(&stub.origin, request.response(200, None)).unwrap();
    stub.inbox.close(503, "over");
    let counts = bus.counts();
    assert_eq!((counts.answered, counts.failed, counts.undeliverable), (1, 3, 4));
    check_sum(counts, 0);
}

#[tokio::test]
async fn shutdown_ends_open_requests() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    bus.post(&alice.origin, numbered(read(STUB), 1)).unwrap();
    bus.post(&alice.origin, numbered(update(STUB), 2)).unwrap();
    stub.next().await;
    let shut_down = async {
        stub.next().await;
        stub.next().await;
        bus.shut_down("the runtime is shutting down");
    };
    let bob = hyperty("bob");
    let (outcome, ()) = tokio::join!(bus.request(&bob, read(STUB), None), shut_down);
    assert_eq!(outcome.unwrap_err().code, 503);
    assert_eq!(alice.next().await.code(), Some(503));
    let error = bus.post(&alice.origin, update(STUB)).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (503, "the runtime is shutting down"));
    assert_eq!(bus.counts().open, 0);
    check_sum(bus.counts(), 0);
}
