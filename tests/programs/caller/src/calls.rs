use arbitrary::Arbitrary;

use crate::rethink::protostub::{
    bus, configuration, http, identity, log, presence, session, tcp, timers,
    types::{Body, Message, MessageId, MessageType},
    websocket,
};

/// The addresses that a program can name.
pub struct Names {
    /// The stub's own address.
    pub own: String,
    /// The address that sent the program.
    pub asker: String,
}

/// A call of the host.
#[derive(Debug, Arbitrary)]
pub enum Call {
    Post(Vec<Posted>),
    Pause,
    Resume,
    Configuration,
    Publish(u8, Option<Text>),
    RequestCredential(Option<Text>),
    TakeCredential(Handle),
    LoadSession,
    SaveSession(Bytes),
    After(u16),
    AfterLong(u64),
    CancelTimer(Handle),
    Log(u8, Text),
    OpenWebsocket { url: Url, protocols: Vec<Text>, headers: Vec<(Text, Text)> },
    PollWebsocket(Handle),
    ReceiveFrames(Handle, u32, u32),
    SendFrames(Handle, Vec<Frame>),
    CloseWebsocket(Handle, u16, Text),
    SendRequest { method: Text, url: Url, headers: Vec<(Text, Text)>, body: Bytes },
    PollExchange(Handle),
    ReceiveBody(Handle, u32),
    CancelExchange(Handle),
    OpenTcp { host: Text, port: Option<u16>, tls: bool },
    StartTls(Handle, Text),
    PollTcp(Handle),
    ReceiveTcp(Handle, u32),
    SendTcp(Handle, Bytes),
    CloseTcp(Handle),
    // Calls that languages' libraries make by WASI.
    Print(Text),
    Complain(Text),
    Random,
    Now,
    Sleep(u8),
    Environment,
    ReadFile(Text),
    Listen,
    Grow(u16),
    Trap,
}

/// A text, or one with a meaning here.
#[derive(Debug, Arbitrary)]
pub enum Text {
    Raw(String),
    Own,
    OwnDomain,
    OwnHost,
    Asker,
    Neighbour,
    Below(String),
    Long(char, u16),
}

#[derive(Debug, Arbitrary)]
pub enum Url {
    Raw(Text),
    Own { scheme: Scheme, path: String },
    Loopback(u16),
}

#[derive(Debug, Arbitrary)]
pub enum Scheme {
    Http,
    Https,
    Ws,
    Wss,
}

/// Most handles are small numbers.
#[derive(Debug, Arbitrary)]
pub enum Handle {
    Small(u8),
    Any(u32),
}

#[derive(Debug, Arbitrary)]
pub enum Bytes {
    Raw(Vec<u8>),
    Many(u8, u32),
}

#[derive(Debug, Arbitrary)]
pub enum Frame {
    Text(Text),
    Binary(Bytes),
}

#[derive(Debug, Arbitrary)]
pub enum Kind {
    Create,
    Read,
    Update,
    Delete,
    Subscribe,
    Unsubscribe,
    Response,
    Forward,
    Execute,
    Other(Text),
}

#[derive(Debug, Arbitrary)]
pub enum Id {
    Number(u64),
    Small(u8),
    Text(Text),
}

#[derive(Debug, Arbitrary)]
pub enum Content {
    None,
    Json(Text),
    Object,
    Bytes(Bytes),
}

#[derive(Debug, Arbitrary)]
pub struct Posted {
    id: Id,
    kind: Kind,
    from: Text,
    to: Text,
    via: Vec<Text>,
    headers: Vec<(Text, Text)>,
    body: Content,
}

impl Names {
    /// `127.0.0.1:8080`.
    fn domain(&self) -> &str {
        self.own.split('/').nth(2).unwrap_or_default()
    }

    fn host(&self) -> &str {
        self.domain().split(':').next().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.domain().rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
    }
}

impl Text {
    fn with(self, names: &Names) -> String {
        match self {
            Self::Raw(text) => text,
            Self::Own => names.own.clone(),
            Self::OwnDomain => format!("hyperty://{}/caller", names.domain()),
            Self::OwnHost => names.host().to_owned(),
            Self::Asker => names.asker.clone(),
            Self::Neighbour => "hyperty://neighbour.example/caller".to_owned(),
            Self::Below(path) => format!("{}/{path}", names.own),
            Self::Long(unit, times) => unit.to_string().repeat(times.into()),
        }
    }
}

impl Url {
    fn with(self, names: &Names) -> String {
        match self {
            Self::Raw(text) => text.with(names),
            Self::Own { scheme, path } => {
                let scheme = match scheme {
                    Scheme::Http => "http",
                    Scheme::Https => "https",
                    Scheme::Ws => "ws",
                    Scheme::Wss => "wss",
                };
                format!("{scheme}://{}/{path}", names.domain())
            }
            Self::Loopback(port) => format!("http://127.0.0.1:{port}/"),
        }
    }
}

impl Handle {
    fn number(&self) -> u32 {
        match self {
            Self::Small(number) => (number % 8).into(),
            Self::Any(number) => *number,
        }
    }
}

impl Bytes {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes,
            // Above any limit, and within the memory.
            Self::Many(byte, times) => vec![byte; usize::try_from(times % (3 << 20)).unwrap_or_default()],
        }
    }
}

fn texts(texts: Vec<Text>, names: &Names) -> Vec<String> {
    texts.into_iter().map(|text| text.with(names)).collect()
}

fn pairs(pairs: Vec<(Text, Text)>, names: &Names) -> Vec<(String, String)> {
    pairs.into_iter().map(|(name, value)| (name.with(names), value.with(names))).collect()
}

impl Posted {
    fn with(self, names: &Names) -> Message {
        Message {
            id: match self.id {
                Id::Number(number) => MessageId::Number(number),
                Id::Small(number) => MessageId::Number(number.into()),
                Id::Text(text) => MessageId::Text(text.with(names)),
            },
            type_: match self.kind {
                Kind::Create => MessageType::Create,
                Kind::Read => MessageType::Read,
                Kind::Update => MessageType::Update,
                Kind::Delete => MessageType::Delete,
                Kind::Subscribe => MessageType::Subscribe,
                Kind::Unsubscribe => MessageType::Unsubscribe,
                Kind::Response => MessageType::Response,
                Kind::Forward => MessageType::Forward,
                Kind::Execute => MessageType::Execute,
                Kind::Other(text) => MessageType::Other(text.with(names)),
            },
            from: self.from.with(names),
            to: self.to.with(names),
            via: texts(self.via, names),
            headers: pairs(self.headers, names),
            body: match self.body {
                Content::None => None,
                Content::Json(text) => Some(Body::Json(text.with(names))),
                Content::Object => Some(Body::Json(r#"{"code":200,"value":{"via":"mn:/session"}}"#.to_owned())),
                Content::Bytes(bytes) => Some(Body::Bytes(bytes.bytes())),
            },
        }
    }
}

impl Call {
    /// Makes the call. The host's answer does not matter: the host must stay unharmed.
    pub fn make(self, names: &Names) {
        match self {
            Self::Post(messages) => {
                let messages: Vec<_> = messages.into_iter().map(|message| message.with(names)).collect();
                let results = bus::post(&messages);
                assert_eq!(results.len(), messages.len());
            }
            Self::Pause => bus::pause(),
            Self::Resume => bus::resume(),
            Self::Configuration => drop(configuration::get()),
            Self::Publish(status, reason) => {
                let all = [
                    presence::Status::Created,
                    presence::Status::InProgress,
                    presence::Status::Live,
                    presence::Status::Disconnected,
                    presence::Status::Failed,
                ];
                let reason = reason.map(|reason| reason.with(names));
                let _ = presence::publish(all[usize::from(status) % all.len()], reason.as_deref());
            }
            Self::RequestCredential(scope) => {
                let _ = identity::request(scope.map(|scope| scope.with(names)).as_deref());
            }
            Self::TakeCredential(handle) => drop(identity::take(handle.number())),
            Self::LoadSession => drop(session::load()),
            Self::SaveSession(bytes) => drop(session::save(&bytes.bytes())),
            Self::After(milliseconds) => drop(timers::after(milliseconds.into())),
            Self::AfterLong(milliseconds) => drop(timers::after(milliseconds)),
            Self::CancelTimer(handle) => timers::cancel(handle.number()),
            Self::Log(level, text) => {
                let all = [log::Level::Trace, log::Level::Debug, log::Level::Info, log::Level::Warn, log::Level::Error];
                log::write(all[usize::from(level) % all.len()], &text.with(names));
            }
            Self::OpenWebsocket { url, protocols, headers } => {
                drop(websocket::open(&url.with(names), &texts(protocols, names), &pairs(headers, names)));
            }
            Self::PollWebsocket(handle) => drop(websocket::poll(handle.number())),
            Self::ReceiveFrames(handle, frames, bytes) => drop(websocket::receive(handle.number(), frames, bytes)),
            Self::SendFrames(handle, frames) => {
                let frames: Vec<_> = frames
                    .into_iter()
                    .map(|frame| match frame {
                        Frame::Text(text) => websocket::Frame::Text(text.with(names)),
                        Frame::Binary(bytes) => websocket::Frame::Binary(bytes.bytes()),
                    })
                    .collect();
                drop(websocket::send(handle.number(), &frames));
            }
            Self::CloseWebsocket(handle, code, reason) => websocket::close(handle.number(), code, &reason.with(names)),
            Self::SendRequest { method, url, headers, body } => {
                let (url, headers) = (url.with(names), pairs(headers, names));
                drop(http::send(&http::Request { method: method.with(names), url, headers, body: body.bytes() }));
            }
            Self::PollExchange(handle) => drop(http::poll(handle.number())),
            Self::ReceiveBody(handle, bytes) => drop(http::receive(handle.number(), bytes)),
            Self::CancelExchange(handle) => http::cancel(handle.number()),
            Self::OpenTcp { host, port, tls } => {
                drop(tcp::open(&host.with(names), port.unwrap_or_else(|| names.port()), tls));
            }
            Self::StartTls(handle, name) => drop(tcp::start_tls(handle.number(), &name.with(names))),
            Self::PollTcp(handle) => drop(tcp::poll(handle.number())),
            Self::ReceiveTcp(handle, bytes) => drop(tcp::receive(handle.number(), bytes)),
            Self::SendTcp(handle, bytes) => drop(tcp::send(handle.number(), &bytes.bytes())),
            Self::CloseTcp(handle) => tcp::close(handle.number()),
            Self::Print(text) => println!("{}", text.with(names)),
            Self::Complain(text) => eprintln!("{}", text.with(names)),
            Self::Random => {
                use std::hash::{BuildHasher as _, RandomState};
                let _ = RandomState::new().hash_one(0);
            }
            Self::Now => drop(std::time::SystemTime::now().elapsed()),
            Self::Sleep(milliseconds) => std::thread::sleep(std::time::Duration::from_millis(milliseconds.into())),
            Self::Environment => drop(std::env::vars().collect::<Vec<_>>()),
            Self::ReadFile(name) => drop(std::fs::read(name.with(names))),
            Self::Listen => drop(std::net::TcpListener::bind("127.0.0.1:0")),
            Self::Grow(pages) => drop(core::arch::wasm32::memory_grow::<0>(pages.into())),
            Self::Trap => core::arch::wasm32::unreachable(),
        }
    }
}
