//! Messages that arrive faster than the stub takes them.

use std::time::Duration;

use protostub_sdk::{DisconnectReason, Error, Ignored, Message, MessageType, Result, Stub, testing::Host, time};
use serde_json::json;

/// Takes a message each second.
async fn slowly(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        stub.post(message.response(200, None))?;
        time::sleep(Duration::from_secs(1)).await;
    }
}

fn request(id: u64) -> Message {
    Message::new(MessageType::Read, "hyperty://sp1.example/bob").with_from("hyperty://home.example/alice").with_id(id)
}

#[test]
fn the_bus_is_paused_while_too_many_messages_wait() {
    let host = Host::new();
    host.start(slowly, json!({})).unwrap();
    host.connect();
    host.deliver_all((0..1000).map(request));
    assert!((800..1000).contains(&host.queued()), "{} are left at the host", host.queued());
    host.advance(Duration::from_secs(1000));
    let ids: Vec<_> = host.posted().into_iter().map(|response| response.id).collect();
    assert_eq!(ids, (0..1000).map(Into::into).collect::<Vec<_>>());
    assert_eq!(host.queued(), 0);
}

#[test]
fn the_bus_is_paused_while_too_many_bytes_wait() {
    let host = Host::new();
    host.start(slowly, json!({})).unwrap();
    host.connect();
    for id in 0..10 {
        host.deliver(request(id).with_body(json!("x".repeat(400 * 1024))));
    }
    assert!(host.queued() >= 5, "{} are left at the host", host.queued());
    host.advance(Duration::from_secs(10));
    assert_eq!(host.posted().len(), 10);
}

#[test]
fn late_request_is_answered_503() {
    let host = Host::new();
    host.start(slowly, json!({})).unwrap();
    host.connect();
    host.deliver_all((0..5).map(request));
    host.disconnect(DisconnectReason::Request);
    // The stub takes messages before the disconnect, but it is slow, and its grace time is short.
    host.advance(Duration::from_secs(10));
    let codes: Vec<_> = host.posted().iter().map(|response| response.code().unwrap()).collect();
    assert_eq!(codes, [200, 200, 200, 503, 503]);
    assert_eq!(host.statuses().last().unwrap(), "disconnected");
}

#[test]
fn forged_sender_is_refused() {
    async fn forge(stub: Stub, _: Ignored) -> Result<()> {
        let update = Message::new(MessageType::Update, "hyperty://home.example/alice");
        let forged =
            ["", "hyperty://sp1.example/bob", "hyperty-runtime://sp1.example/protostub/1/x", "hyperty://sp2.example/eve"]
                .map(|from| update.clone().with_from(from));
        let results = stub.post_all(forged);
        assert!(matches!(results[..], [Ok(()), Ok(()), Ok(()), Err(Error::Denied(_))]), "{results:?}");
        assert!(matches!(stub.post(Message::new(MessageType::Update, "")), Err(Error::Invalid(_))));
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(forge, json!({})).unwrap();
    host.connect();
    assert_eq!(host.statuses().last().unwrap(), "failed: done");
    assert_eq!(host.posted()[0].from, Host::STUB_URL);
}
