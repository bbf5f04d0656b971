//! Fixtures: names, certificates and servers.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use protostub_egress::{Connection, Egress, EgressConfig, EgressError, Grants, HttpClient, Protection, Resolver};
use protostub_types::Domain;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A resolver with fixed answers. Each name returns its answers in turn, and then repeats the last
/// one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    pub(crate) fn of<const N: usize>(names: [(&str, &[&str]); N]) -> Arc<Self> {
        let this = Self::default();
        for (name, addresses) in names {
            this.then(name, addresses);
        }
        Arc::new(this)
    }

    /// Adds the next answer for a name.
    pub(crate) fn then(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.answers.lock().unwrap().entry(name.to_owned()).or_default().push(addresses);
    }

    /// Number of look-ups so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(name) {
            None => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
            Some(answers) if answers.len() > 1 => Ok(answers.remove(0)),
            Some(answers) => Ok(answers[0].clone()),
        }
    }
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities with the same name would be one authority to a client, and their signatures
        // would fail.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Certifies an intermediate authority with this name.
    pub(crate) fn intermediate(&self, name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap()
    }

    /// Creates an acceptor with a certificate for these names.
    pub(crate) fn server(&self, names: &[&str]) -> TlsAcceptor {
        self.server_of(CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap())
    }

    pub(crate) fn server_of(&self, params: CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![b"mqtt".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Binds a listener on 127.0.0.1. Returns its port too.
pub(crate) async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Returns a port without a listener.
pub(crate) async fn closed_port() -> u16 {
    listen().await.1
}

/// A listener through which axum serves TLS.
pub(crate) struct Tls {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (tcp, address) = self.listener.accept().await.unwrap();
            if let Ok(tls) = self.acceptor.accept(tcp).await {
                return (tls, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

pub(crate) fn egress(names: &Arc<Names>, roots: &[&Authority]) -> Egress {
    Egress::new(config(names, roots)).unwrap()
}

pub(crate) fn config(names: &Arc<Names>, roots: &[&Authority]) -> EgressConfig {
    EgressConfig::default()
        .with_extra_roots_pem(roots.iter().map(|authority| authority.pem()))
        .without_webpki_roots()
        .with_resolver(Arc::clone(names) as Arc<dyn Resolver>)
}

/// Returns the same-domain default of `sp1.example` with a port.
pub(crate) fn sp1(port: u16) -> Grants {
    Grants::same_domain(&Domain::parse("sp1.example").unwrap(), &[port])
}

/// Returns the grants of [`sp1`], with loopback allowed.
pub(crate) fn sp1_here(port: u16) -> Grants {
    sp1(port).allow_loopback(true)
}

/// Connects on the host's own account.
pub(crate) async fn connect(
    egress: &Egress,
    grants: &Grants,
    host: &str,
    port: u16,
    protection: Protection,
    alpn: &[&[u8]],
) -> Result<Connection, EgressError> {
    egress.connect(grants, egress.own(), host, port, protection, alpn).await
}

/// Begins TLS on the host's own account.
pub(crate) async fn start_tls(
    egress: &Egress,
    grants: &Grants,
    connection: Connection,
    server_name: &str,
) -> Result<Connection, EgressError> {
    egress.start_tls(grants, egress.own(), connection, server_name).await
}

/// Creates an HTTP client on the host's own account.
pub(crate) fn http(egress: &Egress, grants: &Grants) -> HttpClient {
    egress.http(grants, egress.own())
}
