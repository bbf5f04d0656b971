//! Limits of downloads: of a domain and of all, in an hour and at a time.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use protostub_catalogue::{Catalogue, CatalogueConfig, CatalogueErrorKind, DownloadLimit, Fault};

use crate::server::{OWN, Server, catalogue, config, descriptor};

fn config_with(change: impl FnOnce(&mut CatalogueConfig)) -> CatalogueConfig {
    let mut config = config();
    change(&mut config);
    config
}

/// Returns a server with a descriptor of this component.
async fn server_of(component: &[u8]) -> Server {
    let server = Server::start().await;
    let mut descriptor = descriptor();
    descriptor.refer("own.wasm", component);
    server.publish(OWN, &descriptor).bytes("/.well-known/protostub/own.wasm", component);
    server
}

async fn refused(catalogue: &Catalogue, server: &Server) -> (DownloadLimit, String) {
    let error = match catalogue.discover(&server.key()).await {
        Ok(found) => catalogue.fetch(&found).await.expect_err("a limit"),
        Err(error) => error,
    };
    let Fault::Downloads { limit, .. } = error.fault() else { panic!("{error}") };
    let is_busy = *limit == DownloadLimit::Concurrent;
    assert_eq!((error.kind(), error.is_retryable()), (CatalogueErrorKind::Refused, is_busy));
    (*limit, error.to_string())
}

#[tokio::test]
async fn downloads_of_an_hour_are_limited() {
    let server = server_of(b"\0asm").await;
    let own = catalogue(config_with(|config| config.max_downloads_per_hour = 3));
    for _ in 0..3 {
        own.discover(&server.key()).await.expect("a descriptor");
    }
    let (limit, told) = refused(&own, &server).await;
    assert_eq!((limit, server.asked().len()), (DownloadLimit::Number, 3));
    assert!(
        told.contains("127.0.0.1 has used its 3 downloads of an hour; try again later, or raise `downloads-per-hour`"),
        "{told}"
    );

    // The domain has its share of the total.
    let all = catalogue(config_with(|config| config.downloads.per_hour = 4));
    for _ in 0..2 {
        all.discover(&server.key()).await.expect("a descriptor");
    }
    let (limit, told) = refused(&all, &server).await;
    assert_eq!((limit, server.asked().len()), (DownloadLimit::TotalNumber, 2));
    assert!(told.contains("all domains share 4 downloads of an hour") && told.contains("`max-downloads-per-hour`"), "{told}");
}

#[tokio::test]
async fn failed_attempts_count_as_downloads() {
    let server = Server::start().await;
    server.status(OWN, 503, "later");
    let catalogue = catalogue(config_with(|config| (config.retries, config.max_downloads_per_hour) = (10, 4)));
    assert_eq!(refused(&catalogue, &server).await.0, DownloadLimit::Number);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn downloaded_bytes_of_an_hour_are_limited() {
    let server = server_of(&[b'x'; 10_000]).await;
    let own = catalogue(config_with(|config| config.max_download_bytes_per_hour = 9_000));
    let (limit, told) = refused(&own, &server).await;
    assert!(limit == DownloadLimit::Bytes && told.contains("127.0.0.1 has used its 9000 downloaded bytes"), "{told}");
    let all = catalogue(config_with(|config| config.downloads.bytes_per_hour = 9_000));
    let (limit, told) = refused(&all, &server).await;
    assert!(limit == DownloadLimit::TotalBytes && told.contains("`max-download-bytes-per-hour`"), "{told}");
}

#[tokio::test]
async fn download_waits_for_a_place_and_is_refused_without_one() {
    let endless = Server::start().await;
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    endless.answer(OWN, move || -> Response {
        let _ = asked.send(());
        let beginning = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b" "))]);
        Body::from_stream(beginning.chain(stream::pending())).into_response()
    });
    let catalogue = catalogue(config_with(|config| {
        config.downloads.concurrent = 1;
        config.retries = 0;
        config.idle_timeout = Duration::from_secs(6);
    }));
    let (key, held) = (endless.key(), catalogue.clone());
    let holder = tokio::spawn(async move { held.discover(&key).await });
    is_asked.recv().await.expect("a request");
    let server = server_of(b"\0asm").await;
    let (limit, told) = refused(&catalogue, &server).await;
    assert!(limit == DownloadLimit::Concurrent && told.contains("`max-concurrent-downloads`"), "{told}");
    assert!(server.asked().is_empty());
    holder.abort();
    catalogue.discover(&server.key()).await.expect("a descriptor");
}

#[tokio::test]
async fn downloads_in_memory_are_limited_until_they_are_dropped() {
    let (first, second) = (server_of(&[b'x'; 10_000]).await, server_of(&[b'y'; 10_000]).await);
    let catalogue = catalogue(config_with(|config| {
        config.downloads.memory_bytes = 25_000;
        config.component_timeout = Duration::from_secs(2);
    }));
    let found = catalogue.discover(&first.key()).await.expect("a descriptor");
    let held = catalogue.fetch(&found).await.expect("a component");
    // The domain has a share for a descriptor, and none for another component.
    let (limit, told) = refused(&catalogue, &second).await;
    assert_eq!((limit, second.asked().len()), (DownloadLimit::Memory, 2));
    assert!(told.contains("`max-download-memory-bytes`"), "{told}");
    drop(held);
    let found = catalogue.discover(&second.key()).await.expect("a descriptor");
    catalogue.fetch(&found).await.expect("a component");
}
