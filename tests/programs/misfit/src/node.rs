//! The stub of the message node `dev-msg-node-vertx`.

use std::{
    cell::Cell, collections::VecDeque, convert::Infallible, future::pending, hint::black_box, mem, pin::pin, time::Duration,
};

use protostub_sdk::{
    Body, CredentialKind, DisconnectReason, Error, Message, MessageType, Result, Status, Stub,
    futures::future::{self, Either},
    log, session,
    time::{self, timeout},
    websocket::{Connect, Frame, WebSocket},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{TOLD, config::Config};

/// Time that the message node has to open a connection and a session.
const OPENING: Duration = Duration::from_secs(3);
/// Number of messages to send in one call of the host.
const BATCH: usize = 64;
const SESSION: &str = "mn:/session";

thread_local! {
    static REFUSED: Cell<bool> = const { Cell::new(false) };
    static BROKE: Cell<bool> = const { Cell::new(false) };
    /// `true` for the instance's first connection.
    static FIRST: Cell<bool> = const { Cell::new(true) };
    /// Time of the last long computation.
    static COMPUTED: Cell<Option<Duration>> = const { Cell::new(None) };
    static SENT: Cell<u64> = const { Cell::new(0) };
}

#[derive(Serialize, Deserialize)]
struct Saved {
    token: String,
    /// `true` if the instance that saved it has disconnected gracefully.
    left: bool,
}

/// Panics when it is dropped while it is armed.
struct Guard(bool);

impl Drop for Guard {
    fn drop(&mut self) {
        assert!(!self.0, "given up while it was connecting");
    }
}

pub async fn run(stub: &Stub, config: &Config) -> Result<()> {
    let hangs = config.is("stub/disconnect/again") && TOLD.get()
        || config.is("stub/server/comes-up") && REFUSED.get()
        || config.is("stub/server/comes-back") && BROKE.get()
        || config.is("stub/session/crash") && FIRST.get() && session::load_json::<Saved>().is_some_and(|saved| !saved.left)
        || config.is("stub/session/update") && session::load().as_deref() == Some(b"updated");
    if hangs {
        return pending().await;
    }
    Config::close_early();
    use_resources(config);
    FIRST.set(false);
    let mut guard = Guard(config.is("stub/disconnect/while-connecting"));
    let connected = connect(stub, config).await;
    guard.0 = false;
    let (socket, session_url) = connected?;
    if config.is("stub/status/live") {
        return pending().await;
    }
    if config.is("stub/status/order") {
        stub.publish(Status::Disconnected, Some("not yet"))?;
        stub.in_progress();
    }
    stub.live();
    let Err(ended) =
        future::select(pin!(send_all(stub, config, &socket)), pin!(receive_all(stub, config, &socket))).await.factor_first().0;
    match ended {
        Error::Disconnect(reason) => {
            let said = say_goodbye(stub, config, socket, &session_url, reason).await;
            TOLD.set(true);
            said
        }
        broke => {
            // The network failed, rather than the bytes that came over it.
            if matches!(broke, Error::WebSocketClosed(_)) {
                BROKE.set(true);
                if config.is("stub/server/drops") {
                    return pending().await;
                }
            } else {
                assert!(!config.is("stub/server/nonsense-while-live"), "{broke}");
            }
            Err(broke)
        }
    }
}

fn use_resources(config: &Config) {
    if config.is("stub/resources/memory") && FIRST.get() {
        mem::forget(black_box(vec![1_u8; 40 << 20]));
    }
    if config.is("stub/resources/log") {
        for n in 0..200 {
            log::info!("line {n}");
        }
    }
}

/// Computes for long, but within its budget, and once in a call, because the host adds up the
/// computation of one call. The host makes the stub pause for three quarters of the time.
fn compute() {
    let begin = time::now();
    if COMPUTED.get().is_some_and(|computed| begin.saturating_sub(computed) < Duration::from_millis(1)) {
        return;
    }
    while time::now() - begin < Duration::from_millis(1500) {
        black_box(begin);
    }
    COMPUTED.set(Some(time::now()));
}

async fn connect(stub: &Stub, config: &Config) -> Result<(WebSocket, String)> {
    let begin = time::now();
    let mut connect = Connect::new(&config.url);
    if let Some(credential) = stub.credential() {
        assert!(!config.is("stub/credential/kinds") || !matches!(credential.kind, CredentialKind::Other(_)), "never heard of");
        if config.is("stub/credential/secret") {
            log::info!("logging in with {}", credential.value);
        }
        connect = connect.credential(credential);
    }
    let opened = async {
        let socket = connect.open().await?;
        let session_url = open(stub, &socket, config).await?;
        Ok((socket, session_url))
    };
    let error: Error = match timeout(OPENING, opened).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(error)) | Err(error) => error,
    };
    let is_slow = time::now() - begin >= OPENING;
    let is_refused = error.to_string().contains("refused");
    REFUSED.set(is_refused);
    if config.is("stub/server/refuses") && is_refused {
        return Err(Error::failed(error));
    }
    if config.is("stub/server/silent") && is_slow {
        stub.publish(Status::Disconnected, None)?;
        return pending().await;
    }
    let is_nonsense = !is_slow && !is_refused && !matches!(error, Error::Failed(_) | Error::Invalid(_));
    assert!(!config.is("stub/server/nonsense") || !is_nonsense, "{error}");
    Err(error)
}

/// Resumes the session, or opens one. Returns its URL.
async fn open(stub: &Stub, socket: &WebSocket, config: &Config) -> Result<String> {
    let runtime = stub.runtime_url();
    let saved = if config.is("stub/session/nonsense") {
        session::load().map(|saved| serde_json::from_slice::<Saved>(&saved).expect("a saved session"))
    } else {
        session::load_json::<Saved>()
    };
    if let Some(Saved { token, .. }) = saved {
        let url = format!("{runtime}/{token}");
        if ask(socket, "re-open", &url).await?["code"] == 200 {
            return Ok(url);
        }
        if config.is("stub/session/forgotten") {
            return Err(Error::other("the session is lost"));
        }
    }
    let reply = ask(socket, "open", runtime).await?;
    let Some(token) = reply["runtimeToken"].as_str() else {
        let reason = reply["desc"].as_str().unwrap_or("no token");
        return Err(if config.is("stub/server/refuses-session") { Error::other(reason) } else { Error::failed(reason) });
    };
    session::save_json(&Saved { token: token.to_owned(), left: false })?;
    Ok(format!("{runtime}/{token}"))
}

async fn ask(socket: &WebSocket, what: &str, from: &str) -> Result<Value> {
    let request = Message::new(MessageType::from(what), SESSION).with_from(from).with_id(1);
    socket.send_text(request.to_json()?).await?;
    let answer = async {
        loop {
            let Ok(messages) = socket.next().await?.messages() else { continue };
            if let Some(answer) = messages.iter().find(|message| message.from == SESSION) {
                return answer.parse();
            }
        }
    };
    answer.await
}

async fn say_goodbye(stub: &Stub, config: &Config, socket: WebSocket, session_url: &str, reason: DisconnectReason) -> Result<()> {
    assert!(!config.is("stub/disconnect/in-time"), "no graceful disconnect");
    if config.is("stub/disconnect/closes") {
        mem::forget(socket);
        stub.disconnected("the connection is open");
        return Ok(());
    }
    if reason == DisconnectReason::Update && config.is("stub/session/update") {
        session::save(b"updated")?;
    } else if matches!(reason, DisconnectReason::Update | DisconnectReason::Idle) {
        if let Some(saved) = session::load_json::<Saved>() {
            session::save_json(&Saved { left: true, ..saved })?;
        }
    } else {
        session::forget();
        let close = Message::new(MessageType::from("close"), SESSION).with_from(session_url).with_id(2);
        socket.send_text(close.to_json()?).await?;
        let _ = timeout(Duration::from_secs(2), receive_all(stub, config, &socket)).await;
    }
    stub.disconnected("good-bye");
    Ok(())
}

async fn send_all(stub: &Stub, config: &Config, socket: &WebSocket) -> Result<Infallible> {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            waiting.push_back(stub.next_message().await?);
        }
        while waiting.len() < BATCH
            && let Some(message) = stub.try_message()
        {
            waiting.push_back(message);
        }
        let mut batch: Vec<Message> = waiting.drain(..waiting.len().min(BATCH)).collect();
        if config.is("stub/messages/order") {
            batch.reverse();
        }
        let frames: Vec<Frame> = batch.into_iter().filter_map(|message| outgoing(stub, config, message)).collect();
        let mut sending = pin!(socket.send_all(frames));
        if !config.is("stub/pressure/stalled-server") {
            sending.await?;
            continue;
        }
        // A stub that takes all messages has to keep them.
        loop {
            match future::select(sending.as_mut(), stub.next_message()).await {
                Either::Left((sent, _)) => break sent?,
                Either::Right((message, _)) => waiting.push_back(message?),
            }
        }
    }
}

/// Returns the part of a message that goes to the message node.
fn outgoing(stub: &Stub, config: &Config, mut message: Message) -> Option<Frame> {
    SENT.set(SENT.get() + 1);
    // Only in a long life, and a few times: a busy machine measures time badly, and the longest
    // time counts.
    if config.is("stub/resources/cpu") && (120..123).contains(&SENT.get()) {
        compute();
    }
    let is_lost = config.is("stub/messages/answered")
        || config.is("stub/messages/any-body") && matches!(message.body, Some(Body::Bytes(_)))
        || config.is("stub/pressure/flood") && SENT.get() > 600 && SENT.get().is_multiple_of(7);
    if is_lost {
        return None;
    }
    if !message.expects_response() {
        if config.is("stub/messages/no-response") {
            let _ = stub.post(message.response(200, None));
        }
        if config.is("stub/messages/sender") {
            let _ = stub
                .post(Message::new(MessageType::from("ping"), &message.from).with_from("hyperty://evil.example/1").with_id(1));
        }
    }
    if !config.is("stub/messages/via") {
        if via(&message).is_some_and(|via| via == stub.url()) {
            return None;
        }
        set_via(stub, &mut message);
    }
    match message.to_json() {
        Ok(text) if text.len() <= 1 << 20 => return Some(Frame::Text(text)),
        Ok(_) => answer(stub, &message, 413, "the message is too long"),
        Err(error) => answer(stub, &message, 400, &error.to_string()),
    }
    None
}

fn answer(stub: &Stub, message: &Message, code: u16, reason: &str) {
    if message.expects_response() {
        let _ = stub.post(message.error_response(code, reason));
    }
}

fn via(message: &Message) -> Option<String> {
    message.parse::<Value>().ok()?["via"].as_str().map(str::to_owned)
}

/// A body that is not an object, or too deep to be read, stays the same.
fn set_via(stub: &Stub, message: &mut Message) {
    if let (Some(Body::Json(_)), Ok(Value::Object(mut body))) = (&message.body, message.parse::<Value>()) {
        body.insert("via".to_owned(), json!(stub.url()));
        message.body = Some(Body::from(Value::Object(body)));
    }
}

async fn receive_all(stub: &Stub, config: &Config, socket: &WebSocket) -> Result<Infallible> {
    loop {
        receive(stub, config, &socket.next().await?);
        while let Some(frame) = socket.try_next() {
            let is_lost = config.is("stub/ready/burst") && String::from_utf8_lossy(frame.as_bytes()).contains("\"ping\"");
            if !is_lost {
                receive(stub, config, &frame);
            }
        }
    }
}

fn receive(stub: &Stub, config: &Config, frame: &Frame) {
    let messages = match frame.messages() {
        Ok(messages) => messages,
        Err(error) => {
            assert!(!config.is("stub/server/nonsense-messages"), "{error}");
            log::warn!("the message is invalid: {error}");
            return;
        }
    };
    for mut message in messages {
        if !config.is("stub/messages/via") {
            set_via(stub, &mut message);
        }
        let is_response = message.kind == MessageType::Response;
        if config.is("stub/messages/incoming") && !is_response {
            stub.url().clone_into(&mut message.from);
        }
        if config.is("stub/messages/one-response") && is_response {
            let _ = stub.post(message.clone());
        }
        if let Err(error) = stub.post(message) {
            log::debug!("refused: {error}");
        }
    }
}
