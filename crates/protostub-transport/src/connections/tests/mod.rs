//! Tests against real servers on loopback. They never sleep: [`drive`] polls the connections like
//! the sandbox's task, until the expected event.

mod http;
mod many;
mod tcp;
mod websocket;

use std::{
    future::{Future, poll_fn},
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use protostub_egress::{Egress, EgressConfig, Grants, Ports, Protection, QuotaLimits, Resolver};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Time that a test waits for an event: longer than every limit. Only a failing test waits so long.
const TEST_TIMEOUT: Duration = Duration::from_secs(100);

/// Resolves every name to this host, like the DNS of a malicious domain.
#[derive(Debug)]
struct LoopbackResolver;

#[async_trait]
impl Resolver for LoopbackResolver {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

/// The quota of a stub with these limits, but with unlimited attempts.
fn quota(limits: &TransportLimits) -> QuotaLimits {
    QuotaLimits { sockets: 2 * limits.connections, attempts_per_second: 1_000_000, ..QuotaLimits::default() }
}

fn connections() -> Connections {
    connections_with(TransportLimits::default(), EgressConfig::default())
}

/// Creates connections with a grant for loopback and one for `sp1.example`, which resolves to this
/// host.
fn connections_with(limits: TransportLimits, egress: EgressConfig) -> Connections {
    let egress = Egress::new(egress.with_resolver(Arc::new(LoopbackResolver))).unwrap();
    let grants = Grants::none().allow_host("127.0.0.1", Ports::all(), Protection::Plain).unwrap();
    let grants = grants.allow_host("sp1.example", Ports::all(), Protection::Plain).unwrap().allow_loopback(true);
    let quota = egress.quota(quota(&limits));
    Connections::new(egress, quota, grants, limits)
}

/// Polls the connections until the future is done. Returns its result, and the handles that had
/// events meanwhile.
async fn drive<T>(connections: &mut Connections, until: impl Future<Output = T>) -> (T, Vec<u32>) {
    let mut until = pin!(until);
    let mut ready = Vec::new();
    let driven = poll_fn(|cx| {
        while let Poll::Ready(handle) = connections.poll_ready(cx) {
            ready.push(handle);
        }
        until.as_mut().poll(cx)
    });
    let result = tokio::time::timeout(TEST_TIMEOUT, driven).await.expect("the future is done in time");
    (result, ready)
}

/// Returns the next handle with an event.
async fn next_ready(connections: &mut Connections) -> u32 {
    tokio::time::timeout(TEST_TIMEOUT, poll_fn(|cx| connections.poll_ready(cx))).await.expect("a handle has an event in time")
}

/// Repeats the question after each `ready` of the handle until there is an answer.
async fn ask<T>(connections: &mut Connections, handle: u32, mut question: impl FnMut(&mut Connections) -> Option<T>) -> T {
    loop {
        if let Some(answer) = question(connections) {
            return answer;
        }
        while next_ready(connections).await != handle {}
    }
}

/// Serves one connection on loopback. Returns its port.
async fn serve<T, F>(server: impl FnOnce(TcpStream) -> F + Send + 'static) -> (u16, JoinHandle<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, tokio::spawn(async move { server(listener.accept().await.unwrap().0).await }))
}

/// Starts a server that accepts a connection, reports this through the channel, and sends nothing.
async fn serve_nothing() -> (u16, oneshot::Receiver<()>) {
    let (accepted, was_accepted) = oneshot::channel();
    let (port, _server) = serve(async |tcp| {
        accepted.send(()).unwrap();
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    (port, was_accepted)
}

/// Returns a port without a listener.
async fn dead_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Creates a TLS server for `sp1.example`, and a configuration that trusts it.
fn tls() -> (TlsAcceptor, EgressConfig) {
    let certified = rcgen::generate_simple_self_signed(["sp1.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let trusting = EgressConfig::default().with_extra_roots_pem([certified.cert.pem().into_bytes()]).without_webpki_roots();
    (TlsAcceptor::from(Arc::new(server)), trusting)
}
