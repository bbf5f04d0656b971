use std::{hint::black_box, time::Duration};

use serde_json::{Value, json};

use crate::{
    memory, observe,
    rethink::protostub::{
        bus, configuration, http, identity, log, presence, session, tcp, timers,
        types::{Body, Credential, CredentialKind, Error, Message, MessageId, MessageType},
        websocket,
    },
};

/// Follows an order, or each order of a list. Returns the result.
pub fn follow(order: &Value) -> Result<Value, String> {
    if let Value::Array(orders) = order {
        return orders.iter().map(follow).collect();
    }
    let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| order[name].as_u64().unwrap_or_default();
    let handle = || u32::try_from(number("handle")).unwrap_or_default();
    let done = |()| Value::Null;
    match order["do"].as_str().unwrap_or("echo") {
        "echo" => Ok(order.clone()),
        "answer-kept" => Ok(answer_kept(order["last"] == true)),
        "calls" => Ok(memory(|memory| Value::from(std::mem::take(&mut memory.calls)))),
        "url" => Ok(memory(|memory| Value::from(memory.url.clone()))),
        "configuration" => serde_json::from_str(&configuration::get()).map_err(|error| error.to_string()),
        "fail" => Err(text("reason")),

        // Misbehaviour that no stub should show.
        "trap" => std::arch::wasm32::unreachable(),
        "panic" => panic!("{}", text("reason")),
        "exit" => std::process::exit(i32::try_from(number("code")).unwrap_or_default()),
        "spin" => loop {
            black_box(());
        },
        "compute" => Ok(Value::from(compute(number("rounds")))),
        "overflow" => Ok(Value::from(overflow(1))),
        "allocate" => Ok(Value::from(allocate(number("bytes")))),
        "grow" => Ok(Value::from(
            core::arch::wasm32::memory_grow::<0>(usize::try_from(number("pages")).unwrap_or(usize::MAX)) != usize::MAX,
        )),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(number("ms")));
            Ok(Value::Null)
        }
        "print" => {
            println!("{}", text("text"));
            Ok(Value::Null)
        }
        "complain" => {
            eprintln!("{}", text("text"));
            Ok(Value::Null)
        }
        "surroundings" => Ok(surroundings()),

        "log" => {
            for n in 0..number("times").max(1) {
                log::write(log::Level::Info, &format!("{} {n}", text("text")));
            }
            Ok(Value::Null)
        }
        "post" => post(order),
        "pause" => {
            bus::pause();
            Ok(done(()))
        }
        "resume" => {
            bus::resume();
            Ok(done(()))
        }
        "publish" => {
            let status = match order["status"].as_str() {
                Some("created") => presence::Status::Created,
                Some("in-progress") => presence::Status::InProgress,
                Some("live") => presence::Status::Live,
                Some("disconnected") => presence::Status::Disconnected,
                _ => presence::Status::Failed,
            };
            presence::publish(status, order["reason"].as_str()).map(done).map_err(told)
        }
        // The next `connect` events follow these orders, one each.
        "next-connects" => {
            memory(|memory| memory.connects.extend(order["orders"].as_array().into_iter().flatten().cloned()));
            Ok(Value::Null)
        }
        // Publishes `disconnected` once for each saved byte, also in later instances, and then
        // `live`.
        "countdown" => {
            let left = session::load().map_or(0, |bytes| bytes.len());
            presence::publish(presence::Status::InProgress, None).map_err(told)?;
            if left == 0 {
                return presence::publish(presence::Status::Live, None).map(done).map_err(told);
            }
            session::save(&vec![b's'; left - 1]).map_err(told)?;
            presence::publish(presence::Status::Disconnected, Some(&text("reason"))).map(done).map_err(told)
        }
        "timer" => {
            let timers: Result<Vec<u32>, Error> = (0..number("times").max(1)).map(|_| timers::after(number("ms"))).collect();
            timers.map(Value::from).map_err(told)
        }
        "cancel-timer" => {
            timers::cancel(handle());
            Ok(done(()))
        }
        "save" => session::save(&vec![b's'; usize::try_from(number("bytes")).unwrap_or_default()]).map(done).map_err(told),
        "load" => Ok(session::load().map_or(Value::Null, |bytes| Value::from(bytes.len()))),
        "panic-if-saved" => match session::load() {
            Some(bytes) => panic!("{} bytes are saved", bytes.len()),
            None => Ok(Value::Null),
        },
        "ask" => identity::request(order["scope"].as_str()).map(Value::from).map_err(told),
        "take" => identity::take(handle()).map(shown).map_err(told),
        "credential" => Ok(memory(|memory| memory.credential.clone()).map_or(Value::Null, shown)),
        // Reveals the credential of the last `connect`.
        "leak" => leak(order),

        "websocket" => websocket::open(&text("url"), &[], &headers(order)).map(Value::from).map_err(told),
        "websocket-state" => Ok(match websocket::poll(handle()) {
            websocket::State::Connecting => json!("connecting"),
            websocket::State::Open(handshake) => json!({ "open": handshake.status }),
            websocket::State::Refused(handshake) => json!({ "refused": handshake.status }),
            websocket::State::Closed(reason) => json!({ "closed": reason.code }),
            websocket::State::Failed(text) => json!({ "failed": text }),
        }),
        "http" => {
            let request = http::Request { method: "GET".to_owned(), url: text("url"), headers: headers(order), body: Vec::new() };
            http::send(&request).map(Value::from).map_err(told)
        }
        "http-state" => match http::poll(handle()) {
            Ok(Some(head)) => Ok(json!({ "status": head.status })),
            Ok(None) => Ok(json!("sending")),
            Err(error) => Err(told(error)),
        },
        "http-body" => http::receive(handle(), 1 << 16)
            .map(|bytes| bytes.map_or(Value::Null, |bytes| Value::from(String::from_utf8_lossy(&bytes))))
            .map_err(told),
        "tcp" => tcp::open(&text("host"), u16::try_from(number("port")).unwrap_or_default(), order["tls"] == true)
            .map(Value::from)
            .map_err(told),
        "tcp-state" => Ok(match tcp::poll(handle()) {
            tcp::State::Connecting => json!("connecting"),
            tcp::State::Open => json!("open"),
            tcp::State::Closed => json!("closed"),
            tcp::State::Failed(text) => json!({ "failed": text }),
        }),
        "tcp-send" => tcp::send(handle(), text("text").as_bytes()).map(Value::from).map_err(told),
        "tcp-receive" => tcp::receive(handle(), 1 << 16)
            .map(|bytes| bytes.map_or(Value::Null, |bytes| Value::from(String::from_utf8_lossy(&bytes))))
            .map_err(told),
        "tcp-close" => {
            tcp::close(handle());
            Ok(done(()))
        }
        other => Err(format!("the order `{other}` is unknown")),
    }
}

/// Reads `{"headers": {"name": "value"}}`. A list of values repeats the name.
fn headers(order: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for (name, value) in order["headers"].as_object().into_iter().flatten() {
        match value {
            Value::Array(values) => headers.extend(values.iter().map(|value| (name.clone(), text(value)))),
            value => headers.push((name.clone(), text(value))),
        }
    }
    headers
}

fn shown(credential: Credential) -> Value {
    let kind = match credential.kind {
        CredentialKind::Bearer => "bearer".to_owned(),
        CredentialKind::Basic => "basic".to_owned(),
        CredentialKind::Assertion => "assertion".to_owned(),
        CredentialKind::Other(name) => name,
    };
    json!({ "kind": kind, "value": credential.value, "expires": credential.expires })
}

/// Reveals its credential in all places that people read: in log lines, on its outputs, as the
/// reason of a status, in a URL and, last, in a panic.
fn leak(order: &Value) -> Result<Value, String> {
    let secret = memory(|memory| memory.credential.clone()).map_or_else(String::new, |credential| credential.value);
    log::write(log::Level::Error, &format!("my credential is {secret}"));
    println!("my credential is {secret}");
    eprintln!("my credential is {secret}");
    presence::publish(presence::Status::Live, Some(&format!("connected with {secret}"))).map_err(told)?;
    if let Some(url) = order["url"].as_str() {
        let headers = [("authorization".to_owned(), format!("Bearer {secret}"))];
        websocket::open(&format!("ws://{url}/?token={secret}"), &[], &headers).map_err(told)?;
        let url = format!("http://{url}/?token={secret}");
        let request = http::Request { method: "GET".to_owned(), url, headers: headers.to_vec(), body: Vec::new() };
        http::send(&request).map_err(told)?;
    }
    match order["panic"] == true {
        true => panic!("my credential was {secret}"),
        false => Ok(Value::Null),
    }
}

/// Writes an error as tests compare it.
fn told(error: Error) -> String {
    match error {
        Error::Denied(text) => format!("denied: {text}"),
        Error::Invalid(text) => format!("invalid: {text}"),
        Error::Busy => "busy".to_owned(),
        Error::Closed => "closed".to_owned(),
        Error::Limit(text) => format!("limit: {text}"),
        Error::Io(text) => format!("io: {text}"),
    }
}

fn answer_kept(last: bool) -> Value {
    let kept = memory(|memory| std::mem::take(&mut memory.kept));
    let count = kept.len();
    for message in kept.iter().skip(if last { count.saturating_sub(1) } else { 0 }) {
        crate::answer(message, 200, json!("late"));
    }
    observe(json!({ "answered": count }));
    Value::from(count)
}

/// Posts `times` messages in one call. Returns the result of each.
fn post(order: &Value) -> Result<Value, String> {
    let field = |name: &str| order[name].as_str().map(str::to_owned);
    let own = memory(|memory| memory.url.clone());
    let size = usize::try_from(order["bytes"].as_u64().unwrap_or_default()).unwrap_or_default();
    let body = match &order["body"] {
        Value::Null if size > 0 => Some(Body::Bytes(vec![b'b'; size])),
        Value::Null => None,
        body => Some(Body::Json(body.to_string())),
    };
    let message = Message {
        id: order["id"]
            .as_str()
            .map_or_else(|| MessageId::Number(order["id"].as_u64().unwrap_or(1)), |id| MessageId::Text(id.to_owned())),
        type_: match order["type"].as_str() {
            Some("read") => MessageType::Read,
            Some("subscribe") => MessageType::Subscribe,
            Some("unsubscribe") => MessageType::Unsubscribe,
            Some("execute") => MessageType::Execute,
            Some("response") => MessageType::Response,
            Some(other) => MessageType::Other(other.to_owned()),
            None => MessageType::Update,
        },
        from: field("from").unwrap_or(own),
        to: field("to").unwrap_or_default(),
        via: order["via"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        headers: order["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        body,
    };
    let times = usize::try_from(order["times"].as_u64().unwrap_or(1)).unwrap_or(1);
    let results: Vec<Value> = bus::post(&vec![message; times])
        .into_iter()
        .map(|result| result.map_or_else(|error| Value::from(told(error)), |()| Value::from("ok")))
        .collect();
    // Of many results, the order reports the number accepted and the last one.
    if results.len() <= 8 {
        return Ok(Value::from(results));
    }
    let accepted = results.iter().filter(|result| *result == "ok").count();
    Ok(json!({ "ok": accepted, "last": results.last() }))
}

/// Returns the parts of the world that a stub sees without the contract: only the time and random
/// numbers.
fn surroundings() -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    json!({
        "environment": std::env::vars().count(),
        "arguments": std::env::args().count(),
        "files": std::fs::read_dir("/").is_ok() || std::fs::File::create("x").is_ok(),
        "tcp": std::net::TcpStream::connect("127.0.0.1:80").is_ok(),
        "udp": std::net::UdpSocket::bind("0.0.0.0:0").is_ok(),
        "names": std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok(),
        "time": now > 1_700_000_000,
        "random": std::collections::hash_map::RandomState::new() .hash_differs(),
    })
}

trait HashDiffers {
    fn hash_differs(&self) -> bool;
}

impl HashDiffers for std::collections::hash_map::RandomState {
    /// Returns `true` if the seed, which is random, shows.
    fn hash_differs(&self) -> bool {
        use std::hash::BuildHasher as _;
        self.hash_one(0) != 0
    }
}

fn compute(rounds: u64) -> u64 {
    (0..rounds).fold(1, |sum, round| black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round)))
}

#[expect(unconditional_recursion, reason = "the program has to recurse")]
fn overflow(depth: u64) -> u64 {
    black_box(overflow(black_box(depth) + 1)) + 1
}

fn allocate(bytes: u64) -> usize {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes.div_ceil(1 << 20) {
        chunks.push(black_box(vec![1; 1 << 20]));
    }
    chunks.len()
}
