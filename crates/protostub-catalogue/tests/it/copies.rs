//! Copies of descriptors: when they are confirmed, replaced, used without an answer, and not used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use futures_util::future::join_all;
use protostub_catalogue::{Catalogue, CatalogueConfig, Discovered, Fault, Provenance};
use protostub_types::{Descriptor, Domain, StubKey, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    sealed,
    server::{COMPONENT, OWN, OWN_IN_OTHER_SPELLING, Server, catalogue, config, descriptor},
};

const CODE: &str = "/.well-known/protostub/echo.wasm";
const DATE: &str = "Sun, 22 Nov 2026 10:00:00 GMT";

fn keeping(dir: &TempDir) -> CatalogueConfig {
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    config
}

/// Returns a catalogue like one in a new process.
fn started(dir: &TempDir) -> Catalogue {
    catalogue(keeping(dir))
}

fn version(text: &str) -> Descriptor {
    let mut stub = descriptor();
    stub.version = Version::parse(text).unwrap();
    stub
}

/// Answers with the descriptor and these headers, or with 304 if the client has the descriptor.
fn publish(server: &Server, stub: &Descriptor, headers: &'static [(&str, &str)]) {
    let json = stub.to_json();
    server.answer_to(OWN, move |asked: &HeaderMap| {
        let held = |condition, validator: &str| {
            let of = headers.iter().find(|(name, _)| *name == validator).map(|(_, value)| *value);
            asked.get(condition).is_some_and(|value| of.is_some_and(|of| value == of))
        };
        let unchanged = held(header::IF_NONE_MATCH, "etag") || held(header::IF_MODIFIED_SINCE, "last-modified");
        let mut response = if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { json.clone().into_response() };
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        response
    });
}

/// Returns the path of the only copy.
fn file(dir: &TempDir) -> PathBuf {
    let files: Vec<_> = fs::read_dir(dir.path().join("descriptors")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// Makes a copy older.
fn age(path: &Path, by: Duration) {
    let text = sealed::read(path);
    let (header, json) = text.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(header).unwrap();
    let confirmed = header["copy"]["confirmed"].as_u64().unwrap();
    header["copy"]["confirmed"] = json!(confirmed - by.as_secs());
    sealed::write(path, &format!("{header}\n{json}"));
}

fn is_offline(found: &Discovered) -> bool {
    matches!(found.provenance, Provenance::Offline { .. })
}

fn is_fresh(found: &Discovered) -> bool {
    matches!(found.provenance, Provenance::Fresh { .. })
}

#[tokio::test]
async fn version_unchanged_means_no_download() {
    for headers in [&[("etag", "\"1\"")][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start().await;
        publish(&server, &version("1.0"), headers);
        server.bytes(CODE, COMPONENT);
        let found = started(&dir).discover(&server.key()).await.unwrap();
        started(&dir).fetch(&found).await.unwrap();
        server.asked();
        for _ in 0..2 {
            let catalogue = started(&dir);
            let found = catalogue.discover(&server.key()).await.unwrap();
            assert_eq!((found.descriptor.version.as_str(), found.provenance), ("1.0", Provenance::Asked));
            assert!(catalogue.fetch(&found).await.unwrap().is_stored());
        }
        assert_eq!(server.asked(), [OWN, OWN], "{headers:?}");
    }
}

#[tokio::test]
async fn confirmed_descriptor_is_not_sent_again() {
    let if_none_match = header::IF_NONE_MATCH;
    for (headers, condition, validator) in [
        (&[("etag", "\"1\"")][..], if_none_match.clone(), "\"1\""),
        (&[("etag", "W/\"1\""), ("last-modified", DATE)], if_none_match, "W/\"1\""),
        (&[("last-modified", DATE)], header::IF_MODIFIED_SINCE, DATE),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start().await;
        publish(&server, &version("1.0"), headers);
        started(&dir).discover(&server.key()).await.unwrap();
        // This server confirms the copy, and fails other requests.
        server.answer_to(OWN, move |asked| match asked.get(&condition) {
            Some(held) if held == validator => StatusCode::NOT_MODIFIED.into_response(),
            _ => StatusCode::FORBIDDEN.into_response(),
        });
        age(&file(&dir), Duration::from_secs(100));
        for _ in 0..2 {
            let found = started(&dir).discover(&server.key()).await.unwrap();
            assert_eq!((found.descriptor, found.provenance), (version("1.0"), Provenance::Asked));
        }
        // The confirmation counts from now on.
        server.stop().await;
        let found = started(&dir).discover(&server.key()).await.unwrap();
        assert!(matches!(found.provenance, Provenance::Offline { age } if age < Duration::from_secs(50)), "{found:?}");
    }
}

#[tokio::test]
async fn version_bump_means_download() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.9"), &[("etag", "\"1\"")]);
    server.bytes(CODE, COMPONENT);
    let catalogue = started(&dir);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();

    let mut bumped = version("1.10");
    bumped.refer("echo.wasm", b"\0asm new");
    publish(&server, &bumped, &[("etag", "\"2\"")]);
    server.bytes(CODE, b"\0asm new");
    server.asked();
    let update = catalogue.discover(&server.key()).await.unwrap();
    assert!(update.descriptor.version > found.descriptor.version);
    let component = catalogue.fetch(&update).await.unwrap();
    assert!(!component.is_stored());
    assert_eq!(component.bytes().as_ref(), b"\0asm new");
    assert_eq!(server.asked(), [OWN, CODE]);
    // The copy was replaced by the new one.
    server.stop().await;
    assert_eq!(started(&dir).discover(&server.key()).await.unwrap().descriptor.version.as_str(), "1.10");
}

#[tokio::test]
async fn catalogue_unreachable_means_cached_copy() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    // The answer has no validators, and its headers demand a request each time.
    publish(&server, &version("1.0"), &[("cache-control", "no-cache, must-revalidate")]);
    server.bytes(CODE, COMPONENT);
    let catalogue = started(&dir);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();
    age(&file(&dir), Duration::from_secs(3600));
    for status in [500, 501, 502, 503, 504, 429] {
        server.status(OWN, status, "out of order");
        let found = started(&dir).discover(&server.key()).await.unwrap();
        assert!(is_offline(&found), "{status}");
    }
    server.stop().await;
    let catalogue = started(&dir);
    let found = catalogue.discover(&server.key()).await.unwrap();
    assert_eq!((&found.descriptor, &found.publisher), (&version("1.0"), &server.domain()));
    let hour = Duration::from_secs(3600)..Duration::from_secs(3700);
    assert!(matches!(found.provenance, Provenance::Offline { age } if hour.contains(&age)), "{found:?}");
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
    // `revalidate` fails, since the published descriptor is unknown now.
    let error = catalogue.revalidate(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn domain_that_no_longer_exists_counts_as_unreachable() {
    let (dir, home) = (tempfile::tempdir().unwrap(), Server::start().await);
    let server = Server::start().await;
    let named = |name: &str| StubKey::Domain(Domain::parse(&format!("{name}:{}", server.domain().port().unwrap())).unwrap());
    let (here, gone) = (named("sp1.example"), named("gone.example"));
    server.publish(OWN, &descriptor());
    let mut config = keeping(&dir);
    config.allow_http = true;
    config.loopback.insert(here.domain().clone());
    config.home = home.domain();
    catalogue(config.clone()).discover(&here).await.unwrap();
    // Uses the copy of one domain as the copy of another one.
    let path = file(&dir);
    let text = sealed::read(&path).replace("sp1.example", "gone.example");
    let url = format!("http://{}{OWN}", gone.domain());
    let name = protostub_types::Sha256Digest::of(url.as_bytes()).to_string();
    sealed::write(&path.with_file_name(name), &text);
    home.publish(&format!("/.well-known/protostub/{}", gone.domain()), &version("6.6.6"));
    let found = catalogue(config.clone()).discover(&gone).await.unwrap();
    assert!(is_offline(&found) && found.publisher == *gone.domain());
    // The home domain is not asked either when the copy is too old.
    config.max_offline_age = Duration::ZERO;
    let error = catalogue(config).discover(&gone).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::NoSuchHost { .. }), "{error}");
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn copy_is_not_used_after_a_definite_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    for (status, text) in [
        (404, ""),
        (410, ""),
        (500, "Could not find instance: default"),
        (401, ""),
        (403, ""),
        (200, "<html>Please log in</html>"),
        (200, "{}"),
        (200, r#"{"objectName": "echo", "version": "2", "language": "javascript"}"#),
    ] {
        server.publish(OWN, &descriptor());
        started(&dir).discover(&server.key()).await.unwrap();
        server.status(OWN, status, text);
        started(&dir).discover(&server.key()).await.unwrap_err();
    }
    server.publish(OWN, &descriptor());
    started(&dir).discover(&server.key()).await.unwrap();
    server.answer(OWN, || Redirect::temporary("http://127.0.0.1:1/").into_response());
    started(&dir).discover(&server.key()).await.unwrap_err();
}

#[tokio::test]
async fn withdrawn_stub_stays_gone_and_is_not_replaced() {
    let (dir, server, home) = (tempfile::tempdir().unwrap(), Server::start().await, Server::start().await);
    home.publish(&format!("/.well-known/protostub/{}", server.domain()), &version("6.6.6"));
    let mut config = keeping(&dir);
    config.home = home.domain();
    server.publish(OWN, &descriptor());
    catalogue(config.clone()).discover(&server.key()).await.unwrap();
    server.status(OWN, 404, "");
    // The second process has not seen the domain's own stub.
    for _ in 0..2 {
        assert!(catalogue(config.clone()).discover(&server.key()).await.unwrap_err().is_not_found());
    }
    server.stop().await;
    let error = catalogue(config.clone()).discover(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
    assert!(home.asked().is_empty());
}

#[tokio::test]
async fn copy_is_used_up_to_its_maximum_offline_age() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    started(&dir).discover(&server.key()).await.unwrap();
    server.stop().await;
    let day = Duration::from_secs(24 * 3600);
    let mut off = keeping(&dir);
    off.max_offline_age = Duration::ZERO;
    assert!(catalogue(off).discover(&server.key()).await.is_err());
    age(&file(&dir), day * 29);
    assert!(started(&dir).discover(&server.key()).await.is_ok());
    age(&file(&dir), day);
    let error = started(&dir).discover(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn fresh_copy_is_used_without_asking() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[("etag", "\"1\""), ("cache-control", "public, Max-Age=\"3600\"")]);
    let first = started(&dir).discover(&server.key()).await.unwrap();
    assert_eq!(first.provenance, Provenance::Asked);
    server.asked();
    age(&file(&dir), Duration::from_secs(3500));
    let found = started(&dir).discover(&server.key()).await.unwrap();
    assert!(is_fresh(&found) && server.asked().is_empty());
    // `revalidate` always asks.
    assert_eq!(started(&dir).revalidate(&server.key()).await.unwrap().provenance, Provenance::Asked);
    assert_eq!(server.asked(), [OWN]);
    // The request confirmed the copy again.
    age(&file(&dir), Duration::from_secs(3500));
    assert!(is_fresh(&started(&dir).discover(&server.key()).await.unwrap()) && server.asked().is_empty());
    age(&file(&dir), Duration::from_secs(200));
    assert_eq!(started(&dir).discover(&server.key()).await.unwrap().provenance, Provenance::Asked);
    assert_eq!(server.asked(), [OWN]);
}

#[tokio::test]
async fn cache_headers_decide_how_long_a_copy_is_fresh() {
    let check = async |headers: &'static [(&str, &str)], after: u64, is_used: bool| {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start().await;
        publish(&server, &version("1.0"), headers);
        started(&dir).discover(&server.key()).await.unwrap();
        age(&file(&dir), Duration::from_secs(after));
        assert_eq!(is_fresh(&started(&dir).discover(&server.key()).await.unwrap()), is_used, "{headers:?} after {after} s");
    };
    check(&[], 0, false).await;
    check(&[("last-modified", "Thu, 22 Nov 2001 10:00:00 GMT")], 0, false).await;
    check(&[("expires", "Sun, 22 Nov 2066 10:00:00 GMT")], 0, false).await;
    check(&[("cache-control", "max-age=60")], 0, true).await;
    check(&[("cache-control", "max-age=60"), ("age", "60")], 0, false).await;
    check(&[("cache-control", "max-age=6000"), ("age", "60")], 5900, true).await;
    check(&[("cache-control", "max-age=6000"), ("age", "60")], 5940, false).await;
    check(&[("cache-control", "no-cache, max-age=60")], 0, false).await;
    check(&[("cache-control", "max-age=never")], 0, false).await;
    check(&[("cache-control", "max-age=-1")], 0, false).await;
    // A year counts as a day.
    check(&[("cache-control", "max-age=31536000")], 23 * 3600, true).await;
    check(&[("cache-control", "max-age=31536000")], 24 * 3600, false).await;
}

#[tokio::test]
async fn no_store_answer_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[("etag", "\"1\"")]);
    started(&dir).discover(&server.key()).await.unwrap();
    // The present copy is removed, too, if the answer confirms or replaces it.
    for headers in [&[("etag", "\"1\""), ("cache-control", "No-Store, max-age=60")][..], &[("cache-control", "no-store")]] {
        publish(&server, &version("1.0"), headers);
        started(&dir).discover(&server.key()).await.unwrap();
        assert_eq!(fs::read_dir(dir.path().join("descriptors")).unwrap().count(), 0, "{headers:?}");
    }
    server.stop().await;
    assert!(started(&dir).discover(&server.key()).await.is_err());
}

#[tokio::test]
async fn damaged_copy_is_ignored_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[("etag", "\"1\""), ("cache-control", "max-age=60")]);
    started(&dir).discover(&server.key()).await.unwrap();
    let path = file(&dir);
    let intact = sealed::read(&path);
    let (header, json) = intact.split_once('\n').unwrap();
    for damaged in [
        String::new(),
        "{}\n".to_owned(),
        header.to_owned(),
        format!("{header}\n"),
        intact.replace("\"1.0\"", "\"9.0\""),
        intact.replace("echo", "\u{0}"),
        format!("{}\n{json}", header.replace("/default", "/other")),
        format!("{}\n{json}", header.replace("\"confirmed\":", "\"confirmed\":9999999999999")),
        format!("{}\n{json}", header.replace("http://", "")),
        "x".repeat(2_000_000),
    ] {
        sealed::write(&path, &damaged);
        server.asked();
        let found = started(&dir).discover(&server.key()).await.unwrap();
        assert_eq!((found.descriptor, found.provenance), (version("1.0"), Provenance::Asked));
        assert_eq!(server.asked(), [OWN], "{damaged:.200}");
        assert!(is_fresh(&started(&dir).discover(&server.key()).await.unwrap()));
    }
}

#[tokio::test]
async fn copy_from_a_fast_clock_is_confirmed_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[("cache-control", "max-age=60")]);
    started(&dir).discover(&server.key()).await.unwrap();
    let path = file(&dir);
    let text = sealed::read(&path);
    // A clock that was a few hundred years fast confirmed the copy.
    let at = text.find("\"confirmed\":").unwrap() + "\"confirmed\":".len();
    sealed::write(&path, &format!("{}9{}", &text[..at], &text[at..]));
    assert_eq!(started(&dir).discover(&server.key()).await.unwrap().provenance, Provenance::Asked);
    sealed::write(&path, &format!("{}9{}", &text[..at], &text[at..]));
    server.stop().await;
    // The age of the copy is unknown, so the copy is not used while the domain cannot be reached.
    let error = started(&dir).discover(&server.key()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn copy_in_the_other_spelling_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN_IN_OTHER_SPELLING, &descriptor()).bytes("/.well-known/protocolstub/echo.wasm", COMPONENT);
    let catalogue = started(&dir);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();
    server.stop().await;
    let catalogue = started(&dir);
    let found = catalogue.discover(&server.key()).await.unwrap();
    assert!(is_offline(&found) && found.url.path() == OWN_IN_OTHER_SPELLING);
    assert!(catalogue.fetch(&found).await.unwrap().is_stored());
}

#[tokio::test]
async fn home_domain_offers_are_kept() {
    let (dir, foreign, home) = (tempfile::tempdir().unwrap(), Server::start().await, Server::start().await);
    home.publish(&format!("/.well-known/protostub/{}", foreign.domain()), &descriptor());
    let mut config = keeping(&dir);
    config.home = home.domain();
    assert_eq!(catalogue(config.clone()).discover(&foreign.key()).await.unwrap().publisher, home.domain());
    home.stop().await;
    let found = catalogue(config.clone()).discover(&foreign.key()).await.unwrap();
    assert!(is_offline(&found) && found.publisher == home.domain());
    // The offer is not used while the domain cannot be asked for its own stub.
    foreign.stop().await;
    let error = catalogue(config).discover(&foreign.key()).await.unwrap_err();
    assert!(error.url().contains(foreign.domain().as_str()), "{error}");
}

#[tokio::test]
async fn confirmation_after_another_redirect_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let answer = |stub: &Descriptor| {
        let json = stub.to_json();
        move |asked: &HeaderMap| -> Response {
            match asked.get(header::IF_NONE_MATCH) {
                Some(tag) if tag == "\"1\"" => StatusCode::NOT_MODIFIED.into_response(),
                _ => ([(header::ETAG, "\"1\"")], json.clone()).into_response(),
            }
        }
    };
    server.answer_to("/a", answer(&version("1.0"))).answer_to("/b", answer(&version("2.0")));
    for (path, version) in [("/a", "1.0"), ("/b", "2.0"), ("/b", "2.0"), ("/a", "1.0")] {
        server.answer(OWN, move || Redirect::temporary(path).into_response());
        let found = started(&dir).discover(&server.key()).await.unwrap();
        assert_eq!((found.descriptor.version.as_str(), found.url.path()), (version, path));
    }
}

#[tokio::test]
async fn code_without_digest_is_stored_for_an_unreachable_domain() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut stub = descriptor();
    stub.source_package = None;
    publish(&server, &stub, &[("etag", "\"1\"")]);
    server.bytes(CODE, COMPONENT);
    let mut config = keeping(&dir);
    config.unpinned.insert(server.domain());
    let fetch = async || {
        let catalogue = catalogue(config.clone());
        let found = catalogue.discover(&server.key()).await.unwrap();
        catalogue.fetch(&found).await.unwrap()
    };
    fetch().await;
    // While the domain can be reached, its code is downloaded: it may have changed unnoticed.
    server.bytes(CODE, b"\0asm new");
    let component = fetch().await;
    assert!(!component.is_stored() && component.bytes().as_ref() == b"\0asm new");
    server.stop().await;
    let component = fetch().await;
    assert!(component.is_stored() && !component.is_pinned() && component.bytes().as_ref() == b"\0asm new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let count = AtomicUsize::new(0);
    // Each request gets another version, of another length.
    server.answer(OWN, move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let mut stub = version(&format!("1.{n}"));
        stub.description = Some("x".repeat(n * 1000));
        ([(header::ETAG, format!("\"{n}\""))], stub.to_json()).into_response()
    });
    let all = (0..8).map(|_| {
        let (catalogue, key) = (started(&dir), server.key());
        tokio::spawn(async move {
            for _ in 0..8 {
                catalogue.discover(&key).await.unwrap();
            }
        })
    });
    for outcome in join_all(all).await {
        outcome.unwrap();
    }
    server.stop().await;
    assert!(is_offline(&started(&dir).discover(&server.key()).await.unwrap()));
    file(&dir);
}

#[tokio::test]
async fn running_process_uses_its_own_answers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[("etag", "\"1\"")]);
    let catalogue = started(&dir);
    catalogue.discover(&server.key()).await.unwrap();
    // The process does not read this file, and confirms the copy in its memory.
    fs::write(file(&dir), "no copy").unwrap();
    server.answer_to(OWN, move |asked| match asked.get(header::IF_NONE_MATCH) {
        Some(_) => StatusCode::NOT_MODIFIED.into_response(),
        None => StatusCode::FORBIDDEN.into_response(),
    });
    assert_eq!(catalogue.discover(&server.key()).await.unwrap().provenance, Provenance::Asked);
    // A new process has to read the file.
    started(&dir).discover(&server.key()).await.unwrap_err();
}

#[tokio::test]
async fn unreachable_domain_gets_the_last_copy_of_any_process() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("1.0"), &[]);
    let (first, second) = (started(&dir), started(&dir));
    first.discover(&server.key()).await.unwrap();
    publish(&server, &version("1.1"), &[]);
    second.discover(&server.key()).await.unwrap();
    server.answer(OWN, || StatusCode::SERVICE_UNAVAILABLE.into_response());
    let found = first.discover(&server.key()).await.unwrap();
    assert_eq!((found.descriptor.version.as_str(), is_offline(&found)), ("1.1", true));
    server.status(OWN, 404, "");
    second.discover(&server.key()).await.unwrap_err();
    server.stop().await;
    let error = first.discover(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
}
