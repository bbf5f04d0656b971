use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use protostub_bus::{InboxLimits, Origin};
use protostub_types::{Message, MessageId};
use serde_json::json;

use crate::{Listener, STUB, address, bus, check_sum, config, hyperty, numbered, read, timed_bus, update};

#[tokio::test]
async fn request_gets_only_the_first_final_response() {
    let bus = bus();
    let (mut stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let answering = async {
        let request = stub.next().await;
        assert_eq!(request.from, address("hyperty://home.example/alice"));
        bus.post(&stub.origin, request.response(100, None)).unwrap();
        bus.post(&stub.origin, request.response(404, None)).unwrap();
        bus.post(&stub.origin, request.response(200, None)).unwrap();
    };
    let (response, ()) = tokio::join!(bus.request(&alice.origin, read("hyperty://sp1.example/bob"), None), answering);
    assert_eq!(response.unwrap().code(), Some(404), "a response is no error, even with an error code");
    let counts = bus.counts();
    assert_eq!((counts.accepted, counts.answered, counts.unawaited, counts.open), (1, 1, 1, 0));
    assert_eq!(alice.waits(), 0);
    check_sum(counts, 0);
}

#[tokio::test]
async fn posted_request_gets_responses_as_messages() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    // The request comes from an address of the stub's domain. Its numeric id returns as a text.
    let mut request = numbered(read("hyperty://home.example/alice"), 7);
    request.from = address("hyperty://sp1.example/bob");
    bus.post(&stub.origin, request).unwrap();
    let request = alice.next().await;
    bus.post(&alice.origin, request.response(180, None)).unwrap();
    let mut response = request.response(200, Some(json!(1)));
    response.id = MessageId::Text("7".into());
    bus.post(&alice.origin, response).unwrap();
    let provisional = stub.next().await;
    assert_eq!((provisional.code(), &provisional.to), (Some(180), &address("hyperty://sp1.example/bob")));
    assert_eq!(stub.next().await.code(), Some(200));
    assert_eq!(bus.counts().answered, 1);
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn stub_answers_only_requests_that_it_took() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let other = Origin::Stub(address("hyperty-runtime://sp2.example/protostub/1"));
    let answering = async {
        // The address has no listener of its own: only the stub of its domain may answer.
        let request = stub.next().await;
        let response = request.response(200, None);
        assert!(!bus.answers(&stub.origin, &request) && !bus.answers(&other, &response) && bus.answers(&stub.origin, &response));
        bus.post(&other, request.response(403, None)).unwrap();
        bus.post(&stub.origin, response).unwrap();
    };
    let bob = hyperty("bob");
    let (response, ()) = tokio::join!(bus.request(&bob, read("hyperty://sp1.example/bob"), None), answering);
    assert_eq!(response.unwrap().code(), Some(200));
    let answering = async {
        // The stub may not answer a request that another listener took.
        let request = alice.next().await;
        bus.post(&stub.origin, request.response(403, None)).unwrap();
        bus.post(&alice.origin, request.response(200, None)).unwrap();
    };
    let (response, ()) = tokio::join!(bus.request(&bob, read("hyperty://home.example/alice"), None), answering);
    assert_eq!(response.unwrap().code(), Some(200));
    assert_eq!((bus.counts().answered, bus.counts().unawaited), (2, 2));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn responses_match_on_requester_responder_and_id() {
    let bus = bus();
    let (mut alice, bob) = (Listener::hyperty(&bus, "alice"), Listener::hyperty(&bus, "bob"));
    let mut carol = Listener::hyperty(&bus, "carol");
    bus.post(&bob.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();

    let mut request = numbered(read("hyperty://home.example/alice"), 1);
    request.from = address("hyperty://home.example/bob");
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    assert_eq!((bob.waits(), bus.counts().unawaited), (0, 1), "alice has not taken the request yet");

    let request = alice.next().await;
    let wrong = |change: fn(&mut Message)| {
        let mut response = request.response(200, None);
        change(&mut response);
        bus.post(&Origin::Host, response).unwrap();
    };
    wrong(|response| response.id = MessageId::Number(2));
    wrong(|response| response.id = MessageId::Text("01".into()));
    wrong(|response| response.from = address("hyperty://home.example/carol"));
    wrong(|response| response.to = address("hyperty://home.example/carol"));
    assert_eq!((bob.waits(), carol.waits(), bus.counts().unawaited, bus.counts().open), (0, 0, 5, 1));
    wrong(|_| {});
    assert_eq!((bob.waits(), bus.counts().open), (1, 0));
    // The id is free again for this requester, and for another requester at the same time.
    for requester in [&bob, &carol] {
        bus.post(&requester.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    }
    let error = bus.post(&carol.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap_err();
    assert_eq!(error.code, 409, "{error}");
    for _ in 0..2 {
        let request = alice.next().await;
        bus.post(&alice.origin, request.response(200, None)).unwrap();
    }
    assert_eq!((bob.waits(), carol.next().await.code()), (2, Some(200)));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn message_given_to_request_expects_a_response() {
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    let mut message = update("hyperty://home.example/alice");
    message.headers.push(("expects-response".to_owned(), "false".to_owned()));
    let answering = async {
        let request = alice.next().await;
        assert!(request.expects_response());
        bus.post(&alice.origin, request.response(200, None)).unwrap();
    };
    let bob = hyperty("bob");
    let (response, ()) = tokio::join!(bus.request(&bob, message, None), answering);
    assert_eq!(response.unwrap().code(), Some(200));
    let error = bus.request(&hyperty("bob"), read("hyperty://home.example/alice").response(200, None), None).await.unwrap_err();
    assert_eq!(error.code, 400);
}

#[tokio::test]
async fn batch_is_bounded_and_keeps_the_order() {
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    for id in 1..=10 {
        bus.post(&Origin::Host, numbered(update("hyperty://home.example/alice"), id)).unwrap();
    }
    let size = numbered(update("hyperty://home.example/alice"), 1).size() + 200;
    let mut take = async |max_messages, max_bytes| {
        let mut batch = Vec::new();
        future::poll_fn(|cx| alice.inbox.poll_batch(cx, max_messages, max_bytes, &mut batch)).await;
        batch.into_iter().map(|message| message.into_message().id).collect::<Vec<_>>()
    };
    let ids = |ids: &[u64]| ids.iter().map(|&id| MessageId::Number(id)).collect::<Vec<_>>();
    assert_eq!(take(3, usize::MAX).await, ids(&[1, 2, 3]));
    assert_eq!(take(0, 0).await, ids(&[4]), "a batch has at least one message");
    assert_eq!(take(100, size).await, ids(&[5]));
    assert_eq!(take(100, usize::MAX).await, ids(&[6, 7, 8, 9, 10]));
    assert_eq!(bus.counts().delivered, 10);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert_eq!(alice.inbox.poll_batch(&mut cx, 1, 1, &mut Vec::new()), Poll::Pending);
    alice.inbox.close(503, "over");
    assert_eq!(alice.inbox.poll_batch(&mut cx, 1, 1, &mut Vec::new()), Poll::Ready(()));
    assert_eq!(alice.inbox.recv().await, None);
}

#[tokio::test]
async fn pending_reader_is_woken_once_per_batch() {
    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let bus = bus();
    let mut alice = Listener::hyperty(&bus, "alice");
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    for round in 1..=3 {
        let mut batch = Vec::new();
        assert!(alice.inbox.poll_batch(&mut Context::from_waker(&waker), 100, usize::MAX, &mut batch).is_pending());
        for _ in 0..100 {
            bus.post(&Origin::Host, update("hyperty://home.example/alice")).unwrap();
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), round);
        assert!(alice.inbox.poll_batch(&mut Context::from_waker(&waker), 100, usize::MAX, &mut batch).is_ready());
        assert_eq!(batch.len(), 100);
    }
}

#[tokio::test]
async fn mailbox_waiting_leaves_the_first_message() {
    let bus = bus();
    let mut stub = Listener::stub(&bus);
    let mailbox = stub.inbox.mailbox();
    let waiting = tokio::spawn({
        let mailbox = mailbox.clone();
        async move { mailbox.waiting().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    bus.post(&Origin::Host, update(STUB)).unwrap();
    waiting.await.unwrap();
    mailbox.waiting().await;
    assert_eq!(mailbox.len(), 1);
    stub.next().await;
    assert!(mailbox.is_empty());
}

#[tokio::test]
async fn refusing_mailbox_still_accepts_responses() {
    let bus = bus();
    let (mut stub, mut alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let mailbox = stub.inbox.mailbox();
    bus.post(&alice.origin, update("hyperty://sp1.example/bob")).unwrap();
    bus.post(&stub.origin, numbered(read("hyperty://home.example/alice"), 1)).unwrap();
    mailbox.refuse(Some((503, "the stub was disconnected".to_owned())));
    let error = bus.post(&alice.origin, update("hyperty://sp1.example/bob")).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (503, "the stub was disconnected"));
    assert_eq!(bus.post(&alice.origin, read("hyperty://sp1.example/bob")).unwrap_err().code, 503);
    let request = alice.next().await;
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    mailbox.refuse(None);
    bus.post(&alice.origin, update("hyperty://sp1.example/carol")).unwrap();
    assert_eq!(stub.next().await.to, address("hyperty://sp1.example/bob"));
    assert_eq!(stub.next().await.code(), Some(200));
    assert_eq!(stub.next().await.to, address("hyperty://sp1.example/carol"));
    check_sum(bus.counts(), 0);
}

#[tokio::test(start_paused = true)]
async fn abandoned_request_leaves_the_inbox() {
    let bus = timed_bus(config());
    let (mut stub, alice) = (Listener::stub(&bus), Listener::hyperty(&bus, "alice"));
    let give_up =
        || tokio::time::timeout(Duration::from_secs(1), bus.request(&alice.origin, read("hyperty://sp1.example/bob"), None));
    assert!(give_up().await.is_err());
    assert_eq!((stub.waits(), bus.counts().abandoned, bus.counts().open), (0, 1, 0));
    let taking = async {
        let request = stub.next().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bus.post(&stub.origin, request.response(200, None)).unwrap();
    };
    let (gave_up, ()) = tokio::join!(give_up(), taking);
    assert!(gave_up.is_err());
    assert_eq!((bus.counts().abandoned, bus.counts().unawaited), (2, 1));
    check_sum(bus.counts(), 0);
}

#[tokio::test]
async fn request_works_without_tokio() {
    let bus = bus();
    let mut alice = Listener::hyperty_with(&bus, "alice", InboxLimits::default());
    let requester = std::thread::spawn({
        let bus = bus.clone();
        move || {
            struct Unpark(std::thread::Thread);
            impl std::task::Wake for Unpark {
                fn wake(self: std::sync::Arc<Self>) {
                    self.0.unpark();
                }
            }
            let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
            let mut request = Box::pin(bus.request(&Origin::Host, read("hyperty://home.example/alice"), None));
            loop {
                match request.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(response) => return response,
                    Poll::Pending => std::thread::park(),
                }
            }
        }
    });
    let request = alice.next().await;
    bus.post(&alice.origin, request.response(200, None)).unwrap();
    let response = tokio::task::spawn_blocking(|| requester.join()).await.unwrap().unwrap();
    assert_eq!(response.unwrap().code(), Some(200));
}
