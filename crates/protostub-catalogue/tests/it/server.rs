//! Servers on loopback, and catalogues that may ask them.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Uri},
    response::{IntoResponse as _, Response},
};
use protostub_catalogue::{Catalogue, CatalogueConfig, Source};
use protostub_egress::{Egress, EgressConfig, Resolver};
use protostub_types::{Descriptor, Domain, StubKey, Version};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::AbortHandle,
};

/// Bytes of a component. The catalogue does not parse them.
pub(crate) const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0 and so on";

pub(crate) const OWN: &str = "/.well-known/protostub/default";
pub(crate) const OWN_IN_OTHER_SPELLING: &str = "/.well-known/protocolstub/default";

type Answer = Arc<dyn Fn(&HeaderMap) -> Response + Send + Sync>;

/// A domain with a web server. Paths without an answer return 404.
#[derive(Clone, Default)]
pub(crate) struct Server {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    port: u16,
    task: Option<AbortHandle>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut server = Self { port: listener.local_addr().unwrap().port(), ..Self::default() };
        let this = server.clone();
        let handler =
            move |uri: Uri, headers: HeaderMap| {
                this.asked.lock().unwrap().push(uri.path().to_owned());
                let answer = this.answers.lock().unwrap().get(uri.path()).cloned();
                std::future::ready(answer.map_or_else(
                    || (axum::http::StatusCode::NOT_FOUND, "nothing here").into_response(),
                    |answer| answer(&headers),
                ))
            };
        let task = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        server.task = Some(task.abort_handle());
        server
    }

    /// Stops listening.
    pub(crate) async fn stop(&self) {
        self.task.as_ref().unwrap().abort();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn domain(&self) -> Domain {
        Domain::parse(&format!("127.0.0.1:{}", self.port)).unwrap()
    }

    pub(crate) fn key(&self) -> StubKey {
        StubKey::Domain(self.domain())
    }

    pub(crate) fn answer(&self, path: &str, answer: impl Fn() -> Response + Send + Sync + 'static) -> &Self {
        self.answer_to(path, move |_| answer())
    }

    /// Sets an answer that depends on the headers of the request.
    pub(crate) fn answer_to(&self, path: &str, answer: impl Fn(&HeaderMap) -> Response + Send + Sync + 'static) -> &Self {
        self.answers.lock().unwrap().insert(path.to_owned(), Arc::new(answer));
        self
    }

    pub(crate) fn bytes(&self, path: &str, bytes: impl Into<Vec<u8>>) -> &Self {
        let bytes = bytes.into();
        self.answer(path, move || Body::from(bytes.clone()).into_response())
    }

    pub(crate) fn status(&self, path: &str, status: u16, text: &'static str) -> &Self {
        self.answer(path, move || (axum::http::StatusCode::from_u16(status).unwrap(), text).into_response())
    }

    /// Publishes a stub whose code is next to its descriptor.
    pub(crate) fn publish(&self, path: &str, descriptor: &Descriptor) -> &Self {
        self.bytes(path, descriptor.to_json())
    }

    /// Returns the paths that were asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Starts a server that answers every request with these bytes, and closes the connection.
pub(crate) async fn raw(answer: &'static [u8]) -> (Domain, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let domain = Domain::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            read_head(&mut connection).await;
            let _ = connection.write_all(answer).await;
        }
    });
    (domain, count)
}

/// Reads to the end of a request's head.
pub(crate) async fn read_head(connection: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap()
}

/// Returns the descriptor of [`COMPONENT`], with the code at `echo.wasm` next to it.
pub(crate) fn descriptor() -> Descriptor {
    let mut descriptor = Descriptor::new("echo", Version::parse("1.0").unwrap());
    descriptor.refer("echo.wasm", COMPONENT);
    descriptor
}

pub(crate) fn home() -> Domain {
    Domain::parse("home.example").unwrap()
}

/// Returns a configuration that allows loopback, with a single retry without delay.
pub(crate) fn config() -> CatalogueConfig {
    let mut config = CatalogueConfig::new(home());
    config.allow_loopback = true;
    config.retries = 1;
    config.retry_delay = Duration::from_millis(1);
    config
}

pub(crate) fn catalogue(config: CatalogueConfig) -> Catalogue {
    catalogue_with(config, Vec::new())
}

pub(crate) fn catalogue_with(config: CatalogueConfig, sources: Vec<Arc<dyn Source>>) -> Catalogue {
    Catalogue::new(config, egress(EgressConfig::default()), sources).unwrap()
}

/// Returns an egress with test names. `…sp1.example` is on loopback, `far.example` cannot be
/// resolved at the moment, and other names do not exist.
pub(crate) fn egress(mut config: EgressConfig) -> Egress {
    config.resolver = Some(Arc::new(Names));
    Egress::new(config).unwrap()
}

#[derive(Debug)]
struct Names;

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            _ if name.ends_with("sp1.example") => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            "far.example" => Err(io::Error::other("Temporary failure in name resolution")),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "Name or service not known")),
        }
    }
}
