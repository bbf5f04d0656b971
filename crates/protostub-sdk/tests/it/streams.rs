//! Connections: WebSockets, HTTP exchanges, TCP.

use std::{rc::Rc, time::Duration};

use protostub_sdk::{
    Error, Ignored, Message, MessageType, Result, Stub, http, identity, join, log, select,
    tcp::{self, TcpStream},
    testing::{Host, ServerConnection},
    time,
    websocket::{self, CloseReason, Frame},
};
use serde_json::json;

fn text(text: &str) -> Frame {
    Frame::Text(text.into())
}

#[test]
fn websocket_send_waits_for_room() {
    async fn flood(_: Stub, _: Ignored) -> Result<()> {
        let socket = websocket::Connect::new("wss://sp1.example/").protocol("rethink").open().await?;
        log::info!("{:?}", socket.handshake().protocol);
        let send = async {
            socket.send_all((0..5).map(|number| text(&number.to_string()))).await?;
            socket.send_json(&json!({ "last": true })).await
        };
        let receive = async {
            loop {
                match socket.next().await {
                    Ok(frame) => log::info!("{frame:?}"),
                    Err(error) => return error,
                }
            }
        };
        let (sent, received) = join!(send, receive);
        log::info!("{sent:?} {received}");
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(flood, json!({})).unwrap();
    host.connect();
    let server = host.websocket();
    assert_eq!(server.protocols(), ["rethink"]);
    server.set_room(Some(2));
    server.accept_with(Some("rethink"));
    assert_eq!(server.received(), [text("0"), text("1")]);
    // Frames that arrive meanwhile are received.
    server.send_all([text("a"), Frame::Binary(vec![1])]);
    server.set_room(Some(1));
    assert_eq!(server.received(), [text("2")]);
    server.set_room(None);
    assert_eq!(server.received(), [text("3"), text("4"), text(r#"{"last":true}"#)]);
    server.close(Some(4000), "enough");
    assert_eq!(host.log(), [r#"INFO Some("rethink")"#, r#"INFO Text("a")"#, "INFO Binary([1])", "INFO Ok(()) enough"]);
}

#[test]
fn websocket_that_fails_to_open_reports_why() {
    async fn open(_: Stub, _: Ignored) -> Result<()> {
        let error = websocket::connect("wss://sp1.example/").await.unwrap_err();
        Err(Error::failed(format!("{error:?}")))
    }
    let check = |answer: fn(&protostub_sdk::testing::ServerSocket), expected: Error| {
        let host = Host::new();
        host.start(open, json!({})).unwrap();
        host.connect();
        answer(&host.websocket());
        assert_eq!(host.statuses().last().unwrap(), &format!("failed: {expected:?}"));
    };
    check(|server| server.refuse(403), Error::Refused(403));
    check(|server| server.fail("no route"), Error::Io("no route".into()));
    check(|server| server.close(None, ""), Error::WebSocketClosed(CloseReason::default()));
}

#[test]
fn credential_reference_goes_only_to_granted_origins() {
    async fn refer(_: Stub, _: Ignored) -> Result<()> {
        let room = http::Request::get("https://sp1.example/rooms").authorized().send().await?;
        log::info!("{}", room.status());
        let elsewhere = http::Request::get("https://sp1.example.evil.example/").authorized().send().await;
        log::info!("{}", elsewhere.unwrap_err());
        log::info!("{}", identity::request(None).await.unwrap_err());
        let _socket = websocket::Connect::new("wss://sp1.example/ws").authorized_for("chat").open().await?;
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.credential_goes_to(["https://sp1.example", "wss://sp1.example"]);
    host.start(refer, json!({})).unwrap();
    host.connect();
    let request = host.http();
    assert_eq!(request.header("authorization"), Some("{credential}"));
    request.respond(204, b"");
    let socket = host.websocket();
    assert_eq!(socket.header("authorization").as_deref(), Some("{credential chat}"));
    socket.accept();
    let log = host.log();
    assert_eq!(log[0], "INFO 204");
    assert!(log[1].contains("does not go to https://sp1.example.evil.example/"), "{log:?}");
    assert!(log[2].contains("by reference only"), "{log:?}");
}

#[test]
fn http_answers_come_in_parts_and_are_bounded() {
    async fn exchange(_: Stub, _: Ignored) -> Result<()> {
        let request = http::Request::post("https://sp1.example/rooms").json(&json!({ "name": "a" }))?;
        let response = request.send().await?;
        log::info!("{} {:?}", response.status(), response.header("location"));
        let body: serde_json::Value = response.json(100).await?;
        log::info!("{body}");
        let long = http::Request::get("https://sp1.example/long").send().await?;
        log::info!("{:?}", long.bytes(100).await);
        let broken = http::Request::get("https://sp1.example/broken").send().await;
        log::info!("{:?}", broken.map(|response| response.status()));
        let late = time::timeout(Duration::from_secs(5), http::Request::get("https://sp1.example/late").send()).await;
        assert!(matches!(late, Err(Error::Timeout)));
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(exchange, json!({})).unwrap();
    host.connect();
    let rooms = host.http();
    assert_eq!((rooms.method(), rooms.url(), rooms.body()), ("POST", "https://sp1.example/rooms", br#"{"name":"a"}"#.as_slice()));
    assert_eq!(rooms.header("content-type"), Some("application/json"));
    rooms.head(201, &[("Location", "/rooms/a")]);
    rooms.send(br#"{"id""#);
    rooms.send(b":1}");
    rooms.end();
    assert_eq!(host.log(), [r#"INFO 201 Some("/rooms/a")"#, r#"INFO {"id":1}"#]);
    let long = host.http();
    long.respond(200, &[0; 101]);
    assert!(long.is_over());
    host.http().fail("connection reset");
    assert_eq!(host.log(), [r#"INFO Err(Limit("the response has more than 100 bytes"))"#, r#"INFO Err(Io("connection reset"))"#]);
    let late = host.http();
    host.advance(Duration::from_secs(5));
    assert!(late.is_over());
    assert_eq!((host.statuses().last().unwrap().as_str(), host.connections()), ("failed: done", 0));
}

#[test]
fn tcp_upgrades_to_tls_and_ends() {
    async fn converse(_: Stub, _: Ignored) -> Result<()> {
        let stream = tcp::connect_plain("sp1.example", 5222).await?;
        stream.write_all(b"starttls").await?;
        assert_eq!(stream.read().await?.as_deref(), Some(b"proceed".as_slice()));
        let stream = stream.start_tls("sp1.example").await?;
        stream.write_all(b"a long stanza").await?;
        while let Some(bytes) = stream.read().await? {
            log::info!("{}", String::from_utf8_lossy(&bytes));
        }
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(converse, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    assert_eq!((server.address(), server.tls()), (("sp1.example".into(), 5222), None));
    server.accept();
    assert_eq!(server.received(), b"starttls");
    server.send(b"proceed");
    assert_eq!(server.tls().as_deref(), Some("sp1.example"));
    server.set_room(Some(6));
    server.accept();
    assert_eq!(server.received(), b"a long");
    server.set_room(None);
    assert_eq!(server.received(), b" stanza");
    server.send(b"one");
    server.send(b"two");
    server.close();
    assert_eq!(host.log(), ["INFO one", "INFO two"]);
    assert!(server.is_closed_by_stub());
    assert_eq!(host.statuses().last().unwrap(), "failed: done");
}

#[test]
fn tcp_stream_works_with_foreign_libraries() {
    use futures_util::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    async fn lines(_: Stub, _: Ignored) -> Result<()> {
        let stream = tcp::connect("sp1.example", 8883).await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.map_err(Error::other)? > 0 {
            stream.get_mut().write_all(std::mem::take(&mut line).as_bytes()).await.map_err(Error::other)?;
        }
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(lines, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    assert_eq!(server.tls().as_deref(), Some("sp1.example"));
    server.accept();
    server.send(b"one\ntw");
    assert_eq!(server.received(), b"one\n");
    server.send(b"o\n");
    assert_eq!(server.received(), b"two\n");
    server.close();
    assert_eq!(host.statuses().last().unwrap(), "failed: done");
}

/// Starts a stub that logs all texts that `read` returns.
fn tcp_reader<F, Fut>(read: F) -> (Host, ServerConnection)
where
    F: Fn(Rc<TcpStream>) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<Option<String>>> + 'static,
{
    let run = move |_: Stub, _: Ignored| {
        let read = read.clone();
        async move {
            let stream = Rc::new(tcp::connect("sp1.example", 8883).await?);
            loop {
                match read(Rc::clone(&stream)).await {
                    Ok(Some(text)) => log::info!("{text}"),
                    Ok(None) => return Err(Error::failed("the end")),
                    Err(error) => return Err(Error::failed(format!("{error:?}"))),
                }
            }
        }
    };
    let host = Host::new();
    host.start(run, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    server.accept();
    (host, server)
}

#[test]
fn tcp_lines_arrive_whole_when_cut_anywhere() {
    let (host, server) = tcp_reader(|stream| async move { stream.read_line(8).await });
    for byte in b"one\r\n\nt\xc3\xa4\n" {
        server.send(&[*byte]);
    }
    server.send(b"1234567\n1\n2\r\n");
    assert_eq!(host.log(), ["INFO one", "INFO ", "INFO tä", "INFO 1234567", "INFO 1", "INFO 2"]);
    server.close();
    assert_eq!(host.statuses().last().unwrap(), "failed: the end");
}

#[test]
fn tcp_line_when_wrong_is_an_error() {
    let check = |bytes: &[u8], expected: &str| {
        let (host, server) = tcp_reader(|stream| async move { stream.read_line(8).await });
        server.send(bytes);
        server.close();
        let status = host.statuses().pop().unwrap();
        assert!(status.starts_with(expected), "{status}");
        assert_eq!(host.connections(), 0);
    };
    check(b"12345678\n", "failed: Limit(");
    check(b"12345678", "failed: Limit(");
    check(b"\xff\n", "failed: Invalid(");
    check(b"one\ntwo", "failed: Io(\"the server closed the connection after 3 bytes");
}

#[test]
fn tcp_line_after_a_wrong_one_can_be_read() {
    async fn read(_: Stub, _: Ignored) -> Result<()> {
        let stream = tcp::connect("sp1.example", 8883).await?;
        assert!(matches!(stream.read_line(8).await, Err(Error::Invalid(_))));
        assert!(matches!(stream.read_line(2).await, Err(Error::Limit(_))));
        assert_eq!(stream.read_line(4).await?.as_deref(), Some("one"));
        assert_eq!(stream.read_until(b';', 8).await?.as_deref(), Some(b"a;".as_slice()));
        assert_eq!(stream.read_exact(0).await?.as_deref(), Some(b"".as_slice()));
        assert_eq!(stream.read_exact(2).await?.as_deref(), Some(b"bc".as_slice()));
        assert_eq!(stream.read().await?.as_deref(), Some(b"rest".as_slice()));
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(read, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    server.accept();
    server.send(b"\xff\none\na;bcrest");
    assert_eq!(host.statuses().last().unwrap(), "failed: done");
}

#[test]
fn tcp_frames_are_as_long_as_they_say() {
    let read = |stream: Rc<TcpStream>| async move {
        let length = |bytes: &[u8]| Ok(bytes.first_chunk().map(|prefix| 2 + usize::from(u16::from_be_bytes(*prefix))));
        let frame = stream.read_frame(6, length).await?;
        Ok(frame.map(|frame| String::from_utf8_lossy(&frame[2..]).into_owned()))
    };
    let (host, server) = tcp_reader(read);
    server.send(b"\0\x02ab\0\0\0");
    server.send(b"\x04");
    server.send(b"abcd\0\x05");
    assert_eq!(host.log(), ["INFO ab", "INFO ", "INFO abcd"]);
    let status = host.statuses().pop().unwrap();
    assert_eq!(status, "failed: Limit(\"the server sends 7 bytes at once; at most 6 are read\")");

    let unending = |stream: Rc<TcpStream>| async move { Ok(stream.read_frame(3, |_| Ok(None)).await?.map(|_| String::new())) };
    let (host, server) = tcp_reader(unending);
    server.send(b"abc");
    assert!(host.statuses().pop().unwrap().starts_with("failed: Limit("));

    let empty = |stream: Rc<TcpStream>| async move { Ok(stream.read_frame(3, |_| Ok(Some(0))).await?.map(|_| String::new())) };
    let (host, server) = tcp_reader(empty);
    server.send(b"abc");
    assert!(host.statuses().pop().unwrap().starts_with("failed: Invalid("));
}

#[test]
fn tcp_futures_that_lose_a_race_lose_nothing() {
    async fn race(stub: Stub, _: Ignored) -> Result<()> {
        let stream = tcp::connect("sp1.example", 8883).await?;
        stub.live();
        let mut left = b"abcdef".as_slice();
        loop {
            select! {
                message = stub.next_message() => { message?; }
                line = stream.read_line(64) => match line? {
                    Some(line) => log::info!("{line}"),
                    None => return Err(Error::failed("done")),
                },
                written = stream.write(left) => left = &left[written?..],
            }
            if left.is_empty() {
                left = b"!";
            }
        }
    }
    let host = Host::new();
    host.start(race, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    server.set_room(Some(0));
    server.accept();
    let ping =
        || Message::new(MessageType::from("ping"), "hyperty://sp1.example/b").with_from("hyperty://home.example/a").with_id(7);
    let mut written = Vec::new();
    for byte in b"one\ntwo\nthree\n" {
        host.deliver(ping());
        server.send(&[*byte]);
        host.deliver(ping());
        // Room for one byte at a time.
        server.set_room(Some(1));
        written.extend(server.received());
    }
    assert_eq!(host.log(), ["INFO one", "INFO two", "INFO three"]);
    assert_eq!(written, b"abcdef!!!!!!!!");
}

#[test]
fn tcp_bytes_before_tls_end_the_connection() {
    async fn upgrade(_: Stub, _: Ignored) -> Result<()> {
        let stream = tcp::connect_plain("sp1.example", 5222).await?;
        assert_eq!(stream.read_line(64).await?.as_deref(), Some("proceed"));
        stream.start_tls("sp1.example").await.map(drop).map_err(Error::failed)
    }
    let host = Host::new();
    host.start(upgrade, json!({})).unwrap();
    host.connect();
    let server = host.tcp();
    server.accept();
    server.send(b"proceed\r\nforged\r\n");
    assert_eq!((server.tls(), server.is_closed_by_stub()), (None, true));
    assert_eq!(host.statuses().pop().unwrap(), "failed: the server sent 8 unprotected bytes before TLS began");
}

#[test]
fn connections_are_limited_to_16() {
    async fn open(_: Stub, _: Ignored) -> Result<()> {
        let opened = (0..17).map(|_| Box::pin(websocket::connect("wss://sp1.example/")));
        let (error, ..) = futures_util::future::select_all(opened).await;
        Err(Error::failed(error.unwrap_err()))
    }
    let host = Host::new();
    host.start(open, json!({})).unwrap();
    host.connect();
    assert_eq!(host.statuses().last().unwrap(), "failed: over a limit: more than 16 connections");
    assert_eq!(host.connections(), 0);
}
