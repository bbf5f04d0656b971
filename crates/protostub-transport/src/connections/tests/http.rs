use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request as ServerRequest,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Redirect},
    routing::{any, get},
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};

use super::*;
use crate::idle::MAX_IDLE;

const HANDLE: u32 = 5;

/// Serves on loopback. Returns the URL, without a slash at the end.
async fn serve_http(routes: Router) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

fn get_of(url: String) -> Request {
    Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() }
}

async fn head(connections: &mut Connections) -> Result<Head, TransportError> {
    ask(connections, HANDLE, |connections| connections.http_poll(HANDLE).transpose()).await
}

/// Returns the rest of the body in pieces, and its final error, if any.
async fn receive_all(connections: &mut Connections, max_bytes: u32) -> (Vec<Vec<u8>>, Option<TransportError>) {
    let mut pieces = Vec::new();
    let end = ask(connections, HANDLE, |connections| {
        loop {
            match connections.http_receive(HANDLE, max_bytes) {
                Ok(Some(piece)) if piece.is_empty() => return None,
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => return Some(None),
                Err(error) => return Some(Some(error)),
            }
        }
    })
    .await;
    (pieces, end)
}

fn error_of(head: Result<Head, TransportError>) -> String {
    let Err(TransportError::Io(how)) = head else { panic!("{head:?}") };
    how
}

#[tokio::test]
async fn exchange_sends_request_and_returns_response() {
    let echo = async |request: ServerRequest| {
        let (parts, body) = request.into_parts();
        let mut headers = HeaderMap::new();
        headers.insert("x-method", parts.method.as_str().parse().unwrap());
        headers.insert("x-uri", parts.uri.to_string().parse().unwrap());
        headers.insert("x-authorization", parts.headers["authorization"].clone());
        headers.append("Set-Cookie", "a".parse().unwrap());
        headers.append("Set-Cookie", "b".parse().unwrap());
        (StatusCode::CREATED, headers, body)
    };
    let base = serve_http(Router::new().route("/{*path}", any(echo))).await;
    let mut connections = connections();
    let request = Request {
        method: "PATCH".to_owned(),
        url: format!("{base}/a/b?c=d#e"),
        headers: vec![("Authorization".to_owned(), "Bearer x".to_owned())],
        body: b"0123456789".to_vec(),
    };
    connections.http_send(HANDLE, request, None).unwrap();
    assert_eq!(connections.http_poll(HANDLE), Ok(None));
    assert_eq!(connections.http_receive(HANDLE, 1), Err(TransportError::Busy));
    let head = head(&mut connections).await.unwrap();
    assert_eq!(head.status, 201);
    let field =
        |name: &str| head.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    assert_eq!(field("x-method"), ["PATCH"]);
    assert_eq!(field("x-uri"), ["/a/b?c=d"]);
    assert_eq!(field("x-authorization"), ["Bearer x"]);
    assert_eq!(field("set-cookie"), ["a", "b"]);
    let (pieces, end) = receive_all(&mut connections, 4).await;
    assert!(pieces.iter().all(|piece| piece.len() <= 4));
    assert_eq!((pieces.concat(), end), (b"0123456789".to_vec(), None));
    assert_eq!(connections.http_poll(HANDLE), Err(TransportError::Closed), "the handle ended with the body");
    assert_eq!(connections.open_count(), 0);
}

#[tokio::test]
async fn redirects_are_left_to_the_stub() {
    let base = serve_http(Router::new().route("/", get(async || Redirect::temporary("http://127.0.0.1:1/elsewhere")))).await;
    let mut connections = connections();
    connections.http_send(HANDLE, get_of(base), None).unwrap();
    let head = head(&mut connections).await.unwrap();
    assert_eq!(head.status, 307);
    assert!(head.headers.contains(&("location".to_owned(), "http://127.0.0.1:1/elsewhere".to_owned())));
    assert_eq!(receive_all(&mut connections, 10).await, (Vec::new(), None));
}

#[tokio::test]
async fn body_arrives_piece_by_piece() {
    let (send, pieces) = mpsc::channel::<&'static [u8]>(1);
    let pieces = std::sync::Mutex::new(Some(pieces));
    let body = async move || {
        let pieces = pieces.lock().unwrap().take().unwrap();
        Body::from_stream(stream::unfold(pieces, async |mut pieces| {
            Some((Ok::<_, std::io::Error>(Bytes::from(pieces.recv().await?)), pieces))
        }))
    };
    let body = Arc::new(body);
    let base = serve_http(Router::new().route("/", get(move || async move { body().await }))).await;
    let mut connections = connections();
    connections.http_send(HANDLE, get_of(base), None).unwrap();
    assert_eq!(head(&mut connections).await.unwrap().status, 200);
    for piece in ["one", "two", "three"] {
        assert_eq!(connections.http_receive(HANDLE, 100), Ok(Some(Vec::new())));
        send.send(piece.as_bytes()).await.unwrap();
        assert_eq!(next_ready(&mut connections).await, HANDLE);
        assert_eq!(connections.http_receive(HANDLE, 100), Ok(Some(piece.into())));
    }
    drop(send);
    assert_eq!(receive_all(&mut connections, 100).await, (Vec::new(), None));
}

#[tokio::test]
async fn unfetched_data_stops_reading() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1_000;
    let (blocked, was_blocked) = oneshot::channel();
    let (port, server) = serve(async move |mut tcp| {
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES);
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut blocked = Some(blocked);
        for n in 0..PIECES {
            let piece = vec![n as u8; PIECE];
            let mut write = pin!(tcp.write_all(&piece));
            let mut tries = 0;
            poll_fn(|cx| {
                let result = write.as_mut().poll(cx);
                tries += usize::from(result.is_pending());
                if tries > 50
                    && let Some(blocked) = blocked.take()
                {
                    blocked.send(n).unwrap();
                } else if result.is_pending() && blocked.is_some() {
                    cx.waker().wake_by_ref();
                }
                result
            })
            .await
            .unwrap();
        }
    })
    .await;
    let mut connections = connections();
    connections.http_send(HANDLE, get_of(format!("http://127.0.0.1:{port}")), None).unwrap();
    assert_eq!(head(&mut connections).await.unwrap().status, 200);
    let sent = drive(&mut connections, was_blocked).await.0.unwrap();
    assert!(sent < PIECES / 2, "{sent} pieces");
    let (pieces, end) = receive_all(&mut connections, u32::MAX).await;
    assert_eq!((pieces.iter().map(Vec::len).sum::<usize>(), end), (PIECE * PIECES, None));
    server.await.unwrap();
}

#[tokio::test]
async fn invalid_request_fails_at_once() {
    let mut connections = connections();
    let mut check = |method: &str, url: &str, header: (&str, &str), body_bytes: usize, expected: &str| {
        let headers = vec![(header.0.to_owned(), header.1.to_owned())];
        let request = Request { method: method.to_owned(), url: url.to_owned(), headers, body: vec![0; body_bytes] };
        let error = connections.http_send(HANDLE, request, None).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(connections.http_poll(HANDLE), Err(TransportError::Closed), "the handle refers to no exchange");
    };
    let here = "http://127.0.0.1/";
    check("GE T", here, ("a", "b"), 0, "invalid: `GE T` is not a method (RFC 9110 section 9.1)");
    check("CONNECT", here, ("a", "b"), 0, "invalid: a stub cannot use the method CONNECT");
    check("GET", "/path", ("a", "b"), 0, "invalid: the URL of a request cannot be read: relative URL without a base");
    check(
        "GET",
        "ftp://127.0.0.1/",
        ("a", "b"),
        0,
        "invalid: `ftp://127.0.0.1/` is invalid: the scheme is neither https nor http",
    );
    check("GET", here, ("Host", "b"), 0, "invalid: `Host` is invalid: this header is set by the host alone");
    check(
        "GET",
        here,
        ("transfer-encoding", "b"),
        0,
        "invalid: `transfer-encoding` is invalid: this header is set by the host alone",
    );
    check(
        "GET",
        here,
        ("a", &"b".repeat(64 << 10)),
        0,
        "limit: a request's head of 65537 bytes is 1 bytes over the limit of 65536",
    );
    check(
        "PUT",
        here,
        ("a", "b"),
        (1 << 20) + 1,
        "limit: a request's body of 1048577 bytes is 1 bytes over the limit of 1048576",
    );
    check(
        "GET",
        "https://sp2.example/",
        ("a", "b"),
        0,
        "denied: `sp2.example:443` is refused: no rule names this host; grant `sp2.example:443` to allow it",
    );
}

#[tokio::test]
async fn failure_names_target_and_cause() {
    let mut connections = connections();
    let port = dead_port().await;
    connections.http_send(HANDLE, get_of(format!("http://127.0.0.1:{port}/a?token=secret")), None).unwrap();
    let how = error_of(head(&mut connections).await);
    assert!(how.starts_with(&format!("failed to exchange HTTP with `http://127.0.0.1:{port}/a`: ")), "{how}");
    assert!(!how.contains("secret"), "{how}");
    assert_eq!(connections.http_receive(HANDLE, 1), Err(TransportError::Io(how)), "the state is final");
    connections.http_cancel(HANDLE);
    assert_eq!(connections.http_poll(HANDLE), Err(TransportError::Closed));
}

/// Sends a request to a server that answers with these bytes and ends the connection.
async fn answered(connections: &mut Connections, answer: &[u8]) -> u16 {
    let answer = answer.to_vec();
    let (port, _server) = serve(async move |mut tcp| {
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await.unwrap();
        let _ = tcp.write_all(&answer).await;
    })
    .await;
    connections.http_send(HANDLE, get_of(format!("http://127.0.0.1:{port}/a?token=secret")), None).unwrap();
    port
}

#[tokio::test]
async fn head_size_is_limited() {
    let mut connections = connections();
    let answer = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let port = answered(&mut connections, answer.as_bytes()).await;
    let expected =
        format!("GET http://127.0.0.1:{port}/a failed: a response's head of 70001 bytes is 4465 bytes over the limit of 65536");
    assert_eq!(error_of(head(&mut connections).await), expected);
}

#[tokio::test]
async fn interrupted_body_is_a_failure() {
    let mut connections = connections();
    let port = answered(&mut connections, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    assert_eq!(head(&mut connections).await.unwrap().status, 200);
    let (pieces, end) = receive_all(&mut connections, 100).await;
    assert_eq!(pieces.concat(), b"half");
    let Some(TransportError::Io(how)) = end else { panic!("{end:?}") };
    assert!(how.starts_with(&format!("the answer to GET http://127.0.0.1:{port}/a broke off: ")), "{how}");
    assert_eq!(connections.http_poll(HANDLE).unwrap().unwrap().status, 200, "the head stays available");
}

#[tokio::test]
async fn head_times_out() {
    let (port, was_accepted) = serve_nothing().await;
    let mut connections = connections();
    connections.http_send(HANDLE, get_of(format!("http://127.0.0.1:{port}/a")), None).unwrap();
    drive(&mut connections, was_accepted).await.0.unwrap();
    tokio::time::pause();
    assert_eq!(error_of(head(&mut connections).await), format!("GET http://127.0.0.1:{port}/a got no answer within 30s"));
}

#[tokio::test]
async fn cancel_ends_connection_and_events() {
    let (dropped, was_dropped) = oneshot::channel::<()>();
    let state = Arc::new(std::sync::Mutex::new(Some(dropped)));
    let endless = async move || {
        let held = state.lock().unwrap().take();
        let body = stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1000]))
        });
        Body::from_stream(body.boxed()).into_response()
    };
    let endless = Arc::new(endless);
    let base = serve_http(Router::new().route("/", get(move || async move { endless().await }))).await;
    let mut connections = connections();
    connections.http_send(HANDLE, get_of(base), None).unwrap();
    assert_eq!(head(&mut connections).await.unwrap().status, 200);
    connections.http_cancel(HANDLE);
    assert_eq!(connections.http_receive(HANDLE, 1), Err(TransportError::Closed));
    let (gone, ready) = drive(&mut connections, was_dropped).await;
    assert!(gone.is_err(), "the server's body was dropped");
    assert_eq!(ready, Vec::<u32>::new());
}

/// Starts a server that answers each request of each connection with these bytes. Returns its port
/// and a channel: `true` for each accepted connection, `false` for each request.
async fn serve_answers(answer: Vec<u8>) -> (u16, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (tell, answer) = (tell.clone(), answer.clone());
            let _ = tell.send(true);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while tcp.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let _ = tell.send(false);
                    if tcp.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, told)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Does a whole exchange. Returns its body or its error.
async fn exchange(connections: &mut Connections, port: u16) -> Result<Vec<u8>, String> {
    connections.http_send(HANDLE, get_of(format!("http://127.0.0.1:{port}/a")), None).unwrap();
    let outcome = match head(connections).await {
        Ok(_) => match receive_all(connections, 1 << 20).await {
            (pieces, None) => Ok(pieces.concat()),
            (_, Some(error)) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    connections.http_cancel(HANDLE);
    outcome
}

/// Counts the connections and requests of a server since the last call.
fn counted(told: &mut mpsc::UnboundedReceiver<bool>) -> (usize, usize) {
    let mut counts = (0, 0);
    while let Ok(connection) = told.try_recv() {
        if connection { counts.0 += 1 } else { counts.1 += 1 }
    }
    counts
}

#[tokio::test]
async fn informational_responses_over_limit_fail_exchange() {
    let mut connections = connections();
    let early = |count: usize| [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(count), OK.to_vec()].concat();
    let (port, _told) = serve_answers(early(8)).await;
    assert_eq!(exchange(&mut connections, port).await, Ok(b"ok".to_vec()));
    for count in [9, 50_000] {
        let (port, _told) = serve_answers(early(count)).await;
        let expected = format!(
            "failed to exchange HTTP with `http://127.0.0.1:{port}/a`: the server sent more informational responses (1xx) than \
             the limit of 8"
        );
        assert_eq!(exchange(&mut connections, port).await, Err(expected));
    }
}

#[tokio::test]
async fn head_or_trailers_without_end_fail_exchange() {
    let mut connections = connections();
    let fields = |count: usize| b"x-more: and more\r\n".repeat(count);
    let long = [b"x: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    for more in [fields(100_000), fields(257), long] {
        let (port, _told) = serve_answers([b"HTTP/1.1 200 OK\r\n".to_vec(), more, b"\r\n\r\n".to_vec()].concat()).await;
        let expected =
            format!("GET http://127.0.0.1:{port}/a failed: a response's head is over the limit of 65536 bytes or 256 fields");
        assert_eq!(exchange(&mut connections, port).await, Err(expected));
    }

    let chunked = |trailers: Vec<u8>| {
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n".to_vec(), trailers, b"\r\n".to_vec()].concat()
    };
    let (port, _told) = serve_answers(chunked(fields(3))).await;
    assert_eq!(exchange(&mut connections, port).await, Ok(b"ok".to_vec()));
    let (port, _told) = serve_answers(chunked(fields(100_000))).await;
    let how = exchange(&mut connections, port).await.unwrap_err();
    assert!(how.starts_with(&format!("the answer to GET http://127.0.0.1:{port}/a broke off: ")), "{how}");
}

#[tokio::test]
async fn heads_count_towards_bytes_of_a_second() {
    let limits = TransportLimits { bytes_in_per_second: 100_000, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let answer = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(60_000));
    let (port, _told) = serve_answers(answer.into_bytes()).await;
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        exchange(&mut connections, port).await.unwrap();
    }
    // A second's share comes at once. The last head must wait for the one before it.
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert!(connections.take_throttled().0 > 0);
}

#[tokio::test]
async fn requests_count_towards_bytes_of_a_second() {
    let limits = TransportLimits { bytes_out_per_second: 100_000, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    let (port, _told) = serve_answers(OK.to_vec()).await;
    let mut request = get_of(format!("http://127.0.0.1:{port}/"));
    request.headers.push(("x".to_owned(), "a".repeat(60_000)));
    for _ in 0..4 {
        connections.http_send(HANDLE, request.clone(), None).unwrap();
        head(&mut connections).await.unwrap();
        receive_all(&mut connections, 100).await;
    }
    assert!(connections.take_throttled().1 > 0);
}

#[tokio::test]
async fn idle_connections_are_reused_and_bounded() {
    let mut connections = connections();
    let mut servers = Vec::new();
    for _ in 0..2 * MAX_IDLE {
        let (port, mut told) = serve_answers(OK.to_vec()).await;
        for _ in 0..3 {
            assert_eq!(exchange(&mut connections, port).await, Ok(b"ok".to_vec()));
        }
        assert_eq!(counted(&mut told), (1, 3), "three requests over one connection");
        servers.push((port, told));
        assert!(connections.idle.len() <= MAX_IDLE);
    }
    assert_eq!((connections.open_count(), connections.idle.len()), (0, MAX_IDLE));
    // The oldest connections were closed.
    for (n, (port, told)) in servers.iter_mut().enumerate().rev() {
        exchange(&mut connections, *port).await.unwrap();
        assert_eq!(counted(told).0, usize::from(n < MAX_IDLE), "server {n}");
    }
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let limits = TransportLimits { connections: 2, ..TransportLimits::default() };
    let mut connections = connections_with(limits, EgressConfig::default());
    for _ in 0..3 {
        let (port, _told) = serve_answers(OK.to_vec()).await;
        exchange(&mut connections, port).await.unwrap();
    }
    assert_eq!(connections.idle.len(), 2);
    let (port, _accepted) = serve_nothing().await;
    connections.tcp_open(1, "127.0.0.1", port, Protection::Plain).unwrap();
    assert_eq!(connections.idle.len(), 1, "two places: one for the connection");
    connections.tcp_open(2, "127.0.0.1", port, Protection::Plain).unwrap();
    assert_eq!(connections.idle.len(), 0);
    assert!(matches!(connections.tcp_open(3, "127.0.0.1", port, Protection::Plain), Err(TransportError::Limit(_))));
}

#[tokio::test]
async fn idle_connections_close_in_time() {
    let mut connections = connections();
    let (port, _told) = serve_answers(OK.to_vec()).await;
    exchange(&mut connections, port).await.unwrap();
    assert_eq!(connections.idle.len(), 1);
    tokio::time::pause();
    drive(&mut connections, tokio::time::sleep(Duration::from_secs(31))).await;
    assert_eq!(connections.idle.len(), 0, "no request used the connection");
}

#[tokio::test]
async fn closed_idle_connection_is_replaced() {
    let mut connections = connections();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (closed, mut was_closed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = tcp.read(&mut request).await.unwrap();
            tcp.write_all(OK).await.unwrap();
            drop(tcp);
            closed.send(()).unwrap();
        }
    });
    for _ in 0..5 {
        assert_eq!(exchange(&mut connections, port).await, Ok(b"ok".to_vec()));
        was_closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn sent_request_is_not_repeated() {
    let mut connections = connections();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = tcp.read(&mut request).await.unwrap();
        tcp.write_all(OK).await.unwrap();
        // Reads the second request without answering it.
        assert!(tcp.read(&mut request).await.unwrap() > 0);
        drop(tcp);
        listener
    });
    assert_eq!(exchange(&mut connections, port).await, Ok(b"ok".to_vec()));
    let how = exchange(&mut connections, port).await.unwrap_err();
    assert!(how.ends_with("connection closed before message completed"), "{how}");
    let listener = server.await.unwrap();
    let again = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_ready())).await;
    assert!(!again, "the request was sent once");
}

#[tokio::test]
async fn request_goes_on_after_an_early_answer() {
    const BODY: usize = 1 << 20;
    let (port, server) = serve(async |mut tcp| {
        let mut first = [0; 1024];
        let mut received = tcp.read(&mut first).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nearl").await.unwrap();
        let mut more = vec![0; 1 << 16];
        while received < BODY {
            let read = tcp.read(&mut more).await.unwrap();
            assert!(read > 0, "the connection ended after {received} bytes");
            received += read;
        }
    })
    .await;
    let mut connections = connections();
    let request = Request { body: vec![b'x'; BODY], method: "POST".to_owned(), ..get_of(format!("http://127.0.0.1:{port}/")) };
    connections.http_send(HANDLE, request, None).unwrap();
    assert_eq!(head(&mut connections).await.unwrap().status, 200);
    assert_eq!(receive_all(&mut connections, 100).await, (vec![b"earl".to_vec()], None));
    drive(&mut connections, server).await.0.unwrap();
}

#[tokio::test]
async fn answers_without_a_body_end_at_once() {
    let mut connections = connections();
    for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"] {
        let (port, mut told) = serve_answers(answer.as_bytes().to_vec()).await;
        for _ in 0..2 {
            assert_eq!(exchange(&mut connections, port).await, Ok(Vec::new()), "{answer}");
        }
        assert_eq!(counted(&mut told), (1, 2), "{answer}");
    }
    // A response of HTTP/1.0 ends with the connection.
    let port = answered(&mut connections, b"HTTP/1.0 200 OK\r\n\r\nold").await;
    assert_eq!(head(&mut connections).await.unwrap().status, 200, "{port}");
    assert_eq!(receive_all(&mut connections, 100).await, (vec![b"old".to_vec()], None));
    assert_eq!(connections.idle.len(), 2, "connections to the servers before");
}
