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

/// So many bytes, or all until the other side ended its half.
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
async fn bytes_go_there_and_back() {
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
async fn half_closed_connections_still_send() {
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
    assert_eq!(connections.tcp_receive(HANDLE, 4), Ok(None), "and stays so");
    send_all(&mut connections, &pattern(1_000_000)).await;
    connections.tcp_close(HANDLE);
    let (received, ready) = drive(&mut connections, server).await;
    assert_eq!(received.unwrap(), pattern(1_000_000));
    assert_eq!(ready, Vec::<u32>::new());
}

#[tokio::test]
async fn closing_loses_nothing_that_was_sent_and_has_no_news() {
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        // Never received: a plain close would reset the connection.
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
async fn no_more_is_taken_than_may_wait() {
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
    assert!(taken < bytes.len(), "it takes everything");
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
async fn nothing_is_read_while_the_stub_does_not_receive() {
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
async fn what_cannot_be_opened_is_said_at_once() {
    let mut connections = connections();
    let mut check = |host: &str, port: u16, protection: Protection, expected: &str| {
        assert_eq!(connections.tcp_open(HANDLE, host, port, protection).unwrap_err().to_string(), expected);
    };
    check("", 1, Protection::Plain, "invalid: a host of 0 bytes is none: 1 to 253 are");
    check("sp1.example/a", 1, Protection::Plain, "invalid: `/` is no part of a host's name or address");
    check("sp1.example", 0, Protection::Plain, "invalid: the port 0 names no service");
    check(
        "sp2.example",
        5222,
        Protection::Tls,
        "denied: `sp2.example:5222` is refused: no rule names this host; grant `sp2.example:5222` to allow it",
    );
}

#[tokio::test]
async fn failures_say_where_and_why() {
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
async fn a_reset_is_a_failure_after_what_came_before() {
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
async fn tls_from_the_start() {
    let (acceptor, trusting) = tls();
    let (port, server) = serve(async move |tcp| {
        let mut stream = acceptor.accept(tcp).await.unwrap();
        let mut request = [0; 5];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&request).await.unwrap();
        stream.shutdown().await.unwrap();
        // Until the client has ended its half too.
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
async fn tls_that_breaks_off_is_a_failure() {
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
    assert!(how.ends_with("broke: it ended without TLS' `close_notify`, so that something may be missing"), "{how}");
}

#[tokio::test]
async fn tls_can_begin_later() {
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
async fn what_comes_before_tls_is_not_protected() {
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
    let how = format!("sp1.example:{port} sent 9 bytes that were not received before TLS");
    assert_eq!(connections.tcp_start_tls(HANDLE, "sp1.example"), Err(TransportError::Io(how.clone())));
    assert_eq!(connections.tcp_poll(HANDLE), TcpState::Failed(how.clone()));
    assert_eq!(connections.tcp_receive(HANDLE, 100), Err(TransportError::Io(how)), "none of it is given to the stub");
}

#[tokio::test]
async fn tls_waits_until_everything_plain_is_sent() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections();
    let (_, server) = open(&mut connections, async |mut tcp| {
        gone.await.unwrap();
        let mut received = 0;
        let mut piece = vec![0; 64 << 10];
        // The first byte of a TLS handshake ends it.
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
async fn a_peer_that_does_not_end_its_half_is_left_alone() {
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
