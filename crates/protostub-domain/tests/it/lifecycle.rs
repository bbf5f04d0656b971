//! Servers that stop, start again, and shut down.

use std::time::Duration;

use protostub_domain::{DomainServer, DomainServerError, Memory};
use protostub_types::Domain;
use serde_json::json;
use tokio_tungstenite::connect_async;

use crate::client::{connect, open, server};

#[tokio::test]
async fn server_restarts_with_and_without_its_memory() {
    let server = server().await;
    for (memory, code) in [(Memory::Kept, 200), (Memory::Lost, 500)] {
        let (mut client, token) = open(&server, "1").await;
        let stopped = server.stop().await.unwrap();
        assert_eq!((stopped.clients, stopped.unfinished), (1, 0));
        assert_eq!(client.closed().await.unwrap().unwrap().code, 1001.into());
        assert!(connect_async(format!("ws://{}/ws", server.address())).await.is_err(), "refused while it is stopped");
        assert_eq!(server.stop().await.unwrap().clients, 0, "stopped already");

        server.start_again(memory).await.unwrap();
        let mut again = connect(&server, &client.runtime).await;
        let session = format!("{}/{token}", client.runtime);
        let answer = again.ask(json!({ "id": 1, "type": "re-open", "from": session, "to": "mn:/session" })).await;
        assert_eq!(answer["body"]["code"], code, "{memory:?}");
        server.start_again(memory).await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_sends_a_close_frame() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let reader = tokio::spawn(async move { client.closed().await });
    let stopped = server.shutdown(Duration::from_secs(10)).await;
    assert_eq!((stopped.clients, stopped.unfinished), (1, 0));
    assert_eq!(reader.await.unwrap().unwrap().unwrap().code, 1001.into());
}

#[tokio::test]
async fn server_has_the_names_of_its_address() {
    let server = server().await;
    let port = server.address().port();
    assert_eq!(server.authority(), format!("127.0.0.1:{port}"));
    let (mut client, _) = open(&server, "1").await;
    client.domain = format!("localhost:{port}");
    assert!(client.allocate().await.starts_with(&format!("hyperty://localhost:{port}/")));
    client.domain = "elsewhere.example".into();
    assert_eq!(client.ask_node("create", "address-allocation", json!({})).await["code"], 404);

    let server = DomainServer::builder().domain(Domain::parse("sp1.example").unwrap()).start().await.unwrap();
    assert_eq!(server.authority(), format!("sp1.example:{}", server.address().port()));
    let (mut client, _) = open(&server, "1").await;
    assert!(client.allocate().await.starts_with("hyperty://sp1.example/"));
}

#[tokio::test]
async fn start_failure_is_an_error() {
    let running = server().await;
    let error = DomainServer::builder().bind(running.address()).start().await.unwrap_err();
    assert!(matches!(error, DomainServerError::Listen { address, .. } if address == running.address()), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = DomainServer::builder().folder(folder.path().join("missing")).start().await.unwrap_err();
    assert!(matches!(error, DomainServerError::Folder { .. }), "{error}");
    let error = DomainServer::builder().folder(folder.path()).default_stub("echo").start().await.unwrap_err();
    assert!(matches!(error, DomainServerError::Default { .. }), "{error}");
}
