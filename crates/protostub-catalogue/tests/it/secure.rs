//! Catalogues over TLS, with a test certificate authority.

use std::{fs, net::Ipv4Addr, sync::Arc};

use protostub_catalogue::{Catalogue, Fault};
use protostub_egress::EgressConfig;
use protostub_types::{Domain, StubKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use crate::server::{COMPONENT, Server, config, descriptor, egress, read_head};

fn at(name: &str, port: u16) -> Domain {
    Domain::parse(&format!("{name}:{port}")).unwrap()
}

/// Starts a server of `sp1.example` that answers every request with one text. Returns its port, and
/// the root of its certificate.
async fn start(text: String) -> (u16, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(["sp1.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(mut connection) = acceptor.accept(connection).await else { continue };
            read_head(&mut connection).await;
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            let _ = connection.write_all(answer.as_bytes()).await;
            let _ = connection.shutdown().await;
        }
    });
    (port, certified.cert.pem().into_bytes())
}

#[tokio::test]
async fn domains_are_asked_over_tls() {
    let mut stub = descriptor();
    stub.embed(COMPONENT);
    let (port, root) = start(stub.to_json()).await;
    let home = Server::start().await;
    let mut config = config();
    config.home = home.domain();
    config.loopback = ["sp1.example", "other.sp1.example"].map(|name| at(name, port)).into();
    let catalogue = |roots: Vec<Vec<u8>>| {
        let egress = egress(EgressConfig::default().with_extra_roots_pem(roots));
        Catalogue::new(config.clone(), egress, Vec::new()).unwrap()
    };
    let key = |name: &str| StubKey::Domain(at(name, port));

    let trusting = catalogue(vec![root]);
    let found = trusting.discover(&key("sp1.example")).await.unwrap();
    assert_eq!(found.url.as_str(), format!("https://sp1.example:{port}/.well-known/protostub/default"));
    assert_eq!(trusting.fetch(&found).await.unwrap().bytes(), COMPONENT);

    // A server with an invalid certificate is not believed, and is no reason to ask another domain.
    for (catalogue, name) in [(catalogue(Vec::new()), "sp1.example"), (trusting, "other.sp1.example")] {
        let error = catalogue.discover(&key(name)).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Tls { .. }), "{error}");
        assert!(!error.is_not_found() && !error.is_retryable());
    }
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn copy_is_not_used_after_a_certificate_fault() {
    let dir = tempfile::tempdir().unwrap();
    let mut stub = descriptor();
    stub.embed(COMPONENT);
    let (port, root) = start(stub.to_json()).await;
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    config.loopback.insert(at("sp1.example", port));
    let catalogue = |roots: Vec<Vec<u8>>| {
        let egress = egress(EgressConfig::default().with_extra_roots_pem(roots));
        Catalogue::new(config.clone(), egress, Vec::new()).unwrap()
    };
    let key = StubKey::Domain(at("sp1.example", port));
    catalogue(vec![root]).discover(&key).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("descriptors")).unwrap().count(), 1);
    let error = catalogue(Vec::new()).discover(&key).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Tls { .. }), "{error}");
}

#[tokio::test]
async fn code_of_a_tls_descriptor_needs_tls() {
    let plain = Server::start().await;
    plain.bytes("/echo.wasm", COMPONENT);
    for url in [
        format!("http://{}/echo.wasm", plain.domain()),
        format!("http://sp1.example:{}/echo.wasm", plain.domain().port().unwrap()),
    ] {
        let mut stub = descriptor();
        stub.refer(&url, COMPONENT);
        let (port, root) = start(stub.to_json()).await;
        let egress = egress(EgressConfig::default().with_extra_roots_pem([root]));
        let mut config = config();
        config.loopback.insert(at("sp1.example", port));
        let catalogue = Catalogue::new(config, egress, Vec::new()).unwrap();
        let key = StubKey::Domain(at("sp1.example", port));
        let found = catalogue.discover(&key).await.unwrap();
        let error = catalogue.fetch(&found).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
    }
    assert!(plain.asked().is_empty());
}
