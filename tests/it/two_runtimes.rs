//! Tests of two runtimes that never met, and the message node between them.

use protostub_domain::{DomainServer, Limits};
use protostub_runtime::{Hyperty, Message, MessageType, Runtime};
use serde_json::{Value, json};

use crate::support::{builder, component};

/// Starts a domain server whose default stub is the message node's.
async fn server() -> (DomainServer, tempfile::TempDir) {
    server_with(Limits::default()).await
}

pub(crate) async fn server_with(limits: Limits) -> (DomainServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = folder.path().join("message-node");
    std::fs::create_dir(&stub).expect("a folder");
    let descriptor = include_str!("../../stubs/message-node/descriptor.json");
    std::fs::write(stub.join("descriptor.json"), descriptor).expect("written");
    std::fs::write(stub.join("component.wasm"), component("message-node")).expect("written");
    let builder = DomainServer::builder().folder(folder.path()).default_stub("message-node").limits(limits);
    let server = builder.start().await.expect("a server");
    (server, folder)
}

pub(crate) async fn runtime(server: &DomainServer) -> Runtime {
    builder().home_domain(server.domain().as_str()).build().await.expect("a runtime")
}

pub(crate) async fn app(runtime: &Runtime, server: &DomainServer) -> Hyperty {
    let node = format!("domain://msg-node.{}/address-allocation", server.domain());
    let request = Message::create(node.parse().unwrap()).with_body(json!({ "value": { "number": 1 } }));
    let allocation = runtime.request(request).await.expect("an allocation");
    let body: Value = allocation.body.expect("a body").parse().expect("JSON");
    let address = body["value"]["allocated"][0].as_str().unwrap_or_else(|| panic!("no address in {body}")).to_owned();
    runtime.register_hyperty(address).await.expect("a hyperty")
}

#[tokio::test]
async fn two_runtimes_that_never_met_talk_through_a_downloaded_stub() {
    let (server, _folder) = server().await;
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let (alice_app, mut bob_app) = tokio::join!(app(&alice, &server), app(&bob, &server));
    let question = Message::read(bob_app.address().clone()).with_body(json!({ "n": 1 }));
    let (reply, ()) = tokio::join!(alice_app.request(question), async {
        let message = bob_app.recv().await.expect("a message");
        assert_eq!(message.kind, MessageType::Read);
        assert_eq!(&message.from, alice_app.address());
        bob_app.post(message.response(200, Some(json!("hello")))).expect("accepted");
    });
    let reply = reply.expect("a reply");
    let body: Value = reply.body.as_ref().expect("a body").parse().expect("JSON");
    assert_eq!((reply.code(), &body["value"]), (Some(200), &json!("hello")));
    assert_eq!((alice.protostubs().len(), bob.protostubs().len()), (1, 1));
    assert_eq!(server.catalogue_counts().descriptors, 2, "one descriptor for each runtime");
}

#[tokio::test]
async fn messages_during_a_deployment_keep_their_order() {
    let (server, _folder) = server().await;
    let (alice, bob) = (runtime(&server).await, runtime(&server).await);
    let mut bob_app = app(&bob, &server).await;
    let alice_app = alice.register_hyperty(format!("hyperty://{}/alice", server.domain())).await.expect("a hyperty");
    for n in 0..100 {
        let ping = Message::new(MessageType::Other("ping".into()), bob_app.address().clone()).with_body(json!({ "n": n }));
        alice_app.post(ping).expect("accepted");
    }
    for n in 0..100 {
        let ping = bob_app.recv().await.expect("a message");
        let body: Value = ping.body.as_ref().expect("a body").parse().expect("JSON");
        assert_eq!((ping.kind.as_str(), &body["n"]), ("ping", &json!(n)));
    }
}
