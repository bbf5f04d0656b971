//! Faults in place of a document, and their error texts.

use std::{
    fmt::Write as _,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{Html, IntoResponse as _, Redirect},
};
use futures_util::{StreamExt as _, stream};
use protostub_catalogue::{CatalogueConfig, CatalogueError, Fault, MemorySource};
use protostub_types::{Domain, StubKey};

use crate::server::{COMPONENT, OWN, Server, catalogue, catalogue_with, config, descriptor, raw};

const CODE: &str = "/.well-known/protostub/echo.wasm";

/// Report of one paragraph for each case: its name, its class for callers, and the text.
#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, case: &str, domain: &Domain, error: &CatalogueError) {
        let branch = match (error.is_not_found(), error.is_retryable()) {
            (true, _) => "not found",
            (_, true) => "may pass",
            _ => "stays",
        };
        let text = error.to_string().replace(domain.as_str(), "SP1").replace(error.domain().as_str(), "SP1");
        let _ = writeln!(self.0, "{case} [{branch}]\n{text}\n");
    }
}

async fn discover(server: &Server, config: CatalogueConfig) -> CatalogueError {
    catalogue(config).discover(&server.key()).await.unwrap_err()
}

async fn fetch(server: &Server, config: CatalogueConfig) -> CatalogueError {
    let catalogue = catalogue(config);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap_err()
}

fn small() -> CatalogueConfig {
    let mut config = config();
    config.max_descriptor_bytes = 2000;
    config.max_component_bytes = 3000;
    config
}

/// Returns a configuration with a timeout of half a second for silent servers.
fn hasty() -> CatalogueConfig {
    let mut config = config();
    config.retries = 0;
    config.idle_timeout = Duration::from_millis(500);
    config
}

fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1000]))))
}

#[tokio::test]
async fn descriptors() {
    let mut report = Report::default();
    let server = Server::start().await;
    let domain = server.domain();
    report.add("nothing there", &domain, &discover(&server, config()).await);

    for (case, status, text) in [
        ("gone", 410, "it was here"),
        ("the server fails", 500, "java.lang.NullPointerException\n\tat eu.rethink"),
        ("the server is overloaded", 503, ""),
        ("forbidden", 403, "<html>go away</html>"),
        ("nothing at all", 200, ""),
        ("a text", 200, "It works!"),
        ("half a descriptor", 200, r#"{"objectName": "echo","#),
        ("an array", 200, "[]"),
        ("no object name", 200, r#"{"version": "1"}"#),
        ("a bad digest", 200, r#"{"objectName": "echo", "version": "1", "sourcePackage": {"sha256": "123"}}"#),
        ("another language", 200, r#"{"objectName": "echo", "version": "1", "language": "javascript"}"#),
        ("no code", 200, r#"{"objectName": "echo", "version": "1", "language": "WASM_COMPONENT"}"#),
    ] {
        server.status(OWN, status, text);
        report.add(case, &domain, &discover(&server, config()).await);
    }
    server.bytes(OWN, "[".repeat(1900));
    report.add("too deep", &domain, &discover(&server, small()).await);
    server.answer(OWN, || Html("\n<!DOCTYPE html>\n<title>Welcome</title>").into_response());
    report.add("a web page", &domain, &discover(&server, config()).await);
    server.answer(OWN, || ([(header::CONTENT_ENCODING, "gzip")], "\x1f").into_response());
    report.add("compressed", &domain, &discover(&server, config()).await);
    server.bytes(OWN, vec![b' '; 2001]);
    report.add("too large, with a stated size", &domain, &discover(&server, small()).await);
    server.answer(OWN, || endless().into_response());
    report.add("endless", &domain, &discover(&server, small()).await);
    server.answer(OWN, || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()).into_response());
    report.add("a stalled answer", &domain, &discover(&server, hasty()).await);
    server.answer(OWN, || Redirect::temporary("http://localhost/x").into_response());
    report.add("redirected to another host", &domain, &discover(&server, config()).await);
    server.answer(OWN, || Redirect::temporary("http://10.0.0.1/").into_response());
    report.add("redirected to a private network", &domain, &discover(&server, config()).await);
    server.answer(OWN, || Redirect::temporary("http://127.0.0.1:1/").into_response());
    report.add("redirected to another port", &domain, &discover(&server, config()).await);
    server.answer(OWN, || Redirect::permanent(OWN).into_response());
    report.add("redirected in a circle", &domain, &discover(&server, config()).await);

    let (domain, _) = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
    let error = catalogue(config()).discover(&StubKey::Domain(domain.clone())).await.unwrap_err();
    report.add("truncated", &domain, &error);
    let (domain, _) = raw(b"SSH-2.0-OpenSSH_9.9\r\n").await;
    let error = catalogue(config()).discover(&StubKey::Domain(domain.clone())).await.unwrap_err();
    report.add("not HTTP", &domain, &error);
    for (case, name) in [("an unknown domain", "nowhere.example"), ("a domain that cannot be resolved now", "far.example")] {
        let domain = Domain::parse(name).unwrap();
        let error = catalogue(config()).discover(&StubKey::Domain(domain.clone())).await.unwrap_err();
        report.add(case, &domain, &error);
    }
    insta::assert_snapshot!(report.0);
}

#[tokio::test]
async fn components() {
    let mut report = Report::default();
    let server = Server::start().await;
    let domain = server.domain();
    server.publish(OWN, &descriptor());
    report.add("nothing there", &domain, &fetch(&server, config()).await);
    server.status(CODE, 503, "back soon");
    report.add("the server is overloaded", &domain, &fetch(&server, config()).await);
    server.bytes(CODE, [COMPONENT, b"!"].concat());
    report.add("other code", &domain, &fetch(&server, config()).await);
    server.answer(CODE, || Html("<html>Please log in</html>").into_response());
    report.add("a web page", &domain, &fetch(&server, config()).await);
    server.bytes(CODE, r#"{"encoding": "base64", "sourceCode": "%%%"}"#);
    report.add("a source package that is not base64", &domain, &fetch(&server, config()).await);
    server.bytes(CODE, vec![0; 3001]);
    report.add("too large, with a stated size", &domain, &fetch(&server, small()).await);
    server.answer(CODE, || endless().into_response());
    report.add("endless", &domain, &fetch(&server, small()).await);
    server.answer(CODE, || {
        Body::from_stream(stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"\0asm")) }).chain(stream::pending()))
            .into_response()
    });
    let found = catalogue(config()).discover(&server.key()).await.unwrap();
    report.add("a stalled answer", &domain, &catalogue(hasty()).fetch(&found).await.unwrap_err());
    let mut stub = descriptor();
    let (broken, _) = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n\0asm").await;
    stub.refer(&format!("http://{broken}/echo.wasm"), COMPONENT);
    server.publish(OWN, &stub);
    report.add("truncated", &broken, &fetch(&server, config()).await);
    stub.refer("/large.wasm", &[0; 3001]);
    server.publish(OWN, &stub);
    report.add("the descriptor says that it is too large", &domain, &fetch(&server, small()).await);
    stub.refer("/echo.wasm", COMPONENT);
    stub.source_package.as_mut().unwrap().size = Some(7);
    server.publish(OWN, &stub).bytes("/echo.wasm", COMPONENT);
    report.add("another size", &domain, &fetch(&server, config()).await);
    stub.embed(COMPONENT);
    stub.source_package.as_mut().unwrap().sha256 = descriptor_of(b"other").digest();
    server.publish(OWN, &stub);
    report.add("other code in the descriptor", &domain, &fetch(&server, config()).await);
    stub.embed(&[0; 3001]);
    server.publish(OWN, &stub);
    let mut large = small();
    large.max_descriptor_bytes = 10_000;
    report.add("too large, in the descriptor", &domain, &fetch(&server, large).await);
    stub.source_package.as_mut().unwrap().source_code = Some("%%%".into());
    server.publish(OWN, &stub);
    report.add("not base64, in the descriptor", &domain, &fetch(&server, config()).await);
    stub.source_package.as_mut().unwrap().sha256 = None;
    server.publish(OWN, &stub);
    report.add("no digest", &domain, &fetch(&server, config()).await);

    for (case, url) in [
        ("elsewhere, without a digest", "https://cdn.example/echo.wasm"),
        ("no URL", "http://"),
        ("a file", "file:///etc/passwd"),
        ("with a password", "https://me:secret@sp1.example/echo.wasm"),
    ] {
        stub = descriptor();
        stub.source_package = None;
        stub.source_package_url = Some(url.to_owned());
        server.publish(OWN, &stub);
        report.add(case, &domain, &fetch(&server, config()).await);
    }
    for (case, url) in [
        ("elsewhere, on a host that does not exist", "https://cdn.example/echo.wasm"),
        ("elsewhere, without TLS", "http://sp1.example/echo.wasm"),
    ] {
        stub = descriptor();
        stub.refer(url, COMPONENT);
        server.publish(OWN, &stub);
        report.add(case, &domain, &fetch(&server, config()).await);
    }
    insta::assert_snapshot!(report.0);
}

#[tokio::test]
async fn descriptor_cannot_make_the_host_ask_other_services() {
    let server = Server::start().await;
    for url in [
        "https://10.0.0.1/echo.wasm",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:169.254.169.254]/",
        "https://mail.sp1.example:25/echo.wasm",
        "https://2852039166/",
    ] {
        let mut stub = descriptor();
        stub.refer(url, COMPONENT);
        server.publish(OWN, &stub);
        let error = fetch(&server, config()).await;
        assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
    }
    // A domain that is not on loopback cannot make this host ask its own services.
    let memory = Arc::new(MemorySource::new());
    let domain = Domain::parse("sp2.example").unwrap();
    let mut config = config();
    config.allow_http = true;
    let catalogue = catalogue_with(config, vec![memory.clone()]);
    let port = server.domain().port().unwrap();
    for host in ["http://127.0.0.1", "https://localhost", "https://a.localhost", "http://0x7f.1", "http://[::ffff:127.0.0.1]"] {
        let url = format!("{host}:{port}/x");
        let mut stub = descriptor();
        stub.refer(&url, COMPONENT);
        memory.insert(&domain, "other", stub.to_json(), COMPONENT);
        let key = StubKey::Named { domain: domain.clone(), name: "other".to_owned() };
        let found = catalogue.discover(&key).await.unwrap();
        memory.remove(&domain, "other");
        let error = catalogue.fetch(&found).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
    }
    assert!(!server.asked().contains(&"/x".to_owned()));
}

fn descriptor_of(component: &[u8]) -> protostub_types::Descriptor {
    let mut stub = descriptor();
    stub.refer("x", component);
    stub
}

#[tokio::test]
async fn transient_fault_is_retried() {
    let server = Server::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let json = descriptor().to_json();
    server.answer(OWN, move || match counted.fetch_add(1, Ordering::Relaxed) {
        0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
        _ => json.clone().into_response(),
    });
    let mut patient = config();
    patient.retries = 2;
    assert!(catalogue(patient).discover(&server.key()).await.is_ok());
    assert_eq!(count.load(Ordering::Relaxed), 3);

    for (status, times) in [(503, 2), (500, 2), (404, 1), (403, 1), (501, 1)] {
        server.status(OWN, status, "");
        server.asked();
        discover(&server, config()).await;
        let asked = server.asked().iter().filter(|path| *path == OWN).count();
        assert_eq!(asked, times, "{status}");
    }
    // A server with a long `Retry-After` is not asked again.
    for (retry_after, times) in [("0", 2), ("3", 1), ("86400", 1), ("Sun, 22 Nov 2026 10:00:00 GMT", 2), ("soon", 2)] {
        server.answer(OWN, move || (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, retry_after)]).into_response());
        server.asked();
        discover(&server, config()).await;
        assert_eq!(server.asked().len(), times, "{retry_after}");
    }
    let (domain, count) = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(catalogue(config()).discover(&StubKey::Domain(domain)).await.is_err());
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn endless_answer_exceeds_the_total_timeout() {
    let server = Server::start().await;
    // The server is never silent for long, and never ends.
    server.answer(OWN, || {
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        Body::from_stream(drops).into_response()
    });
    let mut hasty = config();
    hasty.descriptor_timeout = Duration::from_millis(100);
    let error = tokio::time::timeout(Duration::from_secs(20), discover(&server, hasty)).await.expect("the request ends");
    assert!(matches!(error.fault(), Fault::TimedOut { limit, .. } if limit.as_millis() == 100), "{error}");
}
