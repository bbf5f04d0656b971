use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use protostub_egress::{Grants, Protection};
use protostub_sandbox::{Credential, CredentialKind, Outcome};
use protostub_types::StubStatus;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Fixture, bearer, observed};

#[tokio::test]
async fn configuration_reaches_the_stub_unchanged() {
    let configuration = json!({ "runtimeURL": "hyperty-runtime://home.example/r", "url": "wss://sp1.example/ws", "nested": { "a": [1, 2.5, null] } });
    let actor = Fixture::new(configuration.clone()).live().await;
    assert_eq!(actor.told(json!({ "do": "configuration" })).await, configuration);
}

#[tokio::test]
async fn timers_run_out_once_and_in_order() {
    let (fixture, mut listener) = observed(json!({}));
    let actor = fixture.live().await;
    let timers = actor.told(json!([{ "do": "timer", "ms": 60 }, { "do": "timer", "ms": 20 }, { "do": "timer", "ms": 40 }])).await;
    assert_eq!(timers, json!([[1], [2], [3]]));
    actor.told(json!({ "do": "cancel-timer", "handle": 3 })).await;
    assert_eq!(listener.hears().await, json!({ "timer": 2 }));
    assert_eq!(listener.hears().await, json!({ "timer": 1 }));
    actor.told(json!([{ "do": "cancel-timer", "handle": 1 }, { "do": "cancel-timer", "handle": 999 }])).await;
    assert!(listener.is_quiet());
    assert_eq!(actor.told(json!({ "do": "timer", "ms": 60_000 })).await, json!([4]), "handles are not used again");
}

#[tokio::test]
async fn timers_are_bounded() {
    let actor = Fixture::new(json!({})).live().await;
    actor.told(json!({ "do": "timer", "ms": u64::MAX, "times": 256 })).await;
    let refused = actor.order(json!({ "do": "timer", "ms": 1 })).await.unwrap_err();
    assert_eq!(refused, "limit: 256 timers are running, which is the limit; cancel one first");
    actor.told(json!([{ "do": "cancel-timer", "handle": 7 }, { "do": "timer", "ms": 60_000 }])).await;
}

#[tokio::test]
async fn a_session_outlives_its_instance() {
    let fixture = Fixture::new(json!({}));
    let session = fixture.session.clone();
    let actor = fixture.live().await;
    assert_eq!(
        actor.told(json!([{ "do": "load" }, { "do": "save", "bytes": 65_536 }, { "do": "load" }])).await,
        json!([null, null, 65_536])
    );
    let refused = actor.order(json!({ "do": "save", "bytes": 65_537 })).await.unwrap_err();
    assert!(refused.starts_with("limit: a session of 65537 bytes"), "{refused}");
    actor.fatal(json!({ "do": "trap" })).await;
    actor.outcome().await;

    let mut fixture = Fixture::new(json!({}));
    fixture.session = session.clone();
    let actor = fixture.live().await;
    assert_eq!(
        actor.told(json!([{ "do": "load" }, { "do": "save", "bytes": 0 }, { "do": "load" }])).await,
        json!([65_536, null, null])
    );
    assert_eq!(session.load(), None);
}

#[tokio::test]
async fn credentials_are_of_the_stubs_own_domain() {
    let (fixture, mut listener) = observed(json!({}));
    let credentials = Arc::clone(&fixture.credentials);
    credentials.0.lock().unwrap().insert(String::new(), bearer("secret"));
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let other = Credential { kind: CredentialKind::Other("x".to_owned()), value: "y".to_owned(), expires: Some(expires) };
    credentials.0.lock().unwrap().insert("mail".to_owned(), other);
    let actor = fixture.live().await;

    let answer = async |listener: &mut crate::support::Listener, order: Value| {
        let handle = actor.told(order).await;
        assert_eq!(listener.hears().await, json!({ "ready": handle }));
        let taken = actor.order(json!({ "do": "take", "handle": handle })).await;
        assert_eq!(actor.order(json!({ "do": "take", "handle": handle })).await, Err("closed".to_owned()));
        taken
    };
    let taken = answer(&mut listener, json!({ "do": "ask" })).await;
    assert_eq!(taken, Ok(json!({ "kind": "bearer", "value": "secret@sp1.example", "expires": null })));
    let taken = answer(&mut listener, json!({ "do": "ask", "scope": "mail" })).await;
    assert_eq!(taken, Ok(json!({ "kind": "x", "value": "y@sp1.example", "expires": 4_000_000_000_u64 })));
    let taken = answer(&mut listener, json!({ "do": "ask", "scope": "none" })).await;
    assert_eq!(taken, Err("denied: the Identity Module has no credential for sp1.example".to_owned()));
    let taken = answer(&mut listener, json!({ "do": "ask", "scope": "broken" })).await;
    assert_eq!(taken, Err("denied: the identity provider is down".to_owned()));

    let handle = actor.told(json!({ "do": "ask", "scope": "never" })).await;
    assert_eq!(actor.order(json!({ "do": "take", "handle": handle })).await, Err("busy".to_owned()));
    for _ in 0..7 {
        actor.told(json!({ "do": "ask", "scope": "never" })).await;
    }
    let refused = actor.order(json!({ "do": "ask", "scope": "never" })).await.unwrap_err();
    assert!(refused.starts_with("limit: 8 requests are open"), "{refused}");
}

#[tokio::test]
async fn status_order_is_enforced() {
    let mut actor = Fixture::new(json!({})).live().await;
    actor.told(json!([{ "do": "publish", "status": "live" }, { "do": "publish", "status": "live" }])).await;
    assert_eq!(actor.statuses.borrow().len(), 3, "the same status again is nothing new");
    let refused = actor.order(json!({ "do": "publish", "status": "created" })).await.unwrap_err();
    assert_eq!(refused, "invalid: `created` cannot follow `live`");

    let long = "ä".repeat(1_000);
    actor
        .bus
        .post(
            &protostub_bus::Origin::Host,
            protostub_types::Message::update("hyperty://sp1.example/actor".parse().unwrap()).with_body(
                json!([{ "do": "publish", "status": "failed", "reason": long }, { "do": "publish", "status": "live" }]),
            ),
        )
        .unwrap();
    assert_eq!(actor.status(StubStatus::Failed).await.unwrap(), "ä".repeat(510) + "…");
    assert!(!actor.handle.is_ended());
}

#[tokio::test]
async fn stub_has_no_environment_files_or_sockets() {
    let actor = Fixture::new(json!({})).live().await;
    let surroundings = actor.told(json!({ "do": "surroundings" })).await;
    let expected = json!({
        "environment": 0, "arguments": 0, "files": false, "tcp": false, "udp": false, "names": false, "time": true, "random": true,
    });
    assert_eq!(surroundings, expected);
}

#[tokio::test]
async fn a_connection_needs_a_grant() {
    let (mut fixture, _listener) = observed(json!({}));
    fixture.grants = Grants::same_domain(&fixture.domain, &[]);
    let actor = fixture.live().await;
    for order in [
        json!({ "do": "tcp", "host": "other.example", "port": 443, "tls": true }),
        json!({ "do": "tcp", "host": "sp1.example", "port": 80 }),
        json!({ "do": "websocket", "url": "ws://127.0.0.1:1/" }),
        json!({ "do": "http", "url": "http://169.254.169.254/latest/meta-data" }),
    ] {
        let refused = actor.order(order.clone()).await.unwrap_err();
        assert!(refused.starts_with("denied: "), "{order}: {refused}");
    }
    let refused = actor.order(json!({ "do": "websocket", "url": "nonsense" })).await.unwrap_err();
    assert!(refused.starts_with("invalid: "), "{refused}");
    assert_eq!(
        actor.told(json!([{ "do": "tcp-state", "handle": 1 }, { "do": "websocket-state", "handle": 1 }])).await,
        json!(["closed", { "closed": null }])
    );
}

#[tokio::test]
async fn a_stub_speaks_tcp_to_its_domain() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (mut fixture, mut listener) = observed(json!({}));
    fixture.grants = Grants::none().allow_host("127.0.0.1", port, Protection::Plain).unwrap().allow_loopback(true);
    let actor = fixture.live().await;
    let handle = actor.told(json!({ "do": "tcp", "host": "127.0.0.1", "port": port })).await;
    let (mut connection, _) = server.accept().await.unwrap();
    assert_eq!(listener.hears().await, json!({ "ready": handle }));
    assert_eq!(actor.told(json!({ "do": "tcp-state", "handle": handle })).await, json!("open"));
    assert_eq!(actor.told(json!({ "do": "tcp-send", "handle": handle, "text": "hello" })).await, json!(5));
    let mut received = [0; 5];
    connection.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"hello");
    connection.write_all(b"welcome").await.unwrap();
    assert_eq!(listener.hears().await, json!({ "ready": handle }));
    assert_eq!(actor.told(json!({ "do": "tcp-receive", "handle": handle })).await, json!("welcome"));
    // The end of the instance closes the connection.
    actor.handle.stop();
    assert!(matches!(actor.outcome().await, Outcome::Stopped));
    assert_eq!(connection.read(&mut received).await.unwrap(), 0);
}

#[tokio::test]
async fn closed_handle_gets_no_events() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (mut fixture, mut listener) = observed(json!({}));
    fixture.grants = Grants::none().allow_host("127.0.0.1", port, Protection::Plain).unwrap().allow_loopback(true);
    let actor = fixture.live().await;
    let open = json!({ "do": "tcp", "host": "127.0.0.1", "port": port });
    actor.told(json!([open, { "do": "tcp-close", "handle": 1 }, { "do": "timer", "ms": 50 }])).await;
    assert_eq!(listener.hears().await, json!({ "timer": 2 }));
    assert_eq!(actor.order(json!({ "do": "tcp-send", "handle": 1, "text": "x" })).await, Err("closed".to_owned()));
}
