//! Downloads of components that break off and resume.

use std::sync::{Arc, Mutex};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use protostub_catalogue::{CatalogueConfig, CatalogueError, Download, DownloadProgress, Fault, VerifiedComponent};
use protostub_types::StubKey;

use crate::server::{OWN, Server, catalogue, config, descriptor, length};

const CODE: &str = "/.well-known/protostub/echo.wasm";
const WHOLE: &[u8] = &[7; 1000];
/// Number of bytes that arrive before the connection breaks.
const HALF: usize = 600;
const TAG: &str = "\"first\"";

/// The `Range` and `If-Range` of each request.
type Ranges = Arc<Mutex<Vec<Option<(String, String)>>>>;

/// Lets the connection break whenever the server sends all of the code, with these headers. `rest`
/// answers requests for the rest.
fn breaking(server: &Server, headers: &'static [(&str, &str)], rest: impl Fn() -> Response + Send + Sync + 'static) -> Ranges {
    let ranges = Ranges::default();
    let noted = Arc::clone(&ranges);
    server.publish(OWN, &whole()).answer_to(CODE, move |asked: &HeaderMap| {
        let text = |name| asked.get(name).map(|value| value.to_str().unwrap().to_owned());
        let range = text(header::RANGE).zip(text(header::IF_RANGE));
        noted.lock().unwrap().push(range.clone());
        if range.is_some() { rest() } else { broken(headers) }
    });
    ranges
}

fn whole() -> protostub_types::Descriptor {
    let mut stub = descriptor();
    stub.refer("echo.wasm", WHOLE);
    stub
}

/// Returns a part of the code, with the length of the whole.
fn broken(headers: &[(&str, &str)]) -> Response {
    let mut response = Response::builder().header(header::CONTENT_LENGTH, WHOLE.len());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(cut_off(&WHOLE[..HALF])).unwrap()
}

/// Sends these bytes, then breaks the connection.
fn cut_off(part: &'static [u8]) -> Body {
    let cut = stream::once(async {
        // Gives the bytes before time to be sent.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the cable was cut"))
    });
    Body::from_stream(stream::iter([Ok(Bytes::from_static(part))]).chain(cut))
}

fn partial(range: &'static str, bytes: &'static [u8]) -> Response {
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range), (header::ETAG, TAG)], bytes).into_response()
}

fn asked(ranges: &Ranges) -> Vec<Option<(String, String)>> {
    std::mem::take(&mut ranges.lock().unwrap())
}

fn from_half(validator: &str) -> Option<(String, String)> {
    Some((format!("bytes={HALF}-"), validator.to_owned()))
}

async fn fetch(server: &Server, config: CatalogueConfig) -> Result<VerifiedComponent, CatalogueError> {
    let catalogue = catalogue(config);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Download>>);

impl DownloadProgress for Notes {
    fn download(&self, _: &StubKey, download: Download) {
        self.0.lock().unwrap().push(download);
    }
}

#[tokio::test]
async fn broken_download_asks_only_for_the_rest() {
    let server = Server::start().await;
    let ranges = breaking(&server, &[("etag", TAG)], || partial("bytes 600-999/1000", &WHOLE[HALF..]));
    let notes = Arc::new(Notes::default());
    let mut config = config();
    config.progress = Some(notes.clone());
    assert_eq!(fetch(&server, config).await.unwrap().bytes(), WHOLE);
    assert_eq!(asked(&ranges), [None, from_half(TAG)]);
    // The progress does not restart.
    let at = |bytes| Download::Receiving { bytes, total: Some(length(WHOLE)) };
    let told = notes.0.lock().unwrap();
    assert_eq!(*told, [at(0), at(600), at(600), at(1000), Download::Received { bytes: 1000 }]);
}

#[tokio::test]
async fn part_of_the_rest_is_kept() {
    let server = Server::start().await;
    let count = Mutex::new(0);
    let ranges = breaking(&server, &[("etag", TAG)], move || {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == 2 {
            return partial("bytes 800-999/1000", &WHOLE[800..]);
        }
        let headers = [(header::CONTENT_RANGE, "bytes 600-999/1000"), (header::CONTENT_LENGTH, "400")];
        (StatusCode::PARTIAL_CONTENT, headers, cut_off(&WHOLE[HALF..800])).into_response()
    });
    let mut config = config();
    config.retries = 2;
    assert_eq!(fetch(&server, config).await.unwrap().bytes(), WHOLE);
    assert_eq!(asked(&ranges), [None, from_half(TAG), Some(("bytes=800-".to_owned(), TAG.to_owned()))]);
}

#[tokio::test]
async fn changed_document_restarts_the_download() {
    let server = Server::start().await;
    let complete = || WHOLE.into_response();
    let not_satisfiable = || StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    let another_part = || partial("bytes 700-999/1000", &WHOLE[700..]);
    let unknown_unit = || partial("lines 600-999/1000", &WHOLE[HALF..]);
    // This server does not support ranges, or has another document now.
    breaking(&server, &[("etag", TAG)], complete);
    assert_eq!(fetch(&server, config()).await.unwrap().bytes(), WHOLE);
    for rest in [not_satisfiable, another_part, unknown_unit] {
        let ranges = breaking(&server, &[("etag", TAG)], rest);
        let error = fetch(&server, config()).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Truncated { received: 600, stated: Some(1000), .. }), "{error}");
        // The whole document was asked for at once, and broke off as before.
        assert_eq!(asked(&ranges), [None, from_half(TAG), None]);
    }
}

#[tokio::test]
async fn document_without_strong_validator_restarts() {
    let server = Server::start().await;
    for headers in [
        &[("etag", "W/\"weak\"")][..],
        &[],
        &[("etag", TAG), ("accept-ranges", "none")],
        // The document was changed in the second in which it was sent.
        &[("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT"), ("date", "Sun, 22 Nov 2026 10:00:00 GMT")],
    ] {
        let ranges = breaking(&server, headers, || unreachable!("no part was asked for"));
        let error = fetch(&server, config()).await.unwrap_err();
        assert!(matches!(error.fault(), Fault::Truncated { .. }), "{error}");
        assert_eq!(asked(&ranges), [None, None], "{headers:?}");
    }
    let date = "Sun, 22 Nov 2026 10:00:00 GMT";
    let headers = &[("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT"), ("date", "Sun, 22 Nov 2026 10:00:07 GMT")];
    let ranges = breaking(&server, headers, || partial("bytes 600-999/1000", &WHOLE[HALF..]));
    assert_eq!(fetch(&server, config()).await.unwrap().bytes(), WHOLE);
    assert_eq!(asked(&ranges), [None, from_half(date)]);
}

#[tokio::test]
async fn resumed_download_is_digested_as_a_whole() {
    let server = Server::start().await;
    breaking(&server, &[("etag", TAG)], || partial("bytes 600-999/1000", &[8; 400]));
    let error = fetch(&server, config()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::WrongDigest { received: 1000, .. }), "{error}");
}

#[tokio::test]
async fn resumed_download_obeys_the_limits_of_the_whole() {
    let server = Server::start().await;
    breaking(&server, &[("etag", TAG)], || partial("bytes 600-9999/10000", &[8; 9400]));
    let mut small = config();
    small.max_component_bytes = 2000;
    let error = fetch(&server, small).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::TooLarge { limit: 2000, stated: Some(10000), .. }), "{error}");
}

#[tokio::test]
async fn download_over_a_bad_line_completes() {
    const LARGE: &[u8] = &[7; 500_000];
    const PART: usize = 100_000;
    let check = async |part: usize, requests: usize, arrives: bool| {
        let server = Server::start().await;
        let mut stub = descriptor();
        stub.refer("echo.wasm", LARGE);
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        server.publish(OWN, &stub).answer_to(CODE, move |asked: &HeaderMap| {
            *counted.lock().unwrap() += 1;
            let range = asked.get(header::RANGE).map(|range| range.to_str().unwrap());
            let from = range.map_or(0, |range| range["bytes=".len()..range.len() - 1].parse().unwrap());
            let rest = &LARGE[from..];
            let status = if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
            let headers = [
                (header::CONTENT_RANGE, format!("bytes {from}-{}/{}", LARGE.len() - 1, LARGE.len())),
                (header::CONTENT_LENGTH, rest.len().to_string()),
                (header::ETAG, TAG.to_owned()),
            ];
            let body = if rest.len() > part { cut_off(&rest[..part]) } else { Body::from(rest) };
            (status, headers, body).into_response()
        });
        let outcome = fetch(&server, config()).await;
        assert_eq!((outcome.is_ok(), *count.lock().unwrap()), (arrives, requests), "{part}");
    };
    check(PART, 5, true).await;
    // Each attempt adds too few bytes to restart the retry count.
    check(1000, 2, false).await;
}
