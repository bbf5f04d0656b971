use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    time::Instant,
};

use super::*;

const HANDLE: u32 = 3;

/// Serves one connection, and opens it.
async fn open<T, F>(connections: &mut Connections, server: impl FnOnce(TcpStream) -> F + Send + 'static) -> (u16, JoinHandle<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let (port, task) = serve(server).await;
    connections.tcp_open(HANDLE, "sp1.example", port, Protection::Plain).unwrap();
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Connecting);
    assert_eq!(connections.tcp_send(HANDLE, b"early"), Err(TransportError::Busy));
    assert_eq!(connections.tcp_receive(HANDLE, 1), Err(TransportError::Busy));
    opened(connections).await;
    (port, task)
}

async fn opened(connections: &mut Connections) {
    ask(connections, HANDLE, |connections| match connections.tcp_poll(HANDLE) {
        TcpState::Connecting => None,
        TcpState::Open => Some(()),
        state => panic!("{state:?}"),
    })
    .await;
}

async fn failed(connections: &mut Connections) -> String {
    ask(connections, HANDLE, |connections| match connections.tcp_poll(HANDLE) {
        TcpState::Failed(how) => Some(how),
        _ => None,
    })
    .await
}

/// Receives this many bytes, or all bytes until the other side ends its half.
async fn receive(connections: &mut Connections, count: usize, max_bytes: u32) -> Vec<u8> {
    let mut received = Vec::new();
    ask(connections, HANDLE, |connections| {
        while received.len() < count {
            match connections.tcp_receive(HANDLE, max_bytes).unwrap() {
                Some(bytes) if bytes.is_empty() => return None,
                Some(bytes) => {
                    assert!(bytes.len() <= max_bytes as usize);
                    received.extend(bytes);
                }
                None => break,
            }
        }
        Some(())
    })
    .await;
    received
}

async fn send_all(connections: &mut Connections, mut bytes: &[u8]) {
    ask(connections, HANDLE, |connections| {
        match connections.tcp_send(HANDLE, bytes) {
            Ok(taken) => bytes = &bytes[taken as usize..],
            Err(error) => assert_eq!(error, TransportError::Busy),
        }
        bytes.is_empty().then_some(())
    })
    .await;
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_are_echoed() {
    for max_bytes in [1, 1_000, u32::MAX] {
        let mut connections = connections();
        let (_, server) = open(&mut connections, async |tcp| {
            let (mut reading, mut writing) = tcp.into_split();
            tokio::io::copy(&mut reading, &mut writing).await.unwrap();
        })
        .await;
        let bytes = pattern(20_000);
        send_all(&mut connections, &bytes).await;
        assert_eq!(receive(&mut connections, bytes.len(), max_bytes).await, bytes);
        assert_eq!(connections.tcp_receive(HANDLE, max_bytes), Ok(Some(Vec::new())));
        connections.tcp_close(HANDLE);
        drive(&mut connections, server).await.0.unwrap();
    }
}

#[tokio::test]
async fn half_closed_connection_still_sends() {
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        tcp.write_all(b"the last of it").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut received = Vec::new();
        tcp.read_to_end(&mut received).await.unwrap();
        received
    })
    .await;
    assert_eq!(receive(&mut connections, usize::MAX, 4).await, b"the last of it");
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Closed);
    assert_eq!(connections.tcp_receive(HANDLE, 4), Ok(None), "the state is final");
    send_all(&mut connections, &pattern(1_000_000)).await;
    connections.tcp_close(HANDLE);
    let (received, ready) = drive(&mut connections, server).await;
    assert_eq!(received.unwrap(), pattern(1_000_000));
    assert_eq!(ready, Vec::<u32>::new());
}

#[tokio::test]
async fn close_delivers_sent_bytes_without_events() {
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        // The stub never receives these bytes: a plain close would reset the connection.
        tcp.write_all(&pattern(10_000)).await.unwrap();
        let mut received = Vec::new();
        tcp.read_to_end(&mut received).await.unwrap();
        received.len()
    })
    .await;
    let sent = connections.tcp_send(HANDLE, &pattern(3_000_000)).unwrap_or_default();
    assert!(sent > 256 << 10, "{sent}");
    connections.tcp_close(HANDLE);
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Closed);
    assert_eq!(connections.tcp_send(HANDLE, b"late"), Err(TransportError::Closed));
    let (received, ready) = drive(&mut connections, server).await;
    assert_eq!(received.unwrap(), sent as usize);
    assert_eq!(ready, Vec::<u32>::new());
    poll_fn(|cx| connections.poll_closed(cx)).await;
    assert!(connections.connections.is_empty());
}

#[tokio::test]
async fn send_is_limited_by_waiting_bytes() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        gone.await.unwrap();
        let mut received = Vec::new();
        tcp.read_to_end(&mut received).await.unwrap();
        received
    })
    .await;
    let bytes = pattern(64 << 20);
    let mut taken = 0;
    while let Ok(more @ 1..) = connections.tcp_send(HANDLE, &bytes[taken..]) {
        taken += more as usize;
    }
    assert!(taken < bytes.len(), "the host accepts everything");
    assert_eq!(connections.tcp_send(HANDLE, b"more"), Err(TransportError::Busy));
    assert_eq!(connections.tcp(HANDLE, |connection, _| connection.waiting_bytes()), Some(256 << 10));
    go.send(()).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    let end = taken + 1_000_000;
    send_all(&mut connections, &bytes[taken..end]).await;
    connections.tcp_close(HANDLE);
    assert!(drive(&mut connections, server).await.0.unwrap() == bytes[..end]);
}

#[tokio::test]
async fn unfetched_data_stops_reading() {
    let (blocked, was_blocked) = oneshot::channel();
    let mut connections = connections();
    let bytes = 64 << 20;
    let (_, server) = open(&mut connections, async move |mut tcp| {
        let mut blocked = Some(blocked);
        let (mut sent, mut tries) = (0, 0);
        let piece = vec![0; 64 << 10];
        poll_fn(|cx| {
            while sent < bytes {
                match pin!(tcp.write(&piece)).poll(cx) {
                    Poll::Ready(written) => sent += written.unwrap(),
                    Poll::Pending => {
                        tries += 1;
                        if tries > 50
                            && let Some(blocked) = blocked.take()
                        {
                            blocked.send(sent).unwrap();
                        } else if blocked.is_some() {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(())
        })
        .await;
        sent
    })
    .await;
    let (sent, ready) = drive(&mut connections, was_blocked).await;
    let sent = sent.unwrap();
    assert!(sent < bytes / 2, "it took {sent} bytes");
    assert!(ready.len() <= 1, "{ready:?}");
    let received = receive(&mut connections, usize::MAX, u32::MAX).await.len();
    assert_eq!(received, server.await.unwrap());
}

#[tokio::test]
async fn invalid_target_fails_at_once() {
    let mut connections = connections();
    let mut check = |host: &str, port: u16, protection: Protection, expected: &str| {
        assert_eq!(connections.tcp_open(HANDLE, host, port, protection).unwrap_err().to_string(), expected);
    };
    check("", 1, Protection::Plain, "invalid: the host has 0 bytes; the allowed length is 1 to 253 bytes");
    check("sp1.example/a", 1, Protection::Plain, "invalid: a host name or address cannot contain `/`");
    check("sp1.example", 0, Protection::Plain, "invalid: port 0 is not a valid port");
    check(
        "sp2.example",
        5222,
        Protection::Tls,
        "denied: `sp2.example:5222` is refused: no rule names this host; grant `sp2.example:5222` to allow it",
    );
}

#[tokio::test]
async fn failure_names_target_and_cause() {
    let mut connections = connections();
    let port = dead_port().await;
    connections.tcp_open(HANDLE, "127.0.0.1", port, Protection::Plain).unwrap();
    let how = failed(&mut connections).await;
    assert!(how.starts_with(&format!("failed to connect to `127.0.0.1:{port}`")), "{how}");
    assert_eq!(connections.tcp_receive(HANDLE, 1), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.tcp_send(HANDLE, b"a"), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Io(how)));
}

#[tokio::test]
async fn reset_is_a_failure() {
    let mut connections = connections();
    let (port, server) = open(&mut connections, async |mut tcp| {
        let mut request = [0; 3];
        tcp.read_exact(&mut request).await.unwrap();
        tcp.set_zero_linger().unwrap();
    })
    .await;
    send_all(&mut connections, b"abc").await;
    drive(&mut connections, server).await.0.unwrap();
    let how = failed(&mut connections).await;
    assert!(how.starts_with(&format!("the connection to sp1.example:{port} broke: ")), "{how}");
    assert_eq!(connections.tcp_receive(HANDLE, 1), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.tcp_send(HANDLE, b"a"), Err(TransportError::Io(how)));
}

#[tokio::test]
async fn tls_from_the_start_carries_bytes() {
    let (acceptor, trusting) = tls();
    let (port, server) = serve(async move |tcp| {
        let mut stream = acceptor.accept(tcp).await.unwrap();
        let mut request = [0; 5];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&request).await.unwrap();
        stream.shutdown().await.unwrap();
        // Reads until the client has ended its half too.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    })
    .await;
    let mut connections = connections_with(TransportLimits::default(), trusting);
    connections.tcp_open(HANDLE, "sp1.example", port, Protection::Tls).unwrap();
    opened(&mut connections).await;
    assert!(matches!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Invalid(_))));
    send_all(&mut connections, b"hello").await;
    assert_eq!(receive(&mut connections, usize::MAX, 100).await, b"hello");
    send_all(&mut connections, b"bye").await;
    connections.tcp_close(HANDLE);
    assert_eq!(drive(&mut connections, server).await.0.unwrap(), b"bye");
}

#[tokio::test]
async fn tls_without_close_notify_is_a_failure() {
    let (acceptor, trusting) = tls();
    let (port, _server) = serve(async move |tcp| {
        let mut stream = acceptor.accept(tcp).await.unwrap();
        stream.write_all(b"half").await.unwrap();
        stream.flush().await.unwrap();
    })
    .await;
    let mut connections = connections_with(TransportLimits::default(), trusting);
    connections.tcp_open(HANDLE, "sp1.example", port, Protection::Tls).unwrap();
    opened(&mut connections).await;
    assert_eq!(receive(&mut connections, 4, 100).await, b"half");
    let how = failed(&mut connections).await;
    assert!(how.ends_with("broke: TLS ended without `close_notify`, so data may be missing"), "{how}");
}

#[tokio::test]
async fn start_tls_upgrades_a_plain_connection() {
    let (acceptor, trusting) = tls();
    let (port, server) = serve(async move |mut tcp| {
        let mut request = [0; 9];
        tcp.read_exact(&mut request).await.unwrap();
        tcp.write_all(b"go on\n").await.unwrap();
        let mut stream = acceptor.accept(tcp).await.unwrap();
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        request
    })
    .await;
    let mut connections = connections_with(TransportLimits::default(), trusting);
    connections.tcp_open(HANDLE, "127.0.0.1", port, Protection::Plain).unwrap();
    assert_eq!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Busy));
    opened(&mut connections).await;
    send_all(&mut connections, b"STARTTLS\n").await;
    assert_eq!(receive(&mut connections, 6, 100).await, b"go on\n");
    let denied = connections.tcp_start_tls(HANDLE, "sp2.example");
    assert!(matches!(&denied, Err(TransportError::Denied(why)) if why.contains("no rule names this host")), "{denied:?}");
    connections.tcp_start_tls(HANDLE, "sp1.example").unwrap();
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Connecting);
    opened(&mut connections).await;
    send_all(&mut connections, b"protected").await;
    assert_eq!(receive(&mut connections, 9, 100).await, b"protected");
    assert_eq!(&server.await.unwrap(), b"protected");
}

#[tokio::test]
async fn bytes_before_tls_fail_the_connection() {
    let (sent, was_sent) = oneshot::channel();
    let mut connections = connections();
    let (port, _server) = open(&mut connections, async |mut tcp| {
        tcp.write_all(b"go on\ninjected\n").await.unwrap();
        sent.send(()).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    drive(&mut connections, was_sent).await.0.unwrap();
    assert_eq!(receive(&mut connections, 6, 6).await, b"go on\n");
    let how = format!("sp1.example:{port} sent 9 bytes that the stub did not receive before TLS");
    assert_eq!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Failed(how.clone()));
    assert_eq!(connections.tcp_receive(HANDLE, 100), Err(TransportError::Io(how)), "the stub gets none of the bytes");
}

#[tokio::test]
async fn start_tls_waits_for_plain_bytes() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        gone.await.unwrap();
        let mut received = 0;
        let mut piece = vec![0; 64 << 10];
        // The first byte of the TLS handshake ends the loop.
        loop {
            let count = tcp.read(&mut piece).await.unwrap();
            match piece[..count].iter().position(|byte| *byte != 0) {
                Some(plain) => return received + plain,
                None => received += count,
            }
        }
    })
    .await;
    let zeroes = vec![0; 1 << 20];
    let mut taken = 0;
    while let Ok(more) = connections.tcp_send(HANDLE, &zeroes) {
        taken += more as usize;
    }
    assert_eq!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Busy));
    go.send(()).unwrap();
    let start_tls = |connections: &mut Connections| {
        Some(connections.tcp_start_tls(HANDLE, "sp1.example")).filter(|result| *result != Err(TransportError::Busy))
    };
    assert_eq!(ask(&mut connections, HANDLE, start_tls).await, Ok(()));
    assert_eq!(drive(&mut connections, server).await.0.unwrap(), taken);
}

#[tokio::test]
async fn peer_without_end_is_dropped_after_close_timeout() {
    let mut connections = connections();
    let (_, _server) = open(&mut connections, async |tcp| {
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    connections.tcp_close(HANDLE);
    tokio::time::pause();
    let start = Instant::now();
    poll_fn(|cx| connections.poll_closed(cx)).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    assert!(connections.connections.is_empty());
}
