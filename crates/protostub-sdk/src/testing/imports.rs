//! The contract's imports, implemented by the fake host.

use std::{collections::VecDeque, time::Duration};

use super::{
    Host,
    http::FakeExchange,
    identity::FakeIdentity,
    tcp::FakeTcp,
    websocket::FakeSocket,
    world::{World, with},
};
use crate::{
    Credential, Error, Message, Result, Status,
    host::{HttpHead, HttpRequest, TcpState, WebSocketState},
    websocket::{CloseReason, Frame},
};

/// Maximum number of timers of an instance.
const MAX_TIMERS: usize = 256;
/// Maximum number of connections of an instance, over all kinds.
const MAX_CONNECTIONS: usize = 16;
/// Maximum number of requests for a credential of an instance.
const MAX_IDENTITIES: usize = 8;
/// Maximum size of a session, in bytes.
const MAX_SESSION_BYTES: usize = 64 * 1024;

pub(crate) fn post_one(message: Message) -> Result<()> {
    with(|world| world.post(message))
}

pub(crate) fn post(messages: impl Iterator<Item = Message>) -> Vec<Result<()>> {
    messages.map(post_one).collect()
}

impl World {
    fn post(&mut self, message: Message) -> Result<()> {
        if let Some(error) = self.refusals.pop_front() {
            return Err(error);
        }
        if !may_send_as(&message.from) {
            return Err(Error::Denied(format!("`from` is {:?}, which is not an address of the stub", message.from)));
        }
        if message.to.is_empty() || message.to.contains(char::is_control) {
            return Err(Error::Invalid(format!("`to` is {:?}, which is not an address", message.to)));
        }
        self.posted.push(message);
        Ok(())
    }

    /// Rejects a reference to the credential unless the test allows it for this URL.
    fn check_references(&self, url: &str, headers: &[(String, String)]) -> Result<()> {
        let refers =
            headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value.starts_with("{credential"));
        let is_of = |origin: &String| {
            url.strip_prefix(origin.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        };
        if refers && !self.credential_origins.iter().any(is_of) {
            return Err(Error::Denied(format!("the credential does not go to {url}")));
        }
        Ok(())
    }

    fn room_for_a_connection(&mut self) -> Result<u32> {
        if self.connections() >= MAX_CONNECTIONS {
            return Err(Error::Limit(format!("more than {MAX_CONNECTIONS} connections")));
        }
        let handle = self.next_handle();
        self.fresh.push_back(handle);
        Ok(handle)
    }
}

/// Returns `true` for the stub's URL and paths below it, except its status, which the host
/// publishes. Returns `true` for addresses of its domain too, except another stub's.
fn may_send_as(from: &str) -> bool {
    match from.strip_prefix(Host::STUB_URL).map(|path| path.split('/').collect::<Vec<_>>()) {
        Some(path) if path[0].is_empty() => path.get(1) != Some(&"status"),
        _ => domain(from) == Host::DOMAIN && !from.starts_with("hyperty-runtime://sp1.example/protostub/"),
    }
}

/// Returns the domain of an address. The addresses of its message node and of its registry have the
/// same domain.
fn domain(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    ["msg-node.", "registry."].iter().find_map(|prefix| authority.strip_prefix(prefix)).unwrap_or(authority)
}

pub(crate) fn pause() {
    with(|world| world.paused = true);
}

pub(crate) fn resume() {
    with(|world| world.paused = false);
}

pub(crate) fn configuration() -> String {
    with(|world| world.configuration.clone())
}

pub(crate) fn publish(status: Status, reason: Option<&str>) -> Result<()> {
    with(|world| {
        let next = (status, reason.map(str::to_owned));
        if world.statuses.last() == Some(&next) {
            return Ok(());
        }
        let now = world.status();
        if now == Status::Failed || status == Status::Created || now == status {
            return Err(Error::Invalid(format!("{status} cannot follow {now}")));
        }
        world.statuses.push(next);
        Ok(())
    })
}

pub(crate) fn identity_request(scope: Option<&str>) -> Result<u32> {
    with(|world| {
        if !world.credential_origins.is_empty() {
            return Err(Error::Denied("the credential is used by reference only".to_owned()));
        }
        if world.identities.len() >= MAX_IDENTITIES {
            return Err(Error::Limit(format!("more than {MAX_IDENTITIES} requests for a credential")));
        }
        let handle = world.next_handle();
        world.fresh.push_back(handle);
        world.identities.insert(handle, FakeIdentity { scope: scope.map(str::to_owned), answer: None });
        Ok(handle)
    })
}

pub(crate) fn identity_take(request: u32) -> Result<Credential> {
    with(|world| {
        world.asked(request);
        match world.identities.remove(&request) {
            None => Err(Error::Closed),
            Some(FakeIdentity { answer: Some(answer), .. }) => answer,
            Some(unanswered) => {
                world.identities.insert(request, unanswered);
                Err(Error::Busy)
            }
        }
    })
}

pub(crate) fn session_load() -> Option<Vec<u8>> {
    with(|world| world.session.clone())
}

pub(crate) fn session_save(bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_SESSION_BYTES {
        return Err(Error::Limit(format!("{} bytes; a session has at most {MAX_SESSION_BYTES}", bytes.len())));
    }
    with(|world| world.session = (!bytes.is_empty()).then(|| bytes.to_owned()));
    Ok(())
}

pub(crate) fn timer_after(milliseconds: u64) -> Result<u32> {
    with(|world| {
        if world.timers.len() >= MAX_TIMERS {
            return Err(Error::Limit(format!("more than {MAX_TIMERS} timers")));
        }
        let handle = world.next_handle();
        let at = world.now + Duration::from_millis(milliseconds);
        world.timers.insert(handle, at);
        Ok(handle)
    })
}

pub(crate) fn timer_cancel(timer: u32) {
    with(|world| world.timers.remove(&timer));
}

pub(crate) fn now() -> Duration {
    with(|world| world.now)
}

pub(crate) fn log_write(level: log::Level, text: &str) {
    with(|world| world.log.push(format!("{level} {text}")));
}

pub(crate) fn websocket_open(url: &str, protocols: &[String], headers: &[(String, String)]) -> Result<u32> {
    if !url.starts_with("ws://") && !url.starts_with("wss://") {
        return Err(Error::Invalid(format!("{url:?} is not a WebSocket URL (ws:// or wss://)")));
    }
    with(|world| {
        world.check_references(url, headers)?;
        let handle = world.room_for_a_connection()?;
        world.sockets.insert(handle, FakeSocket::new(url, protocols, headers));
        Ok(handle)
    })
}

pub(crate) fn websocket_poll(socket: u32) -> WebSocketState {
    with(|world| {
        world.asked(socket);
        let known = world.sockets.get(&socket).filter(|socket| socket.closed_by_stub.is_none());
        known.map_or(WebSocketState::Closed(CloseReason::default()), |socket| socket.state.clone())
    })
}

pub(crate) fn websocket_receive(socket: u32, max_frames: u32, max_bytes: u32) -> Result<Vec<Frame>> {
    with(|world| {
        world.asked(socket);
        world.sockets.get_mut(&socket).ok_or(Error::Closed)?.receive(max_frames, max_bytes)
    })
}

pub(crate) fn websocket_send(socket: u32, frames: &mut VecDeque<Frame>) -> Result<()> {
    with(|world| {
        world.asked(socket);
        world.sockets.get_mut(&socket).ok_or(Error::Closed)?.send(frames)
    })
}

pub(crate) fn websocket_close(socket: u32, code: u16, reason: &str) {
    with(|world| {
        if let Some(socket) = world.sockets.get_mut(&socket) {
            socket.closed_by_stub.get_or_insert_with(|| (code, reason.to_owned()));
        }
    });
}

pub(crate) fn http_send(request: HttpRequest) -> Result<u32> {
    if !request.url.starts_with("https://") && !request.url.starts_with("http://") {
        return Err(Error::Invalid(format!("{:?} is not an HTTP URL (http:// or https://)", request.url)));
    }
    with(|world| {
        world.check_references(&request.url, &request.headers)?;
        let handle = world.room_for_a_connection()?;
        world.exchanges.insert(handle, FakeExchange::new(request));
        Ok(handle)
    })
}

pub(crate) fn http_poll(exchange: u32) -> Result<Option<HttpHead>> {
    with(|world| {
        world.asked(exchange);
        let exchange = world.exchanges.get(&exchange).ok_or(Error::Closed)?;
        exchange.broken.clone().map_or_else(|| Ok(exchange.head.clone()), |how| Err(Error::Io(how)))
    })
}

pub(crate) fn http_receive(exchange: u32, max_bytes: u32) -> Result<Option<Vec<u8>>> {
    with(|world| {
        world.asked(exchange);
        let received = world.exchanges.get_mut(&exchange).ok_or(Error::Closed)?.receive(max_bytes);
        if matches!(received, Ok(None)) {
            world.exchanges.remove(&exchange);
        }
        received
    })
}

pub(crate) fn http_cancel(exchange: u32) {
    with(|world| world.exchanges.remove(&exchange));
}

pub(crate) fn tcp_open(host: &str, port: u16, tls: bool) -> Result<u32> {
    with(|world| {
        let handle = world.room_for_a_connection()?;
        world.tcp.insert(handle, FakeTcp::new(host, port, tls));
        Ok(handle)
    })
}

pub(crate) fn tcp_start_tls(connection: u32, server_name: &str) -> Result<()> {
    with(|world| {
        let connection = world.tcp.get_mut(&connection).ok_or(Error::Closed)?;
        match connection.state {
            TcpState::Open => {
                connection.state = TcpState::Connecting;
                connection.tls = Some(server_name.to_owned());
                Ok(())
            }
            TcpState::Connecting => Err(Error::Busy),
            TcpState::Closed => Err(Error::Closed),
            TcpState::Failed(ref how) => Err(Error::Io(how.clone())),
        }
    })
}

pub(crate) fn tcp_poll(connection: u32) -> TcpState {
    with(|world| {
        world.asked(connection);
        let known = world.tcp.get(&connection).filter(|connection| !connection.closed_by_stub);
        known.map_or(TcpState::Closed, |connection| connection.state.clone())
    })
}

pub(crate) fn tcp_receive(connection: u32, max_bytes: u32) -> Result<Option<Vec<u8>>> {
    with(|world| {
        world.asked(connection);
        world.tcp.get_mut(&connection).ok_or(Error::Closed)?.receive(max_bytes)
    })
}

pub(crate) fn tcp_send(connection: u32, bytes: &[u8]) -> Result<usize> {
    with(|world| {
        world.asked(connection);
        world.tcp.get_mut(&connection).ok_or(Error::Closed)?.send(bytes)
    })
}

pub(crate) fn tcp_close(connection: u32) {
    with(|world| {
        if let Some(connection) = world.tcp.get_mut(&connection) {
            connection.closed_by_stub = true;
        }
    });
}
