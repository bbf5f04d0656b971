//! A stub with one function for its whole life: `export!(main: main)`.

use protostub_sdk::{
    Credential, CredentialKind, DisconnectReason, Error, Event, Ignored, Message, MessageType, Result, Status, Stub, identity,
    log, session, testing::Host,
};
use serde_json::json;

async fn main_function(stub: Stub, _: Ignored) -> Result<()> {
    loop {
        match stub.next_event().await {
            Event::Connect(_) => stub.publish(Status::Live, None)?,
            Event::Disconnect(_) => stub.publish(Status::Disconnected, None)?,
            Event::Message(message) if message.kind == MessageType::Execute => {
                return Err(Error::other("told to"));
            }
            Event::Message(message) => stub.post(message.response(200, message.body.clone()))?,
        }
    }
}

fn message(kind: MessageType) -> Message {
    Message::new(kind, Host::STUB_URL).with_from("hyperty://home.example/alice").with_id("a").with_body(json!({ "b": 1 }))
}

#[test]
fn main_function_gets_all_events_in_order() {
    let host = Host::new();
    host.start_main(main_function, json!({})).unwrap();
    host.connect();
    host.deliver_all([message(MessageType::Read), message(MessageType::Create)]);
    host.disconnect(DisconnectReason::Request);
    assert_eq!(host.statuses(), ["created", "live", "disconnected"]);
    let posted = host.posted();
    assert_eq!(posted.len(), 2);
    assert_eq!(posted[0].parse::<serde_json::Value>().unwrap(), json!({ "code": 200, "value": { "b": 1 } }));
}

#[test]
fn main_function_error_ends_the_stub() {
    let host = Host::new();
    host.start_main(main_function, json!({})).unwrap();
    host.connect();
    host.deliver(message(MessageType::Execute));
    assert_eq!(host.statuses(), ["created", "live", "failed: told to"]);
}

#[test]
fn stub_when_asked_knows_its_domain_and_runtime() {
    async fn introduce(stub: Stub, _: Ignored) -> Result<()> {
        log::info!("{} in {}", stub.domain(), stub.runtime_url());
        Ok(())
    }
    let check = |configuration, expected: &str| {
        let host = Host::new();
        host.start_main(introduce, configuration).unwrap();
        host.connect();
        assert_eq!(host.log()[0], expected);
    };
    check(json!({}), "INFO sp1.example in hyperty-runtime://home.example/runtime");
    check(json!({ "runtimeURL": "runtime://b.example/2", "url": 7 }), "INFO sp1.example in runtime://b.example/2");
}

#[test]
fn own_requests_get_their_responses() {
    async fn ask(stub: Stub, _: Ignored) -> Result<()> {
        stub.publish(Status::Live, None)?;
        let ping = Message::new(MessageType::from("ping"), "hyperty://home.example/alice");
        let (first, second) = protostub_sdk::join!(stub.request(ping.clone()), stub.request(ping));
        log::info!("{:?} {:?}", first?.code(), second?.code());
        Ok(())
    }
    let host = Host::new();
    host.start_main(ask, json!({})).unwrap();
    host.connect();
    let requests = host.posted();
    assert!(requests.iter().all(|request| request.from == Host::STUB_URL && request.expects_response()));
    assert_ne!(requests[0].id, requests[1].id);
    host.deliver(requests[1].response(100, None));
    host.deliver_all([requests[1].error_response(404, "no"), requests[0].response(200, None)]);
    assert_eq!(host.log()[0], "INFO Some(200) Some(404)");
}

#[test]
fn session_outlives_its_instance() {
    async fn count(_: Stub, _: Ignored) -> Result<()> {
        let starts: u32 = session::load_json().unwrap_or(0);
        session::save_json(&(starts + 1))?;
        assert!(matches!(session::save(&[0; 64 * 1024 + 1]), Err(Error::Limit(_))));
        Ok(())
    }
    let host = Host::new();
    for expected in [b"1", b"2"] {
        host.start_main(count, json!({})).unwrap();
        host.connect();
        assert_eq!(host.session().as_deref(), Some(expected.as_slice()));
    }
    host.set_session(Some(b"no JSON".to_vec()));
    host.start_main(count, json!({})).unwrap();
    host.connect();
    assert_eq!(host.session().as_deref(), Some(b"1".as_slice()));
}

#[test]
fn credential_request_is_granted_or_denied() {
    async fn ask(stub: Stub, _: Ignored) -> Result<()> {
        while let Event::Connect(_) = stub.next_event().await {
            match identity::request(Some("chat")).await {
                Ok(credential) => log::info!("{:?} {}", credential, credential.value),
                Err(error) => log::info!("{error}"),
            }
        }
        // Sends 9 requests, more than 8 at a time, and abandons them: the SDK takes each answer.
        for _ in 0..9 {
            let forgotten = protostub_sdk::time::timeout(std::time::Duration::from_secs(1), identity::request(None)).await;
            assert!(matches!(forgotten, Err(Error::Timeout)), "{forgotten:?}");
        }
        log::info!("done");
        Ok(())
    }
    let host = Host::new();
    host.start_main(ask, json!({})).unwrap();
    let credential = Credential { kind: CredentialKind::Bearer, value: "secret".into(), expires: None };
    host.connect();
    let request = host.identity_request();
    assert_eq!(request.scope(), Some("chat"));
    request.grant(credential.clone());
    host.connect();
    host.identity_request().deny("no user is logged in");
    assert_eq!(host.log(), ["INFO Credential { kind: Bearer, expires: None, .. } secret", "INFO denied: no user is logged in"]);
    host.disconnect(DisconnectReason::Request);
    for _ in 0..9 {
        host.advance(std::time::Duration::from_secs(1));
        host.identity_request().grant(credential.clone());
    }
    assert_eq!(host.log()[0], "INFO done");
}
