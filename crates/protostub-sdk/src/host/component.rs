//! The host's imports, and the conversions between the contract's types and the SDK's. Conversions
//! move texts and bytes, and never copy them.

use crate::{
    Body, Credential, CredentialKind, DisconnectReason, Error, Event, Message, MessageId, MessageType, Result, Status,
    bindings::rethink::protostub::{
        bus, configuration as conf, http, identity, log, presence, session, tcp, timers, types, websocket,
    },
    guest::HostEvent,
    host::{CALL_BYTES, HttpHead, HttpRequest, TcpState, WebSocketState, next_call},
    websocket::{CloseReason, Frame, Handshake},
};

/// Posts one message, without the lists that [`post`] makes of several.
pub(crate) fn post_one(message: Message) -> Result<()> {
    let message = types::Message::from(message);
    Ok(bus::post(std::slice::from_ref(&message)).pop().unwrap_or(Ok(()))?)
}

/// Posts messages in one call, or in several calls of [`CALL_BYTES`] each.
pub(crate) fn post(mut messages: impl Iterator<Item = Message>) -> Vec<Result<()>> {
    let Some(first) = messages.next() else { return Vec::new() };
    let Some(second) = messages.next() else { return vec![post_one(first)] };
    let mut results = Vec::new();
    let (mut next, mut bytes) = (Vec::new(), 0);
    for message in [first, second].into_iter().chain(messages) {
        let size = message.size();
        if !next.is_empty() && size > CALL_BYTES - bytes {
            post_call(&mut next, &mut results);
            bytes = 0;
        }
        bytes = CALL_BYTES.min(bytes + size);
        next.push(types::Message::from(message));
    }
    post_call(&mut next, &mut results);
    results
}

fn post_call(messages: &mut Vec<types::Message>, results: &mut Vec<Result<()>>) {
    results.extend(bus::post(messages).into_iter().map(|result| result.map_err(Error::from)));
    messages.clear();
}

pub(crate) fn pause() {
    bus::pause();
}

pub(crate) fn resume() {
    bus::resume();
}

pub(crate) fn configuration() -> String {
    conf::get()
}

pub(crate) fn publish(status: Status, reason: Option<&str>) -> Result<()> {
    let status = match status {
        Status::Created => presence::Status::Created,
        Status::InProgress => presence::Status::InProgress,
        Status::Live => presence::Status::Live,
        Status::Disconnected => presence::Status::Disconnected,
        Status::Failed => presence::Status::Failed,
    };
    Ok(presence::publish(status, reason)?)
}

pub(crate) fn identity_request(scope: Option<&str>) -> Result<u32> {
    Ok(identity::request(scope)?)
}

pub(crate) fn identity_take(request: u32) -> Result<Credential> {
    Ok(identity::take(request)?.into())
}

pub(crate) fn session_load() -> Option<Vec<u8>> {
    session::load()
}

pub(crate) fn session_save(bytes: &[u8]) -> Result<()> {
    Ok(session::save(bytes)?)
}

pub(crate) fn timer_after(milliseconds: u64) -> Result<u32> {
    Ok(timers::after(milliseconds)?)
}

pub(crate) fn timer_cancel(timer: u32) {
    timers::cancel(timer);
}

/// Returns a time with nanosecond precision. Only differences are meaningful.
pub(crate) fn now() -> std::time::Duration {
    thread_local!(static BEGIN: std::time::Instant = std::time::Instant::now());
    BEGIN.with(std::time::Instant::elapsed)
}

pub(crate) fn log_write(level: ::log::Level, text: &str) {
    let level = match level {
        ::log::Level::Error => log::Level::Error,
        ::log::Level::Warn => log::Level::Warn,
        ::log::Level::Info => log::Level::Info,
        ::log::Level::Debug => log::Level::Debug,
        ::log::Level::Trace => log::Level::Trace,
    };
    log::write(level, text);
}

pub(crate) fn websocket_open(url: &str, protocols: &[String], headers: &[(String, String)]) -> Result<u32> {
    Ok(websocket::open(url, protocols, headers)?)
}

pub(crate) fn websocket_poll(socket: u32) -> WebSocketState {
    match websocket::poll(socket) {
        websocket::State::Connecting => WebSocketState::Connecting,
        websocket::State::Open(handshake) => WebSocketState::Open(handshake.into()),
        websocket::State::Refused(handshake) => WebSocketState::Refused(handshake.into()),
        websocket::State::Closed(websocket::CloseReason { code, reason }) => WebSocketState::Closed(CloseReason { code, reason }),
        websocket::State::Failed(how) => WebSocketState::Failed(how),
    }
}

pub(crate) fn websocket_receive(socket: u32, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>> {
    let frames = websocket::receive(socket, max_frames, max_bytes)?;
    Ok(frames.into_iter().map(Frame::from).collect())
}

/// Sends the first frames, and takes them from `frames`. The rest may be more than one call
/// carries.
pub(crate) fn websocket_send(socket: u32, frames: &mut std::collections::VecDeque<Frame>) -> Result<()> {
    let size = |frame: &Frame| match frame {
        Frame::Text(text) => text.len(),
        Frame::Binary(bytes) => bytes.len(),
    };
    let count = next_call(frames.iter().map(size)).min(frames.len());
    let mut waiting: Vec<_> = frames.drain(..count).map(websocket::Frame::from).collect();
    let sent = websocket::send(socket, &waiting);
    waiting.drain(..sent.as_ref().map_or(0, |sent| waiting.len().min(*sent as usize)));
    for frame in waiting.into_iter().rev() {
        frames.push_front(frame.into());
    }
    Ok(sent.map(drop)?)
}

pub(crate) fn websocket_close(socket: u32, code: u16, reason: &str) {
    websocket::close(socket, code, reason);
}

pub(crate) fn http_send(request: HttpRequest) -> Result<u32> {
    let HttpRequest { method, url, headers, body } = request;
    Ok(http::send(&http::Request { method, url, headers, body })?)
}

pub(crate) fn http_poll(exchange: u32) -> Result<Option<HttpHead>> {
    Ok(http::poll(exchange)?.map(|http::Head { status, headers }| HttpHead { status, headers }))
}

pub(crate) fn http_receive(exchange: u32, max_bytes: u32) -> Result<Option<Vec<u8>>> {
    Ok(http::receive(exchange, max_bytes)?)
}

pub(crate) fn http_cancel(exchange: u32) {
    http::cancel(exchange);
}

pub(crate) fn tcp_open(host: &str, port: u16, tls: bool) -> Result<u32> {
    Ok(tcp::open(host, port, tls)?)
}

pub(crate) fn tcp_start_tls(connection: u32, server_name: &str) -> Result<()> {
    Ok(tcp::start_tls(connection, server_name)?)
}

pub(crate) fn tcp_poll(connection: u32) -> TcpState {
    match tcp::poll(connection) {
        tcp::State::Connecting => TcpState::Connecting,
        tcp::State::Open => TcpState::Open,
        tcp::State::Closed => TcpState::Closed,
        tcp::State::Failed(how) => TcpState::Failed(how),
    }
}

pub(crate) fn tcp_receive(connection: u32, max_bytes: u32) -> Result<Option<Vec<u8>>> {
    Ok(tcp::receive(connection, max_bytes)?)
}

pub(crate) fn tcp_send(connection: u32, bytes: &[u8]) -> Result<usize> {
    Ok(tcp::send(connection, bytes)? as usize)
}

pub(crate) fn tcp_close(connection: u32) {
    tcp::close(connection);
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::Denied(text) => Self::Denied(text),
            types::Error::Invalid(text) => Self::Invalid(text),
            types::Error::Busy => Self::Busy,
            types::Error::Closed => Self::Closed,
            types::Error::Limit(text) => Self::Limit(text),
            types::Error::Io(text) => Self::Io(text),
        }
    }
}

impl From<types::Event> for HostEvent {
    fn from(event: types::Event) -> Self {
        match event {
            types::Event::Connect(credential) => Self::Stub(Event::Connect(credential.map(Credential::from))),
            types::Event::Disconnect(reason) => Self::Stub(Event::Disconnect(match reason {
                types::DisconnectReason::Request => DisconnectReason::Request,
                types::DisconnectReason::Update => DisconnectReason::Update,
                types::DisconnectReason::Idle => DisconnectReason::Idle,
                types::DisconnectReason::Shutdown => DisconnectReason::Shutdown,
            })),
            types::Event::Message(message) => Self::Stub(Event::Message(message.into())),
            types::Event::Timer(handle) => Self::Timer(handle),
            types::Event::Ready(handle) => Self::Ready(handle),
        }
    }
}

impl From<types::Credential> for Credential {
    fn from(credential: types::Credential) -> Self {
        let kind = match credential.kind {
            types::CredentialKind::Bearer => CredentialKind::Bearer,
            types::CredentialKind::Basic => CredentialKind::Basic,
            types::CredentialKind::Assertion => CredentialKind::Assertion,
            types::CredentialKind::Other(name) => CredentialKind::Other(name),
        };
        Self { kind, value: credential.value, expires: credential.expires }
    }
}

impl From<types::Message> for Message {
    fn from(message: types::Message) -> Self {
        Self {
            id: match message.id {
                types::MessageId::Number(number) => MessageId::Number(number),
                types::MessageId::Text(text) => MessageId::Text(text),
            },
            kind: match message.type_ {
                types::MessageType::Create => MessageType::Create,
                types::MessageType::Read => MessageType::Read,
                types::MessageType::Update => MessageType::Update,
                types::MessageType::Delete => MessageType::Delete,
                types::MessageType::Subscribe => MessageType::Subscribe,
                types::MessageType::Unsubscribe => MessageType::Unsubscribe,
                types::MessageType::Response => MessageType::Response,
                types::MessageType::Forward => MessageType::Forward,
                types::MessageType::Execute => MessageType::Execute,
                types::MessageType::Other(name) => MessageType::Other(name),
            },
            from: message.from,
            to: message.to,
            via: message.via,
            headers: message.headers,
            body: message.body.map(|body| match body {
                types::Body::Json(text) => Body::Json(text),
                types::Body::Bytes(bytes) => Body::Bytes(bytes),
            }),
        }
    }
}

impl From<Message> for types::Message {
    fn from(message: Message) -> Self {
        Self {
            id: match message.id {
                MessageId::Number(number) => types::MessageId::Number(number),
                MessageId::Text(text) => types::MessageId::Text(text),
            },
            type_: match message.kind {
                MessageType::Create => types::MessageType::Create,
                MessageType::Read => types::MessageType::Read,
                MessageType::Update => types::MessageType::Update,
                MessageType::Delete => types::MessageType::Delete,
                MessageType::Subscribe => types::MessageType::Subscribe,
                MessageType::Unsubscribe => types::MessageType::Unsubscribe,
                MessageType::Response => types::MessageType::Response,
                MessageType::Forward => types::MessageType::Forward,
                MessageType::Execute => types::MessageType::Execute,
                MessageType::Other(name) => types::MessageType::Other(name),
            },
            from: message.from,
            to: message.to,
            via: message.via,
            headers: message.headers,
            body: message.body.map(|body| match body {
                Body::Json(text) => types::Body::Json(text),
                Body::Bytes(bytes) => types::Body::Bytes(bytes),
            }),
        }
    }
}

impl From<websocket::Handshake> for Handshake {
    fn from(handshake: websocket::Handshake) -> Self {
        let websocket::Handshake { status, protocol, headers } = handshake;
        Self { status, protocol, headers }
    }
}

impl From<websocket::Frame> for Frame {
    fn from(frame: websocket::Frame) -> Self {
        match frame {
            websocket::Frame::Text(text) => Self::Text(text),
            websocket::Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<Frame> for websocket::Frame {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}
