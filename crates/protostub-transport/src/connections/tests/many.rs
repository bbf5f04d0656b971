//! Tests of many connections: the limit of their number, and their independence.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;

use super::{websocket::open_as, *};

#[tokio::test]
async fn connections_are_limited() {
    let limits = TransportLimits { connections: 3, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let port = dead_port().await;
    let url = format!("ws://127.0.0.1:{port}");
    let request =
        Request { method: "GET".to_owned(), url: format!("http://127.0.0.1:{port}"), headers: Vec::new(), body: Vec::new() };
    connections.websocket_open(1, &url, &[], &[], None).unwrap();
    connections.http_send(2, request.clone(), None).unwrap();
    connections.tcp_open(3, "127.0.0.1", port, Protection::Plain).unwrap();
    let full = Err(TransportError::Limit("3 connections are open, and the limit is 3: close or cancel one first".to_owned()));
    assert_eq!(connections.websocket_open(4, &url, &[], &[], None), full);
    assert_eq!(connections.http_send(4, request.clone(), None), full);
    assert_eq!(connections.tcp_open(4, "127.0.0.1", port, Protection::Plain), full);

    // Failed connections count until the stub closes them.
    let mut failed = [next_ready(&mut connections).await, next_ready(&mut connections).await, next_ready(&mut connections).await];
    failed.sort_unstable();
    assert_eq!(failed, [1, 2, 3]);
    assert_eq!(connections.tcp_open(4, "127.0.0.1", port, Protection::Plain), full);
    connections.http_cancel(2);
    connections.tcp_open(4, "127.0.0.1", port, Protection::Plain).unwrap();
    connections.websocket_close(1, 1000, "");
    connections.tcp_close(3);
    assert_eq!(connections.connections.len(), 1, "a handle without a connection needs no closing");
}

/// Two stubs of one runtime share 16 sockets, of which two are reserved for the runtime.
#[tokio::test]
async fn stub_at_its_share_of_sockets_gets_an_error() {
    let egress = Egress::new(EgressConfig::default().with_max_sockets(16)).unwrap();
    let grants = Grants::none().allow_host("127.0.0.1", Ports::all(), Protection::Plain).unwrap().allow_loopback(true);
    let limits = TransportLimits::default();
    let stub = || Connections::new(egress.clone(), egress.quota(quota(&limits)), grants.clone(), limits.clone());
    let (mut one, mut other) = (stub(), stub());
    let (port, _accepted) = serve_nothing().await;
    for handle in 1..=8 {
        one.tcp_open(handle, "127.0.0.1", port, Protection::Plain).unwrap();
    }
    let mut failed = 0;
    for _ in 1..=8 {
        let handle = next_ready(&mut one).await;
        failed += u32::from(matches!(one.tcp_poll(handle), TcpState::Failed(how) if how.contains("`max-sockets`")));
    }
    assert_eq!(failed, 1, "half of the sockets is 7");
    let Err(TransportError::Limit(text)) = one.tcp_open(9, "127.0.0.1", port, Protection::Plain) else {
        panic!("the stub can open one more connection")
    };
    assert!(text.contains("the stubs share 14 sockets"), "{text}");
    assert_eq!(one.take_refused()[2], ("max_sockets", 2));
    other.tcp_open(1, "127.0.0.1", port, Protection::Plain).unwrap();
    assert_eq!(next_ready(&mut other).await, 1);
    assert_eq!(other.tcp_poll(1), TcpState::Open);
    one.close_all();
}

#[tokio::test]
async fn handle_works_in_one_interface_only() {
    let mut connections = connections();
    let port = dead_port().await;
    connections.tcp_open(1, "127.0.0.1", port, Protection::Plain).unwrap();
    assert_eq!(connections.http_poll(1), Err(TransportError::Closed));
    assert_eq!(connections.http_receive(1, 1), Err(TransportError::Closed));
    assert_eq!(connections.websocket_poll(1), WebSocketState::Closed(CloseReason::default()));
    connections.websocket_close(1, 1000, "");
    connections.http_cancel(1);
    assert_eq!(connections.tcp_poll(1), TcpState::Connecting);

    // Unknown handles.
    assert_eq!(connections.tcp_poll(2), TcpState::Closed);
    assert_eq!(connections.tcp_receive(2, 1), Err(TransportError::Closed));
    assert_eq!(connections.tcp_send(2, b"a"), Err(TransportError::Closed));
    assert_eq!(connections.tcp_start_tls(2, "sp1.example"), Err(TransportError::Closed));
    connections.tcp_close(2);
}

#[tokio::test]
async fn closing_connections_are_bounded() {
    let limits = TransportLimits { connections: 2, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let mut servers = Vec::new();
    for handle in 0..10 {
        // The servers never answer a close frame.
        let server = open_as(&mut connections, handle, async |mut socket| {
            socket.next().await.unwrap().unwrap();
            std::future::pending::<()>().await;
        });
        servers.push(server.await);
        connections.websocket_close(handle, 1000, "");
        assert!(connections.connections.len() <= 2);
    }
    assert_eq!((connections.open_count(), connections.closing.len()), (0, 2));
    servers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn busy_connection_does_not_poll_the_others() {
    const BUSY: u32 = 11;
    const FRAMES: usize = 300;
    let mut connections = connections();
    let (quiet, _) = tokio::sync::watch::channel(());
    for handle in 0..16 {
        if handle == BUSY {
            continue;
        }
        let mut done = quiet.subscribe();
        open_as(&mut connections, handle, async move |socket| {
            // Keeps the connection open until the test is over.
            let _ = done.changed().await;
            drop(socket);
        })
        .await;
    }
    let (send, mut to_send) = mpsc::channel::<usize>(1);
    let server = open_as(&mut connections, BUSY, async move |mut socket| {
        while let Some(n) = to_send.recv().await {
            socket.send(Message::text(n.to_string())).await.unwrap();
        }
    })
    .await;
    // Finishes the work that the opening left.
    while poll_fn(|cx| Poll::Ready(connections.poll_ready(cx))).await.is_ready() {}
    while connections.queue.len() > 0 {
        poll_fn(|cx| Poll::Ready(connections.poll_ready(cx))).await.is_ready();
    }

    for n in 0..FRAMES {
        send.send(n).await.unwrap();
        let handle = poll_fn(|cx| {
            assert!(connections.queue.len() <= 1, "only the busy connection is polled");
            connections.poll_ready(cx)
        })
        .await;
        assert_eq!(handle, BUSY);
        assert_eq!(connections.websocket_receive(BUSY, 10, 1_000), Ok(vec![Frame::Text(n.to_string())]));
        assert_eq!(connections.websocket_receive(BUSY, 10, 1_000), Ok(Vec::new()));
    }
    drop(send);
    server.await.unwrap();
}

/// Receives until this many bytes have arrived.
async fn receive_all(connections: &mut Connections, handle: u32, bytes: usize) {
    let mut received = 0;
    while received < bytes {
        received += ask(connections, handle, |connections| match connections.tcp_receive(handle, u32::MAX) {
            Ok(Some(bytes)) if bytes.is_empty() => None,
            Ok(Some(bytes)) => Some(bytes.len()),
            Err(TransportError::Busy) => None,
            other => panic!("{other:?}"),
        })
        .await;
    }
}

#[tokio::test]
async fn received_bytes_per_second_are_limited_for_all() {
    let limits = TransportLimits { bytes_in_per_second: 100_000, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let flood = async |mut stream: TcpStream| {
        let _ = stream.write_all(&[b'x'; 75_000]).await;
        let _ = stream.read_u8().await;
    };
    let (one, _serving_one) = serve(flood).await;
    let (two, _serving_two) = serve(flood).await;
    let begun = std::time::Instant::now();
    connections.tcp_open(1, "127.0.0.1", one, Protection::Plain).unwrap();
    connections.tcp_open(2, "127.0.0.1", two, Protection::Plain).unwrap();
    receive_all(&mut connections, 1, 75_000).await;
    receive_all(&mut connections, 2, 75_000).await;
    // A second's share may come at once. The excess must wait, except for the last piece.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(connections.take_throttled().0 > 0);
}

#[tokio::test]
async fn sent_bytes_per_second_are_limited() {
    let limits = TransportLimits { bytes_out_per_second: 100_000, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let (port, received) = serve(async |mut stream: TcpStream| {
        let mut all = vec![0; 250_000];
        stream.read_exact(&mut all).await.unwrap();
    })
    .await;
    let begun = std::time::Instant::now();
    connections.tcp_open(1, "127.0.0.1", port, Protection::Plain).unwrap();
    ask(&mut connections, 1, |connections| (connections.tcp_poll(1) == TcpState::Open).then_some(())).await;
    assert_eq!(connections.tcp_send(1, &[b'x'; 250_000]), Ok(250_000), "the host accepts all bytes that may wait");
    drive(&mut connections, received).await.0.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(connections.take_throttled().1 > 0);
}
