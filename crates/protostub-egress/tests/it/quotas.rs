use std::{sync::Arc, time::Duration};

use protostub_egress::{Egress, EgressError, Grants, Protection, QuotaLimits};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Authority, Names, closed_port, config, connect, egress, listen, sp1_here};

/// Starts a server that accepts and keeps every connection, over TLS if there is an acceptor.
async fn keeper(acceptor: Option<TlsAcceptor>) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => drop(tcp.read_u8().await),
                    Some(acceptor) => drop(acceptor.accept(tcp).await?.read_u8().await),
                }
                std::io::Result::Ok(())
            });
        }
    });
    port
}

fn plain(port: u16) -> Grants {
    Grants::none().allow_host("sp1.example", port, Protection::Plain).unwrap().allow_loopback(true)
}

fn setting(error: &EgressError) -> Option<&'static str> {
    if let EgressError::Limit { limit, .. } = error { Some(limit.setting()) } else { None }
}

fn here() -> Egress {
    egress(&Names::of([("sp1.example", &["127.0.0.1"])]), &[])
}

#[tokio::test]
async fn socket_is_charged_until_it_is_closed() {
    let port = keeper(None).await;
    let (egress, grants) = (here(), plain(port));
    let quota = egress.quota(QuotaLimits { sockets: 2, ..QuotaLimits::default() });
    let open = async || egress.connect(&grants, &quota, "sp1.example", port, Protection::Plain, &[]).await;
    let (first, _second) = (open().await.unwrap(), open().await.unwrap());
    let error = open().await.unwrap_err();
    assert_eq!(setting(&error), Some("connections"), "{error}");
    assert!(error.is_retryable());
    // An early check agrees, and other parties are not affected.
    assert_eq!(quota.check().unwrap_err().setting(), "connections");
    assert!(connect(&egress, &grants, "sp1.example", port, Protection::Plain, &[]).await.is_ok());
    drop(first);
    assert_eq!(quota.sockets(), 1);
    assert!(open().await.is_ok());
}

#[tokio::test]
async fn failed_attempts_are_charged() {
    let port = closed_port().await;
    let names = Names::of([("sp1.example", &["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"])]);
    let (egress, grants) = (egress(&names, &[]), plain(port));
    let quota = egress.quota(QuotaLimits { attempts_per_second: 3, ..QuotaLimits::default() });
    let open = async || egress.connect(&grants, &quota, "sp1.example", port, Protection::Plain, &[]).await.unwrap_err();
    // Each dialled address is one of the six attempts of a burst.
    assert!(matches!(open().await, EgressError::Connect { attempts, .. } if attempts.len() == 4));
    let text = open().await.to_string();
    assert!(
        text.contains("127.0.0.2") && text.contains("127.0.0.3:") && text.contains("`connect-attempts-per-second`"),
        "{text}"
    );
    assert!(!text.contains("127.0.0.4"), "{text}");
    let error = open().await;
    assert_eq!(setting(&error), Some("connect_attempts_per_second"), "{error}");
    assert_eq!(names.asked(), 2, "no name is asked for");
    assert_eq!(quota.take_refusals()[1], ("connect_attempts_per_second", 2));
    assert_eq!(quota.sockets(), 0);
}

/// Creates a server that sends these intermediates after its certificate, whose issuer is named
/// `m`.
fn server_with(intermediates: Vec<CertificateDer<'static>>, issuer: &CertifiedIssuer<'_, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["sp1.example".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let mut chain = vec![leaf.der().clone()];
    chain.extend(intermediates);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

async fn refused(acceptor: TlsAcceptor) -> String {
    let port = keeper(Some(acceptor)).await;
    let config = config(&Names::of([("sp1.example", &["127.0.0.1"])]), &[&Authority::new()]);
    let egress = Egress::new(config.with_connect_timeout(Duration::from_secs(5))).unwrap();
    let error = connect(&egress, &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap_err();
    assert!(matches!(error, EgressError::Tls { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn long_chain_is_refused_by_its_length() {
    let issuer = CertifiedIssuer::self_signed(authority_params("m"), KeyPair::generate().unwrap()).unwrap();
    let text = refused(server_with(vec![issuer.der().clone(); 11], &issuer)).await;
    assert!(text.contains("the server sent 11 intermediate certificates, and at most 10 are allowed"), "{text}");
    let text = refused(server_with(vec![issuer.der().clone(); 10], &issuer)).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
}

/// The server sends ten intermediates, each of which may have issued every other one. webpki would
/// try 187 000 paths, which takes longer than the connection's timeout.
#[tokio::test]
async fn chain_with_many_paths_is_tried_along_one() {
    let key = || KeyPair::generate().unwrap();
    let issuer = CertifiedIssuer::self_signed(authority_params("m"), key()).unwrap();
    let issue = |_| CertifiedIssuer::signed_by(authority_params("m"), key(), &issuer).unwrap().der().clone();
    let text = refused(server_with((0..10).map(issue).collect(), &issuer)).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
}

#[tokio::test]
async fn chain_out_of_order_is_still_verified() {
    let authority = Authority::new();
    let issuer = authority.intermediate("one");
    let below = CertifiedIssuer::signed_by(authority_params("two"), KeyPair::generate().unwrap(), &issuer).unwrap();
    let stranger = CertifiedIssuer::self_signed(authority_params("two"), KeyPair::generate().unwrap()).unwrap();
    let chain = vec![issuer.der().clone(), stranger.der().clone(), below.der().clone()];
    let port = keeper(Some(server_with(chain, &below))).await;
    let egress = egress(&Names::of([("sp1.example", &["127.0.0.1"])]), &[&authority]);
    connect(&egress, &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap();
}

/// Certificates are verified on threads named `protostub-tls`, not on the caller's thread.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn handshake_runs_on_tls_threads() {
    let authority = Authority::new();
    let port = keeper(Some(authority.server(&["sp1.example"]))).await;
    let egress = egress(&Names::of([("sp1.example", &["127.0.0.1"])]), &[&authority]);
    connect(&egress, &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap();
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    assert!(names.any(|name| name.trim() == "protostub-tls"));
}
