//! The search for a descriptor: which URLs are asked, and which are not.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Redirect},
};
use futures_util::stream;
use protostub_catalogue::Fault;
use protostub_types::{Domain, Encoding, SourcePackage, StubKey};

use crate::server::{COMPONENT, OWN, OWN_IN_OTHER_SPELLING, Server, catalogue, config, descriptor};

#[tokio::test]
async fn stub_is_found_and_verified() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes("/.well-known/protostub/echo.wasm", COMPONENT);
    let catalogue = catalogue(config());
    let found = catalogue.discover(&server.key()).await.unwrap();
    assert_eq!(found.descriptor, descriptor());
    assert_eq!(found.url.path(), OWN);
    assert_eq!(found.publisher, server.domain());
    let component = catalogue.fetch(&found).await.unwrap();
    assert_eq!(component.bytes(), COMPONENT);
    assert!(component.is_pinned() && !component.is_stored());
    assert_eq!(server.asked(), [OWN, "/.well-known/protostub/echo.wasm"]);
}

#[tokio::test]
async fn other_spelling_is_asked_second() {
    let server = Server::start().await;
    server.publish(OWN_IN_OTHER_SPELLING, &descriptor()).bytes("/.well-known/protocolstub/echo.wasm", COMPONENT);
    // reTHINK's broker answers like this if it does not know the type, or the instance.
    for (status, text) in [
        (404, ""),
        (410, "gone"),
        (400, "Unknown object type, please use one of: [protocolstub, hyperty] or 'restart'"),
        (500, "Unknown object type, please use one of: [protocolstub, hyperty] or 'restart'"),
        (500, "No instance defined as default for type 'protostub'"),
        (500, "Could not find instance: default"),
    ] {
        server.status(OWN, status, text);
        let catalogue = catalogue(config());
        let found = catalogue.discover(&server.key()).await.unwrap();
        assert_eq!(found.url.path(), OWN_IN_OTHER_SPELLING, "{status} {text}");
        assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
    }
}

#[tokio::test]
async fn stub_name_becomes_one_path_segment() {
    let server = Server::start().await;
    let check = async |key: &StubKey, path: &str| {
        let error = catalogue(config()).discover(key).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(server.asked().first().map(String::as_str), Some(path));
    };
    let domain = server.domain();
    let named = |name: &str| StubKey::Named { domain: domain.clone(), name: name.to_owned() };
    check(&StubKey::Legacy { scheme: "slack".to_owned(), domain: domain.clone() }, "/.well-known/protostub/slack.127.0.0.1")
        .await;
    check(&named("VertxProtoStub"), "/.well-known/protostub/VertxProtoStub").await;
    check(&named("bücher"), "/.well-known/protostub/b%C3%BCcher").await;
    for name in ["", ".", "..", "../x", "a/b", "a\\b", "a?b", "a#b", "%2e%2e", "a b", &"x".repeat(256)] {
        let error = catalogue(config()).discover(&named(name)).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("a stub cannot have this name"), "{error}");
        assert!(server.asked().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn home_domain_offers_a_stub_for_a_domain_without_one() {
    let (foreign, home) = (Server::start().await, Server::start().await);
    let offered = format!("/.well-known/protostub/{}", foreign.domain());
    home.publish(&offered, &descriptor()).bytes("/.well-known/protostub/echo.wasm", COMPONENT);
    let mut config = config();
    config.home = home.domain();
    let catalogue = catalogue(config);

    let found = catalogue.discover(&foreign.key()).await.unwrap();
    assert_eq!((found.key.clone(), found.publisher.clone()), (foreign.key(), home.domain()));
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
    assert_eq!(foreign.asked(), [OWN, OWN_IN_OTHER_SPELLING]);
    assert_eq!(home.asked(), [offered.as_str(), "/.well-known/protostub/echo.wasm"]);

    let nowhere = StubKey::Domain(Domain::parse("nowhere.example").unwrap());
    home.publish("/.well-known/protostub/nowhere.example", &descriptor());
    assert_eq!(catalogue.discover(&nowhere).await.unwrap().publisher, home.domain());

    // The home domain does not offer a domain's named stubs.
    let named = StubKey::Named { domain: foreign.domain(), name: "chat".to_owned() };
    home.asked();
    assert!(catalogue.discover(&named).await.unwrap_err().is_not_found());
    assert!(home.asked().is_empty());

    // The domain's own stub comes first. After the domain has had one, the home domain is not
    // asked.
    foreign.publish(OWN, &descriptor());
    assert_eq!(catalogue.discover(&foreign.key()).await.unwrap().publisher, foreign.domain());
    foreign.status(OWN, 404, "");
    assert!(catalogue.discover(&foreign.key()).await.unwrap_err().is_not_found());
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn home_domain_is_asked_after_every_not_found() {
    let home = Server::start().await;
    let mut config = config();
    config.home = home.domain();
    for (status, text) in [
        (404, ""),
        (410, "gone"),
        (400, "Unknown object type, please use one of: [hyperty] or 'restart'"),
        (500, "Could not find instance: default"),
        (500, "No instance defined as default for type 'protocolstub'"),
    ] {
        let foreign = Server::start().await;
        foreign.status(OWN, status, text).status(OWN_IN_OTHER_SPELLING, status, text);
        home.publish(&format!("/.well-known/protostub/{}", foreign.domain()), &descriptor());
        let found = catalogue(config.clone()).discover(&foreign.key()).await.unwrap();
        assert_eq!(found.publisher, home.domain(), "{status} {text}");
    }
    // The name of a stub for a domain's own protocol has the scheme before the host.
    let nowhere = StubKey::Legacy { scheme: "slack".to_owned(), domain: Domain::parse("nowhere.example").unwrap() };
    home.publish("/.well-known/protocolstub/slack.nowhere.example", &descriptor());
    assert_eq!(catalogue(config).discover(&nowhere).await.unwrap().url.path(), "/.well-known/protocolstub/slack.nowhere.example");
}

#[tokio::test]
async fn home_domain_is_not_asked_after_a_timeout() {
    let (foreign, home) = (Server::start().await, Server::start().await);
    home.publish(&format!("/.well-known/protostub/{}", foreign.domain()), &descriptor());
    let silence = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()).into_response();
    let mut config = config();
    config.home = home.domain();
    config.retries = 0;
    config.idle_timeout = Duration::from_millis(100);
    // First only the other spelling is silent, then both.
    foreign.answer(OWN_IN_OTHER_SPELLING, silence);
    for answered in [true, false] {
        if !answered {
            foreign.answer(OWN, silence);
        }
        let error = catalogue(config.clone()).discover(&foreign.key()).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::TimedOut { .. }), "{error}");
    }
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn home_domain_is_not_asked_after_other_faults() {
    let home = Server::start().await;
    let mut config = config();
    config.home = home.domain();
    config.max_descriptor_bytes = 4096;
    let catalogue = catalogue(config);
    let offer = |domain: &Domain| home.publish(&format!("/.well-known/protostub/{domain}"), &descriptor()).clone();

    let foreign = Server::start().await;
    offer(&foreign.domain());
    for (status, text) in [(500, "a database is down"), (503, ""), (403, ""), (401, ""), (400, ""), (200, "<html>"), (200, "{}")]
    {
        foreign.status(OWN, status, text);
        let error = catalogue.discover(&foreign.key()).await.unwrap_err();
        assert!(!error.is_not_found(), "{status} {text}: {error}");
    }
    for name in ["far.example", "127.0.0.1:1"] {
        let domain = Domain::parse(name).unwrap();
        offer(&domain);
        let error = catalogue.discover(&StubKey::Domain(domain)).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
        assert!(error.is_retryable() && !error.is_not_found());
    }
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn code_is_fetched_inline_relative_or_elsewhere() {
    let server = Server::start().await;
    let catalogue = catalogue(config());
    let check = async |json: String, served_at: &str| {
        server.bytes(OWN, json.clone());
        let found = catalogue.discover(&server.key()).await.unwrap();
        server.asked();
        let component = catalogue.fetch(&found).await.unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(component.bytes(), COMPONENT, "{json}");
        assert_eq!(server.asked().concat(), served_at, "{json}");
    };
    let mut stub = descriptor();
    stub.embed(COMPONENT);
    check(stub.to_json(), "").await;
    check(stub.to_json().replace("\"base64\"", "\"BASE64\""), "").await;

    let at = |url: &str| {
        let mut stub = descriptor();
        stub.refer(url, COMPONENT);
        stub.to_json()
    };
    server.bytes("/a/echo.wasm", COMPONENT);
    check(at("/a/echo.wasm"), "/a/echo.wasm").await;
    check(at("../../a/echo.wasm"), "/a/echo.wasm").await;
    check(at(&format!("http://{}/a/echo.wasm", server.domain())), "/a/echo.wasm").await;
    check(at(&format!("hyperty-catalogue://{}/a/echo.wasm", server.domain())), "/a/echo.wasm").await;

    // reTHINK's catalogues serve the code as a source package.
    let mut package = descriptor();
    package.embed(COMPONENT);
    let package: SourcePackage = package.source_package.unwrap();
    assert_eq!(package.encoding, Some(Encoding::Base64));
    let json = format!(r#"{{"encoding":"Base64","sourceCode":"{}"}}"#, package.source_code.unwrap());
    server.bytes("/.well-known/sourcepackage/echo_sp", json);
    check(at("/.well-known/sourcepackage/echo_sp"), "/.well-known/sourcepackage/echo_sp").await;
}

#[tokio::test]
async fn redirects_within_the_domain_are_followed() {
    let server = Server::start().await;
    server.answer(OWN, || Redirect::temporary("/stubs/descriptor.json").into_response());
    server.publish("/stubs/descriptor.json", &descriptor());
    server.answer("/stubs/echo.wasm", || Redirect::permanent("/files/1").into_response()).bytes("/files/1", COMPONENT);
    let catalogue = catalogue(config());
    let found = catalogue.discover(&server.key()).await.unwrap();
    assert_eq!(found.url.path(), "/stubs/descriptor.json");
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
}

#[tokio::test]
async fn digest_is_required_unless_waived() {
    let server = Server::start().await;
    let mut stub = descriptor();
    stub.source_package = None;
    server.publish(OWN, &stub).bytes("/.well-known/protostub/echo.wasm", COMPONENT);

    let mut lenient = config();
    lenient.unpinned.insert(server.domain());
    let (strict, lenient) = (catalogue(config()), catalogue(lenient));
    let found = strict.discover(&server.key()).await.unwrap();
    let error = strict.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::NoDigest { .. }), "{error}");
    let component = lenient.fetch(&found).await.unwrap();
    assert!(!component.is_pinned());

    // No waiver covers code of another host, which is not even asked for.
    stub.source_package_url = Some("http://localhost:1/echo.wasm".to_owned());
    server.publish(OWN, &stub);
    let found = lenient.discover(&server.key()).await.unwrap();
    let error = lenient.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::NoDigest { .. }), "{error}");
}

#[tokio::test]
async fn forbidden_host_is_not_asked() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    let mut closed = config();
    closed.allow_loopback = false;
    let error = catalogue(closed).discover(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
    let mut silent = config();
    silent.network = false;
    assert!(catalogue(silent).discover(&server.key()).await.unwrap_err().is_not_found());
    for private in ["10.0.0.1", "192.168.0.1:8443", "169.254.169.254", "[fd00::1]", "0.0.0.0"] {
        let key = StubKey::Domain(Domain::parse(private).unwrap());
        let error = catalogue(config()).discover(&key).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn private_domain_is_asked_if_the_operator_allows_it() {
    let (inside, other) = (Domain::parse("10.0.0.1:9").unwrap(), Domain::parse("10.0.0.2:9").unwrap());
    let mut config = config();
    config.retries = 0;
    config.idle_timeout = Duration::from_millis(50);
    config.private.insert(inside.clone());
    let catalogue = catalogue(config);
    // The attempt counts, with or without a server at that address.
    let error = catalogue.discover(&StubKey::Domain(inside)).await.unwrap_err();
    assert!(!matches!(error.fault(), Fault::Refused { .. }), "{error}");
    let error = catalogue.discover(&StubKey::Domain(other)).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Refused { .. }), "{error}");
}

#[tokio::test]
async fn plain_http_can_be_allowed_for_all() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    let port = server.domain().port().unwrap();
    let domain = Domain::parse(&format!("sp1.example:{port}")).unwrap();
    let key = StubKey::Domain(domain.clone());
    let mut config = config();
    config.loopback.insert(domain);
    let mut plain = config.clone();
    plain.allow_http = true;
    assert_eq!(catalogue(plain).discover(&key).await.unwrap().url.scheme(), "http");
    let error = catalogue(config).discover(&key).await.unwrap_err();
    assert!(error.url().starts_with("https://"), "{error}");
}

#[tokio::test]
async fn domain_that_resolves_to_loopback_needs_the_operator() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    let domain = Domain::parse(&format!("sp1.example:{}", server.domain().port().unwrap())).unwrap();
    let key = StubKey::Domain(domain.clone());
    let mut config = config();
    config.allow_http = true;
    // Permission to ask loopback domains does not cover this domain, which only resolves to
    // loopback.
    let error = catalogue(config.clone()).discover(&key).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Refused { reason } if reason.contains("`allow-loopback` for the domain")), "{error}");
    assert!(server.asked().is_empty());
    config.allow_loopback = false;
    config.loopback.insert(domain);
    catalogue(config).discover(&key).await.unwrap();
}
