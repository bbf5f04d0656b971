mod opening;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{Message, protocol::CloseFrame},
};

use super::*;

const HANDLE: u32 = 7;

type Server = WebSocketStream<TcpStream>;

/// Serves one WebSocket connection, and opens it.
async fn open<T, F>(connections: &mut Connections, server: impl FnOnce(Server) -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    open_as(connections, HANDLE, server).await
}

pub(super) async fn open_as<T, F>(
    connections: &mut Connections,
    handle: u32,
    server: impl FnOnce(Server) -> F + Send + 'static,
) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let (port, task) = serve(async move |tcp| server(accept_async(tcp).await.unwrap()).await).await;
    connections.websocket_open(handle, &format!("ws://127.0.0.1:{port}/chat?token=secret"), &[], &[], None).unwrap();
    assert_eq!(connections.websocket_poll(handle), WebSocketState::Connecting);
    assert_eq!(next_ready(connections).await, handle);
    assert_ne!(connections.websocket_poll(handle), WebSocketState::Connecting);
    task
}

/// Receives all frames until the connection ends, in batches. Returns them and the final error.
async fn receive_all(connections: &mut Connections, max_frames: u32, max_bytes: u32) -> (Vec<Frame>, TransportError) {
    let mut frames = Vec::new();
    let end = ask(connections, HANDLE, |connections| {
        loop {
            match connections.websocket_receive(HANDLE, max_frames, max_bytes) {
                Ok(more) if more.is_empty() => return None,
                Ok(more) => {
                    assert!(more.len() <= max_frames as usize);
                    let bytes: usize = more.iter().map(length).sum();
                    assert!(bytes <= max_bytes as usize || more.len() == 1, "{bytes} bytes in {} frames", more.len());
                    frames.extend(more);
                }
                Err(end) => return Some(end),
            }
        }
    })
    .await;
    (frames, end)
}

fn length(frame: &Frame) -> usize {
    match frame {
        Frame::Text(text) => text.len(),
        Frame::Binary(bytes) => bytes.len(),
    }
}

fn text(text: impl Into<String>) -> Frame {
    Frame::Text(text.into())
}

fn closed(code: impl Into<Option<u16>>, reason: &str) -> WebSocketState {
    WebSocketState::Closed(CloseReason { code: code.into(), reason: reason.to_owned() })
}

/// Sends all frames, waiting for room.
async fn send_all(connections: &mut Connections, mut frames: Vec<Frame>) {
    ask(connections, HANDLE, |connections| {
        match connections.websocket_send(HANDLE, frames.clone()) {
            Ok(taken) => drop(frames.drain(..taken as usize)),
            Err(error) => assert_eq!(error, TransportError::Busy),
        }
        frames.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn frames_keep_their_order_in_batches_of_any_size() {
    let sent: Vec<Frame> =
        (0..500).map(|n| if n % 3 == 0 { Frame::Binary(vec![n as u8; n]) } else { text(format!("{n} ü")) }).collect();
    for (max_frames, max_bytes) in [(1, 1), (7, 10_000), (100, 300), (u32::MAX, u32::MAX)] {
        let mut connections = connections();
        let server = open(&mut connections, async |mut socket| {
            for _ in 0..500 {
                let message = socket.next().await.unwrap().unwrap();
                socket.send(message).await.unwrap();
            }
            socket.close(None).await.unwrap();
        })
        .await;
        assert_eq!(connections.websocket_send(HANDLE, sent.clone()), Ok(500));
        let (frames, end) = receive_all(&mut connections, max_frames, max_bytes).await;
        assert_eq!(frames, sent);
        assert_eq!(end, TransportError::Closed);
        assert_eq!(connections.websocket_poll(HANDLE), closed(None, ""));
        server.await.unwrap();
    }
}

#[tokio::test]
async fn ready_is_sent_once_until_the_stub_asks() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        for n in 0..10 {
            socket.send(Message::text(n.to_string())).await.unwrap();
        }
        gone.await.unwrap();
        socket.send(Message::text("later")).await.unwrap();
        // Comes after all data frames, and is answered only after they are read.
        socket.send(Message::Ping("over".into())).await.unwrap();
        while !socket.next().await.unwrap().unwrap().is_pong() {}
        socket
    })
    .await;
    // The stub has not asked since the connection was opened, so there is one change.
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    go.send(()).unwrap();
    let mut received = Vec::new();
    let mut readies = 0;
    let (socket, ready) = {
        let mut server = server;
        loop {
            // Each `ready` leads to one call, which takes only a part of the frames.
            received.extend(connections.websocket_receive(HANDLE, 2, 1_000).unwrap());
            if received.len() == 11 {
                assert_eq!(connections.websocket_receive(HANDLE, 2, 1_000), Ok(Vec::new()));
                break drive(&mut connections, &mut server).await;
            }
            assert_eq!(next_ready(&mut connections).await, HANDLE);
            readies += 1;
        }
    };
    assert!((5..=11).contains(&readies), "{readies}");
    assert_eq!(ready, Vec::<u32>::new(), "a ping causes no event");
    assert_eq!(received.last(), Some(&text("later")));
    drop(socket);
}

#[tokio::test]
async fn unfetched_data_stops_reading() {
    const FRAMES: usize = 2_000;
    const FRAME: usize = 64 << 10;
    let (blocked, was_blocked) = oneshot::channel();
    let mut connections = connections();
    let server = open(&mut connections, async move |mut socket| {
        let mut blocked = Some(blocked);
        for n in 0..FRAMES {
            let mut send = pin!(socket.send(Message::binary(vec![n as u8; FRAME])));
            let mut tries = 0;
            poll_fn(|cx| {
                let result = send.as_mut().poll(cx);
                tries += usize::from(result.is_pending());
                // The socket is full, and the other side did not read during its turns.
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
        socket.close(None).await.unwrap();
    })
    .await;
    let (sent, ready) = drive(&mut connections, was_blocked).await;
    let sent = sent.unwrap();
    assert!(sent < FRAMES / 2, "it took {sent} frames");
    assert_eq!(ready, [HANDLE], "the first frame causes one event");

    // All frames arrive.
    let mut count = 0;
    let end = ask(&mut connections, HANDLE, |connections| {
        loop {
            match connections.websocket_receive(HANDLE, 16, u32::MAX) {
                Ok(frames) if frames.is_empty() => return None,
                Ok(frames) => frames.iter().for_each(|frame| {
                    assert!(matches!(frame, Frame::Binary(bytes) if bytes.len() == FRAME && bytes[0] == count as u8));
                    count += 1;
                }),
                Err(end) => return Some(end),
            }
        }
    })
    .await;
    assert_eq!((count, end), (FRAMES, TransportError::Closed));
    server.await.unwrap();
}

#[tokio::test]
async fn send_is_limited_by_waiting_bytes() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        gone.await.unwrap();
        let mut received = Vec::new();
        while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
            received.push(bytes[0]);
        }
        received
    })
    .await;
    let frame = |n: usize| Frame::Binary(vec![n as u8; 100_000]);
    // The kernel's buffers accept the first frames, and the outbox 1 MiB more.
    let mut taken = 0;
    let mut offer = 200;
    while offer == 200 {
        offer = connections.websocket_send(HANDLE, (taken..taken + 200).map(frame).collect()).unwrap_or_default() as usize;
        taken += offer;
        assert!(taken < 5_000, "the host accepts everything");
    }
    assert_eq!(connections.websocket_send(HANDLE, vec![frame(taken)]), Err(TransportError::Busy));
    let waiting = connections.websocket(HANDLE, |socket, _| socket.outbox.bytes()).unwrap();
    assert!((1 << 20..(1 << 20) + 200_000).contains(&waiting), "{waiting}");

    go.send(()).unwrap();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    send_all(&mut connections, (taken..taken + 50).map(frame).collect()).await;
    connections.websocket_close(HANDLE, 1000, "");
    let (received, ready) = drive(&mut connections, server).await;
    assert_eq!(received.unwrap(), (0..taken + 50).map(|n| n as u8).collect::<Vec<_>>());
    assert_eq!(ready, Vec::<u32>::new());
}

#[tokio::test]
async fn frame_size_is_limited() {
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| socket.next().await.unwrap().unwrap()).await;
    let frames = vec![text("small"), Frame::Binary(vec![0; (1 << 20) + 1])];
    let error = connections.websocket_send(HANDLE, frames).unwrap_err();
    assert_eq!(error.to_string(), "limit: a frame of 1048577 bytes is 1 bytes over the limit of 1048576");
    assert_eq!(connections.websocket_send(HANDLE, Vec::new()), Ok(0));
    assert_eq!(connections.websocket_send(HANDLE, vec![Frame::Binary(vec![0; 1 << 20])]), Ok(1));
    assert_eq!(drive(&mut connections, server).await.0.unwrap().len(), 1 << 20, "the refused call sent no frame");
}

/// Returns the final state for the stub when the server, after two frames, ends the connection with
/// `end`.
async fn end_with<F>(end: impl FnOnce(Server) -> F + Send + 'static) -> WebSocketState
where
    F: Future<Output = ()> + Send,
{
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        socket.send(Message::text("one")).await.unwrap();
        socket.send(Message::text("two")).await.unwrap();
        end(socket).await;
    })
    .await;
    drive(&mut connections, server).await.0.unwrap();
    let (frames, error) = receive_all(&mut connections, 1, 100).await;
    assert_eq!(frames, [text("one"), text("two")], "the stub can still receive earlier frames");
    let state = connections.websocket_poll(HANDLE);
    assert_eq!(
        error,
        if let WebSocketState::Failed(how) = &state { TransportError::Io(how.clone()) } else { TransportError::Closed }
    );
    assert_eq!(connections.websocket_send(HANDLE, vec![text("late")]), Err(error));
    state
}

async fn end_with_frame(code: u16, reason: &str) -> WebSocketState {
    let reason = reason.to_owned();
    end_with(async move |mut socket: Server| {
        socket.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn server_side_ends_map_to_states() {
    assert_eq!(end_with_frame(4001, "kicked").await, closed(4001, "kicked"));
    assert_eq!(end_with_frame(1012, "").await, closed(1012, ""));
    assert_eq!(end_with(async |mut socket| socket.send(Message::Close(None)).await.unwrap()).await, closed(None, ""));
    let without = closed(None, "the server ended the connection without a close frame");
    assert_eq!(end_with(async |socket| drop(socket)).await, without);

    let WebSocketState::Failed(how) = end_with(async |mut socket| {
        socket.get_mut().write_all(&[0xf1, 0x00]).await.unwrap();
    })
    .await
    else {
        panic!("reserved bits fail a connection")
    };
    assert!(how.contains("violated the WebSocket protocol and was closed with 1002: Reserved bits are non-zero"), "{how}");
    let WebSocketState::Failed(how) = end_with(async |mut socket| {
        socket.get_mut().write_all(&[0x81, 0x01, 0xff]).await.unwrap();
    })
    .await
    else {
        panic!("invalid UTF-8 fails a connection")
    };
    assert!(how.ends_with("violated the WebSocket protocol and was closed with 1007: a text message is not UTF-8"), "{how}");
}

#[tokio::test]
async fn reset_is_a_failure() {
    let state = end_with(async |socket| {
        socket.get_ref().set_zero_linger().unwrap();
        drop(socket);
    })
    .await;
    let WebSocketState::Failed(how) = state else { panic!("{state:?}") };
    assert!(how.starts_with("the connection to ws://127.0.0.1:") && how.contains("broke: "), "{how}");
}

#[tokio::test]
async fn oversized_message_closes_with_1009() {
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        socket.send(Message::binary(vec![1; 1 << 20])).await.unwrap();
        // The client answers before the message is complete.
        let _ = socket.send(Message::binary(vec![2; (1 << 20) + 1])).await;
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                return frame.unwrap();
            }
        }
    })
    .await;
    let (frames, end) = receive_all(&mut connections, 10, u32::MAX).await;
    assert_eq!((frames.len(), end), (1, TransportError::Closed));
    let reason = "a message of 1048577 bytes is 1 bytes over the limit of 1048576";
    assert_eq!(connections.websocket_poll(HANDLE), closed(1009, reason));
    let frame = drive(&mut connections, server).await.0.unwrap();
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1009, reason));
}

#[tokio::test]
async fn endless_fragments_close_with_1009() {
    let mut connections = connections();
    let server = open(&mut connections, async |socket| {
        let (mut reading, mut writing) = socket.into_inner().into_split();
        let endless = async {
            let mut fragment = vec![0x02, 126, 0xff, 0xff];
            fragment.resize(4 + 0xffff, b'a');
            while writing.write_all(&fragment).await.is_ok() {
                fragment[0] = 0x00;
            }
        };
        let mut answer = Vec::new();
        let ((), _) = tokio::join!(endless, reading.read_to_end(&mut answer));
        answer
    })
    .await;
    let (frames, end) = receive_all(&mut connections, 10, u32::MAX).await;
    assert_eq!((frames, end), (Vec::new(), TransportError::Closed));
    let WebSocketState::Closed(CloseReason { code: Some(1009), reason }) = connections.websocket_poll(HANDLE) else {
        panic!("not 1009")
    };
    assert!(reason.ends_with("over the limit of 1048576"), "{reason}");
    connections.websocket_close(HANDLE, 1000, "");
    // The server never ends its side, so the client drops the connection after 2 s.
    tokio::time::timeout(TEST_TIMEOUT, poll_fn(|cx| connections.poll_closed(cx))).await.unwrap();
    assert_eq!(server.await.unwrap()[0], 0x88, "a close frame");
}

#[tokio::test]
async fn empty_fragments_do_not_block_others() {
    const OTHER: u32 = 8;
    let mut connections = connections();
    let _endless = open(&mut connections, async |socket| {
        let mut tcp = socket.into_inner();
        tcp.write_all(&[0x01, 0x00]).await.unwrap();
        while tcp.write_all(&[0; 4096]).await.is_ok() {}
    })
    .await;
    let server = open_as(&mut connections, OTHER, async |mut socket| {
        for _ in 0..20 {
            let message = socket.next().await.unwrap().unwrap();
            socket.send(message).await.unwrap();
        }
    })
    .await;
    for n in 0..20 {
        assert_eq!(connections.websocket_send(OTHER, vec![text(n.to_string())]), Ok(1));
        let question = |connections: &mut Connections| {
            Some(connections.websocket_receive(OTHER, 1, 100).unwrap()).filter(|frames| !frames.is_empty())
        };
        assert_eq!(ask(&mut connections, OTHER, question).await, [text(n.to_string())]);
    }
    drive(&mut connections, server).await.0.unwrap();
}

#[tokio::test]
async fn pings_are_answered_without_the_stub() {
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        for n in 0..10_000 {
            socket.feed(Message::Ping(n.to_string().into())).await.unwrap();
            if n % 64 == 0 {
                socket.flush().await.unwrap();
            }
        }
        socket.flush().await.unwrap();
        while socket.next().await.unwrap().unwrap() != Message::Pong("9999".into()) {}
    })
    .await;
    let (done, ready) = drive(&mut connections, server).await;
    done.unwrap();
    // At most one event: the server ends the connection after the last pong.
    assert!(ready.len() <= 1, "{ready:?}");
}

fn every_second() -> TransportLimits {
    TransportLimits { ping_interval: Duration::from_secs(1), ..TransportLimits::default() }
}

#[tokio::test]
async fn silent_server_is_pinged_and_then_times_out() {
    let (go, gone) = oneshot::channel();
    let mut connections = connections_with(every_second(), EgressConfig::default());
    let server = open(&mut connections, async |mut socket| {
        // Reading answers the pings.
        tokio::select! {
            () = async { while socket.next().await.is_some_and(|message| message.unwrap().is_ping()) {} } => panic!("only pings come"),
            _ = gone => {}
        }
        std::future::pending::<()>().await;
    })
    .await;
    tokio::time::pause();
    let start = Instant::now();
    let (_, ready) = drive(&mut connections, tokio::time::sleep(Duration::from_secs(61))).await;
    assert_eq!(ready, Vec::<u32>::new(), "pings and pongs cause no events");
    assert!(matches!(connections.websocket_poll(HANDLE), WebSocketState::Open(_)), "after {:?}", start.elapsed());

    go.send(()).unwrap();
    let start = Instant::now();
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    assert!((1..=3).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let WebSocketState::Failed(how) = connections.websocket_poll(HANDLE) else { panic!("not failed") };
    assert!(how.ends_with(" was silent for 2s and did not answer a ping"), "{how}");
    server.abort();
}

#[tokio::test]
async fn slow_stub_does_not_time_out_the_server() {
    let mut connections = connections_with(every_second(), EgressConfig::default());
    let server = open(&mut connections, async |mut socket| {
        socket.send(Message::text("news")).await.unwrap();
        socket.send(Message::text("more")).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    tokio::time::pause();
    drive(&mut connections, tokio::time::sleep(Duration::from_secs(61))).await;
    assert!(matches!(connections.websocket_poll(HANDLE), WebSocketState::Open(_)));
    assert_eq!(connections.websocket_receive(HANDLE, 10, 100), Ok(vec![text("news"), text("more")]));
    server.abort();
}

#[tokio::test]
async fn close_delivers_sent_frames_and_reason() {
    async fn check(code: u16, reason: &str, expected: (u16, &str)) {
        let mut connections = connections();
        let server = open(&mut connections, async |mut socket| {
            // Arrives after the stub closed the connection.
            socket.send(Message::text("news")).await.unwrap();
            let mut received = Vec::new();
            loop {
                match socket.next().await.unwrap().unwrap() {
                    Message::Close(frame) => {
                        // Answers the close frame and ends the connection.
                        while socket.next().await.is_some() {}
                        return (received, frame.unwrap());
                    }
                    message => received.push(message.into_data()[0]),
                }
            }
        })
        .await;
        let frames: Vec<Frame> = (0..10).map(|n| Frame::Binary(vec![n; 100_000])).collect();
        assert_eq!(connections.websocket_send(HANDLE, frames), Ok(10));
        connections.websocket_close(HANDLE, code, reason);
        assert_eq!(connections.websocket_poll(HANDLE), closed(None, ""), "the handle has ended");
        assert_eq!(connections.websocket_receive(HANDLE, 1, 1), Err(TransportError::Closed));
        assert_eq!(connections.websocket_send(HANDLE, Vec::new()), Err(TransportError::Closed));
        let (result, ready) = drive(&mut connections, server).await;
        assert_eq!(ready, Vec::<u32>::new());
        let (received, frame) = result.unwrap();
        assert_eq!(received, (0..10).collect::<Vec<u8>>());
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), expected);
        poll_fn(|cx| connections.poll_closed(cx)).await;
        assert!(connections.connections.is_empty());
    }
    check(1000, "done", (1000, "done")).await;
    check(4999, "mine", (4999, "mine")).await;
    check(1002, "", (1000, "")).await;
    check(65535, "", (1000, "")).await;
    check(3000, &"ü".repeat(100), (3000, &"ü".repeat(61))).await;
}

#[tokio::test]
async fn closed_handle_gets_no_events() {
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        socket.send(Message::text("news")).await.unwrap();
        while socket.next().await.is_some() {}
    })
    .await;
    assert_eq!(next_ready(&mut connections).await, HANDLE);
    // The stub has asked, so the next frame would cause an event. The due `ready` for `Write` is
    // dropped.
    assert_eq!(connections.websocket_receive(HANDLE, 1, 1), Ok(vec![text("news")]));
    connections.websocket(HANDLE, |socket, _| socket.readiness.set(crate::readiness::Interest::Write)).unwrap();
    connections.websocket_close(HANDLE, 1000, "");
    let (done, ready) = drive(&mut connections, server).await;
    done.unwrap();
    assert_eq!(ready, Vec::<u32>::new());
}

#[tokio::test]
async fn unanswered_close_times_out() {
    let mut connections = connections();
    let _server = open(&mut connections, async |socket| {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    connections.websocket_close(HANDLE, 1000, "");
    assert_eq!((connections.open_count(), connections.closing.len()), (0, 1));
    tokio::time::pause();
    let start = Instant::now();
    poll_fn(|cx| connections.poll_closed(cx)).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    assert!(connections.connections.is_empty());
}

#[tokio::test]
async fn sandbox_end_closes_open_connections() {
    let mut connections = connections();
    let server = open(&mut connections, async |mut socket| {
        let frame = socket.next().await.unwrap().unwrap();
        while socket.next().await.is_some() {}
        frame
    })
    .await;
    connections.close_all();
    poll_fn(|cx| connections.poll_closed(cx)).await;
    let frame = CloseFrame { code: 1001.into(), reason: "the stub was stopped".into() };
    assert_eq!(server.await.unwrap(), Message::Close(Some(frame)));
}

#[tokio::test]
async fn random_frames_always_reach_an_end() {
    // Frames of every kind, mostly with a plausible header, from a fixed sequence (xorshift).
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 32) as u8
    };
    for round in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..next() % 20 {
            let length = next() % if round % 4 == 0 { 128 } else { 10 };
            bytes.extend([if round % 3 == 0 { next() } else { 0x80 | (next() % 3) }, length]);
            bytes.extend((0..length).map(|_| if round % 2 == 0 { next() } else { b'a' }));
        }
        let mut connections = connections();
        let server = open(&mut connections, async move |socket| {
            let (mut tcp, mut bytes) = (socket.into_inner(), bytes);
            tcp.write_all(&bytes).await.unwrap();
            tcp.shutdown().await.unwrap();
            let _ = tcp.read_to_end(&mut bytes).await;
        })
        .await;
        let (_, end) = receive_all(&mut connections, 3, 1_000).await;
        assert!(matches!(end, TransportError::Closed | TransportError::Io(_)));
        connections.websocket_close(HANDLE, 1000, "");
        poll_fn(|cx| connections.poll_closed(cx)).await;
        drop(connections);
        server.await.unwrap();
    }
}
