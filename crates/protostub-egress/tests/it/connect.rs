use std::{io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use protostub_egress::{Connection, Egress, EgressConfig, EgressError, Grants, Missing, Phase, Protection, Resolver};
use rcgen::{CertificateParams, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Authority, Names, closed_port, config, connect, egress, listen, sp1, sp1_here};

/// Starts a server that echoes its input, over TLS if there is an acceptor.
async fn echo(acceptor: Option<TlsAcceptor>) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            match &acceptor {
                None => drop(tokio::spawn(async move {
                    let (mut from, mut to) = tcp.split();
                    tokio::io::copy(&mut from, &mut to).await
                })),
                Some(acceptor) => {
                    let accept = acceptor.accept(tcp);
                    drop(tokio::spawn(async move {
                        let (mut from, mut to) = tokio::io::split(accept.await?);
                        tokio::io::copy(&mut from, &mut to).await?;
                        to.shutdown().await
                    }));
                }
            }
        }
    });
    port
}

async fn assert_echoes(mut connection: Connection) {
    connection.write_all(b"hello").await.unwrap();
    connection.flush().await.unwrap();
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

async fn refused(addresses: &[&str], grants: Grants) -> String {
    let names = Names::of([("sp1.example", addresses)]);
    let error = connect(&egress(&names, &[]), &grants, "sp1.example", 8883, Protection::Tls, &[]).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    assert!(!error.is_retryable());
    error.to_string()
}

#[tokio::test]
async fn connection_carries_bytes_with_and_without_tls() {
    let authority = Authority::new();
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let egress = egress(&names, &[&authority]);

    let port = echo(Some(authority.server(&["sp1.example"]))).await;
    let connection = connect(&egress, &sp1_here(port), "SP1.example.", port, Protection::Tls, &[b"xmpp", b"mqtt"]).await.unwrap();
    assert_eq!(connection.alpn_protocol(), Some(&b"mqtt"[..]));
    assert_eq!((connection.host().as_str(), connection.port(), connection.is_tls()), ("sp1.example", port, true));
    assert_eq!(connection.peer_address().unwrap(), ([127, 0, 0, 1], port).into());
    assert_echoes(connection).await;

    let port = echo(None).await;
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    let connection = connect(&egress, &grants, "sp1.example", port, Protection::Plain, &[]).await.unwrap();
    assert!(!connection.is_tls());
    assert_echoes(connection).await;
}

#[tokio::test]
async fn name_without_rule_is_not_resolved() {
    let names = Names::of([("sp2.example", &["127.0.0.1"])]);
    let error = connect(&egress(&names, &[]), &sp1(8883), "sp2.example", 8883, Protection::Tls, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "`sp2.example:8883` is refused: no rule names this host; grant `sp2.example:8883` to allow it");
    assert_eq!(names.asked(), 0);
}

#[tokio::test]
async fn granted_name_does_not_admit_special_addresses() {
    let sp1 = || sp1(8883);
    assert_eq!(
        refused(&["127.0.0.1"], sp1()).await,
        "`sp1.example:8883` is refused: its address 127.0.0.1 is loopback, RFC 1122; grant loopback (`allow-loopback` for the domain) to allow it"
    );
    assert_eq!(
        refused(&["::ffff:10.0.0.1"], sp1()).await,
        "`sp1.example:8883` is refused: its address 10.0.0.1 is private, RFC 1918; grant private networks (`allow-private` for the domain) to allow it"
    );
    assert_eq!(
        refused(&["169.254.169.254"], sp1().allow_loopback(true).allow_private(true)).await,
        "`sp1.example:8883` is refused: its address 169.254.169.254 is link-local and the metadata service of most clouds, RFC 3927; \
         no grant allows it"
    );
    let text = refused(&["fe80::1", "64:ff9b::10.0.0.1", "0.0.0.0"], sp1().allow_loopback(true).allow_private(true)).await;
    assert!(text.contains("fe80::1") && text.contains("64:ff9b::a00:1") && text.contains("0.0.0.0"), "{text}");
    refused(&["10.0.0.1"], sp1().allow_loopback(true)).await;
    refused(&["127.0.0.1"], sp1().allow_private(true)).await;
}

#[tokio::test]
async fn addresses_beyond_the_first_16_are_ignored() {
    let many: Vec<String> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
    let text = refused(&many.iter().map(String::as_str).collect::<Vec<_>>(), sp1(8883)).await;
    assert!(text.contains("10.0.0.15 ") && !text.contains("10.0.0.16 "), "{text}");
}

#[tokio::test]
async fn forbidden_addresses_are_skipped() {
    let authority = Authority::new();
    let port = echo(Some(authority.server(&["sp1.example"]))).await;
    let names = Names::of([("sp1.example", &["169.254.169.254", "10.0.0.1", "127.0.0.1"])]);
    let connection =
        connect(&egress(&names, &[&authority]), &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap();
    assert_eq!(connection.peer_address().unwrap().ip().to_string(), "127.0.0.1");
}

#[tokio::test]
async fn judged_address_is_the_dialled_address() {
    let port = echo(None).await;
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    names.then("sp1.example", &["169.254.169.254"]);
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    let egress = egress(&names, &[]);

    let connection = connect(&egress, &grants, "sp1.example", port, Protection::Plain, &[]).await.unwrap();
    assert_eq!(connection.peer_address().unwrap().ip().to_string(), "127.0.0.1");
    assert_eq!(names.asked(), 1);

    let error = connect(&egress, &grants, "sp1.example", port, Protection::Plain, &[]).await.unwrap_err();
    assert!(error.to_string().contains("169.254.169.254"), "{error}");
}

#[tokio::test]
async fn failed_address_is_followed_by_the_next() {
    let port = echo(None).await;
    let names = Names::of([("sp1.example", &["127.0.0.2", "127.0.0.1"])]);
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    assert_echoes(connect(&egress(&names, &[]), &grants, "sp1.example", port, Protection::Plain, &[]).await.unwrap()).await;
}

#[tokio::test]
async fn error_names_every_failed_address() {
    let port = closed_port().await;
    let names = Names::of([("sp1.example", &["127.0.0.1", "127.0.0.2"])]);
    let error = connect(&egress(&names, &[]), &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("failed to connect to `sp1.example:{port}`: 127.0.0.1:{port}: ")), "{text}");
    assert!(text.contains(&format!("; 127.0.0.2:{port}: ")), "{text}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn missing_name_differs_from_name_without_addresses() {
    let names = Names::of([("sp1.example", &[])]);
    let egress = egress(&names, &[]);
    let check = async |host: &str, expected: &str| {
        let error = connect(&egress, &sp1(8883), host, 8883, Protection::Tls, &[]).await.unwrap_err();
        assert!(matches!(error, EgressError::NoSuchHost { .. }) && !error.is_retryable());
        assert_eq!(error.to_string(), expected);
    };
    check("sp1.example", "there is no host `sp1.example`: the name has no addresses").await;
    check("a.sp1.example", "there is no host `a.sp1.example`: no such name").await;
}

#[tokio::test]
async fn localhost_is_never_resolved() {
    let port = echo(None).await;
    let names = Names::of([("sp1.localhost", &["10.0.0.1"]), ("localhost", &["10.0.0.1"])]);
    let egress = egress(&names, &[]);
    for host in ["sp1.localhost", "localhost", "127.0.0.1", "::ffff:127.0.0.1"] {
        let grants = Grants::none().allow_host(host, port, Protection::Tls).unwrap();
        let error = connect(&egress, &grants, host, port, Protection::Plain, &[]).await.unwrap_err();
        assert!(matches!(&error, EgressError::Refused(refused) if refused.missing() == Missing::Loopback), "{error}");
        // On loopback, a rule that requires TLS also allows plain connections.
        assert_echoes(connect(&egress, &grants.allow_loopback(true), host, port, Protection::Plain, &[]).await.unwrap()).await;
    }
    assert_eq!(names.asked(), 0);
}

#[tokio::test]
async fn certificate_must_match_name_and_authority() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let check = async |acceptor, roots: &[&Authority], expected: &str| {
        let port = echo(acceptor).await;
        let error =
            connect(&egress(&names, roots), &sp1_here(port), "sp1.example", port, Protection::Tls, &[]).await.unwrap_err();
        assert!(matches!(error, EgressError::Tls { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("failed to establish TLS with `sp1.example:{port}`: ")), "{text}");
        assert!(text.contains(expected), "{text}");
    };
    check(Some(theirs.server(&["sp1.example"])), &[&ours], "no trusted root issued the certificate").await;
    check(Some(ours.server(&["sp1.example"])), &[], "add its root to `trust-roots`").await;
    check(Some(ours.server(&["sp2.example"])), &[&ours], "not valid for name \"sp1.example\"").await;
    let mut expired = CertificateParams::new(vec!["sp1.example".to_owned()]).unwrap();
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    check(Some(ours.server_of(expired)), &[&ours], "certificate expired").await;
    check(None, &[&ours], "").await;
}

#[tokio::test]
async fn granted_address_needs_its_own_certificate() {
    let authority = Authority::new();
    let names = Names::of([]);
    let port = echo(Some(authority.server(&["127.0.0.1"]))).await;
    let grants = Grants::none().allow_loopback(true).allow_host("127.0.0.1", port, Protection::Tls).unwrap();
    assert_echoes(connect(&egress(&names, &[&authority]), &grants, "127.0.0.1", port, Protection::Tls, &[]).await.unwrap()).await;
}

#[tokio::test]
async fn malformed_host_is_invalid_not_refused() {
    let names = Names::of([]);
    let egress = egress(&names, &[]);
    for host in ["", "a b", "sp1.example:443", "127.1", "user@sp1.example", "sp1.example\r\nX: y"] {
        let error = connect(&egress, &sp1(443), host, 443, Protection::Tls, &[]).await.unwrap_err();
        assert!(matches!(error, EgressError::Invalid { .. }), "{host}: {error}");
    }
}

/// A resolver that never answers.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Resolver for Silent {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

/// A resolver that cannot reach a name service.
#[derive(Debug)]
struct CutOff;

#[async_trait]
impl Resolver for CutOff {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("try again later"))
    }
}

#[tokio::test]
async fn failed_resolution_is_retryable() {
    let egress = Egress::new(EgressConfig::default().with_resolver(Arc::new(CutOff))).unwrap();
    let error = connect(&egress, &sp1(443), "sp1.example", 443, Protection::Tls, &[]).await.unwrap_err();
    assert!(matches!(error, EgressError::Resolve { .. }) && error.is_retryable());
    assert_eq!(error.to_string(), "failed to resolve `sp1.example`: try again later");
}

#[tokio::test(start_paused = true)]
async fn silent_resolver_times_out() {
    let egress = Egress::new(EgressConfig::default().with_resolver(Arc::new(Silent))).unwrap();
    let error = connect(&egress, &sp1(443), "sp1.example", 443, Protection::Tls, &[]).await.unwrap_err();
    assert!(matches!(error, EgressError::TimedOut { phase: Phase::Resolving, .. }), "{error:?}");
    assert_eq!(error.to_string(), "failed to reach `sp1.example:443` within 15s: timed out while resolving the name");
}

#[tokio::test]
async fn error_names_invalid_root_by_number() {
    let names = Names::of([]);
    let check = |pem: &[u8], expected: &str| {
        let authority = Authority::new();
        let mut config = config(&names, &[&authority]);
        config.extra_roots_pem.push(pem.to_vec());
        let text = Egress::new(config).unwrap_err().to_string();
        assert!(text.starts_with("the egress configuration is invalid: extra root 2: ") && text.contains(expected), "{text}");
    };
    check(b"", "the text has no `BEGIN CERTIFICATE` section");
    check(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "the text is not PEM");
    check(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "the certificate is not a root");
}

#[tokio::test]
async fn system_resolver_knows_localhost() {
    let addresses = protostub_egress::SystemResolver::new().resolve("localhost").await.unwrap();
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
}

#[tokio::test]
async fn system_resolver_reports_missing_name() {
    // The resolver rejects this name without asking a name service, which may be unreachable here.
    let error = protostub_egress::SystemResolver::new().resolve("no host").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
}
