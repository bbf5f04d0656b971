//! Tests of the opening: accepted, refused and failed connections, and their error texts.

use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request as ServerRequest, Response},
};

use protostub_egress::{Protection, QuotaLimits};

use super::*;
use crate::Handshake;

#[tokio::test]
#[expect(clippy::result_large_err, reason = "tungstenite's callback")]
async fn handshake_has_fields_of_stub_and_host() {
    let (port, server) = serve(async |tcp| {
        let mut seen = None;
        let answer = |request: &ServerRequest, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", "chat.v2".parse().unwrap());
            response.headers_mut().append("X-Node", "a".parse().unwrap());
            response.headers_mut().append("X-Node", "b".parse().unwrap());
            seen = Some((request.uri().to_string(), request.headers().clone()));
            Ok(response)
        };
        let socket = accept_hdr_async(tcp, answer).await.unwrap();
        (socket, seen.unwrap())
    })
    .await;
    let mut connections = connections();
    let protocols = ["chat.v1", "chat.v2"].map(str::to_owned);
    let headers = [("Authorization".to_owned(), "Bearer x".to_owned())];
    connections.websocket_open(HANDLE, &format!("ws://127.0.0.1:{port}/a b?c=ü"), &protocols, &headers, None).unwrap();
    let (_socket, (uri, sent)) = drive(&mut connections, server).await.0.unwrap();
    assert_eq!(uri, "/a%20b?c=%C3%BC");
    assert_eq!(sent["authorization"], "Bearer x");
    assert_eq!(sent["host"], format!("127.0.0.1:{port}"));
    assert_eq!(sent["sec-websocket-protocol"], "chat.v1, chat.v2");

    let state = ask(&mut connections, HANDLE, |connections| {
        Some(connections.websocket_poll(HANDLE)).filter(|state| *state != WebSocketState::Connecting)
    })
    .await;
    let WebSocketState::Open(handshake) = state else { panic!("{state:?}") };
    assert_eq!((handshake.status, handshake.protocol.as_deref()), (101, Some("chat.v2")));
    let nodes: Vec<_> = handshake.headers.iter().filter(|(name, _)| name == "x-node").map(|(_, value)| value.as_str()).collect();
    assert_eq!(nodes, ["a", "b"]);
}

#[tokio::test]
async fn invalid_target_fails_at_once() {
    let mut connections = connections();
    let mut check = |url: &str, protocols: &[&str], header: &str, expected: &str| {
        let protocols: Vec<String> = protocols.iter().map(|protocol| (*protocol).to_owned()).collect();
        let headers = [(header.to_owned(), "x".to_owned())];
        let error = connections.websocket_open(HANDLE, url, &protocols, &headers, None).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(connections.websocket_poll(HANDLE), closed(None, ""), "the handle refers to no connection");
    };
    check("http://127.0.0.1/", &[], "a", "invalid: the URL of a WebSocket must begin with `ws:` or `wss:`, not with `http:`");
    check("ws://", &[], "a", "invalid: the URL of a WebSocket cannot be read: empty host");
    check("ws://127.0.0.1/#top", &[], "a", "invalid: the URL of a WebSocket must not have a fragment (RFC 6455 section 3)");
    check(
        "ws://me:pass@127.0.0.1/",
        &[],
        "a",
        "invalid: the URL of a WebSocket must not have a user or password; send the header `authorization`",
    );
    check("ws://127.0.0.1/", &["a b"], "a", "invalid: the subprotocol `a b` is not a token (RFC 9110 section 5.6.2)");
    check("ws://127.0.0.1/", &["a", "a"], "a", "invalid: the subprotocol `a` is named twice");
    check("ws://127.0.0.1/", &[], "Host", "invalid: `Host` is invalid: this header is set by the host alone");
    check(
        "ws://127.0.0.1/",
        &[],
        "Sec-WebSocket-Key",
        "invalid: `sec-websocket-key` is invalid: this header is set by the host alone",
    );
    check(
        &format!("ws://127.0.0.1/{}", "a".repeat(8 << 10)),
        &[],
        "a",
        "limit: a URL of 8207 bytes is 15 bytes over the limit of 8192",
    );
    check(
        "wss://sp2.example/",
        &[],
        "a",
        "denied: `sp2.example:443` is refused: no rule names this host; grant `sp2.example:443` to allow it",
    );
}

#[tokio::test]
async fn resolved_address_is_judged_after_open() {
    let egress = Egress::new(EgressConfig::default().with_resolver(Arc::new(LoopbackResolver))).unwrap();
    let grants = Grants::none().allow_host("sp1.example", 443, Protection::Tls).unwrap();
    let mut connections =
        Connections::new(egress.clone(), egress.quota(QuotaLimits::default()), grants, TransportLimits::default());
    connections.websocket_open(HANDLE, "wss://sp1.example/", &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let WebSocketState::Failed(how) = connections.websocket_poll(HANDLE) else { panic!("not failed") };
    assert!(how.contains("`sp1.example:443` is refused: its address 127.0.0.1 is"), "{how}");
    assert_eq!(connections.websocket_receive(HANDLE, 1, 1), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.websocket_send(HANDLE, vec![text("")]), Err(TransportError::Io(how)));
}

#[tokio::test]
async fn other_status_refuses_the_connection() {
    let (port, _server) = serve(async |mut tcp| {
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await.unwrap();
        tcp.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    })
    .await;
    let mut connections = connections();
    connections.websocket_open(HANDLE, &format!("ws://127.0.0.1:{port}"), &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let headers =
        [("www-authenticate", "Bearer"), ("content-length", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let refused = Handshake { status: 401, protocol: None, headers: headers.to_vec() };
    assert_eq!(connections.websocket_poll(HANDLE), WebSocketState::Refused(refused));
    assert_eq!(connections.websocket_receive(HANDLE, 1, 1), Err(TransportError::Closed));
    assert_eq!(connections.websocket_send(HANDLE, vec![text("")]), Err(TransportError::Closed));
}

/// Opens a connection to a server that answers the handshake with these bytes. Returns the port and
/// the error.
async fn fail_with(answer: &[u8]) -> (u16, String) {
    let answer = answer.to_vec();
    let (port, _server) = serve(async move |mut tcp| {
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await.unwrap();
        // The client may close the connection before it has all bytes.
        let _ = tcp.write_all(&answer).await;
    })
    .await;
    let mut connections = connections();
    connections.websocket_open(HANDLE, &format!("ws://127.0.0.1:{port}/?token=secret"), &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let WebSocketState::Failed(how) = connections.websocket_poll(HANDLE) else { panic!("not failed") };
    (port, how)
}

#[tokio::test]
async fn failure_names_target_and_cause() {
    let mut connections = connections();
    let port = dead_port().await;
    connections.websocket_open(HANDLE, &format!("ws://127.0.0.1:{port}/?token=secret"), &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let WebSocketState::Failed(how) = connections.websocket_poll(HANDLE) else { panic!("not failed") };
    assert!(how.starts_with(&format!("failed to connect to `127.0.0.1:{port}`")), "{how}");

    let handshake = |port: u16, why: &str| format!("the WebSocket handshake with ws://127.0.0.1:{port} failed: {why}");
    let (port, how) = fail_with(b"SSH-2.0-OpenSSH\r\n").await;
    assert!(how.starts_with(&handshake(port, "WebSocket protocol error: httparse error")), "{how}");
    let (port, how) = fail_with(b"").await;
    assert_eq!(how, handshake(port, "WebSocket protocol error: Handshake not finished"));
    let large = format!("HTTP/1.1 403 Forbidden\r\nx: {}\r\n\r\n", "a".repeat(20_000));
    let (port, how) = fail_with(large.as_bytes()).await;
    assert_eq!(how, handshake(port, "a handshake's head of 20001 bytes is 3617 bytes over the limit of 16384"));
    let (port, how) = fail_with(&[b'a'; 100_000]).await;
    assert!(how.starts_with(&handshake(port, "")), "{how}");
}

#[tokio::test]
async fn opening_times_out() {
    let (port, was_accepted) = serve_nothing().await;
    let mut connections = connections();
    connections.websocket_open(HANDLE, &format!("ws://127.0.0.1:{port}"), &[], &[], None).unwrap();
    drive(&mut connections, was_accepted).await.0.unwrap();
    tokio::time::pause();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    assert_eq!(
        connections.websocket_poll(HANDLE),
        WebSocketState::Failed(format!("opening ws://127.0.0.1:{port} took longer than 15s"))
    );
}

#[tokio::test]
async fn tls_verifies_the_name() {
    let (acceptor, trusting) = tls();
    let (port, server) = serve(async move |tcp| {
        let mut socket = accept_async(acceptor.accept(tcp).await.unwrap()).await.unwrap();
        let message = socket.next().await.unwrap().unwrap();
        socket.send(message).await.unwrap();
        // Ends without a close frame, and without `close_notify` of TLS.
    })
    .await;
    let mut connections = connections_with(TransportLimits::default(), trusting);
    connections.websocket_open(HANDLE, &format!("wss://sp1.example:{port}"), &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    assert!(matches!(connections.websocket_poll(HANDLE), WebSocketState::Open(_)));
    assert_eq!(connections.websocket_send(HANDLE, vec![text("over TLS")]), Ok(1));
    let (frames, end) = receive_all(&mut connections, 10, 100).await;
    assert_eq!((frames, end), (vec![text("over TLS")], TransportError::Closed));
    assert_eq!(connections.websocket_poll(HANDLE), closed(None, "the server ended the connection without a close frame"));
    server.await.unwrap();
}

#[tokio::test]
async fn untrusted_certificate_fails() {
    let (acceptor, _) = tls();
    let (port, _server) = serve(async move |tcp| drop(acceptor.accept(tcp).await)).await;
    let mut connections = connections();
    connections.websocket_open(HANDLE, &format!("wss://sp1.example:{port}"), &[], &[], None).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let WebSocketState::Failed(how) = connections.websocket_poll(HANDLE) else { panic!("not failed") };
    assert!(how.starts_with(&format!("failed to establish TLS with `sp1.example:{port}`")), "{how}");
}
