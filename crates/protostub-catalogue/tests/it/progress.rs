//! Progress reports of downloads.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    response::IntoResponse as _,
};
use futures_util::stream;
use protostub_catalogue::{CatalogueConfig, Download, DownloadProgress};
use protostub_types::StubKey;

use crate::server::{COMPONENT, OWN, Server, catalogue, config, descriptor, length};

const CODE: &str = "/.well-known/protostub/echo.wasm";

/// Records the reports.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<(StubKey, Download)>>);

impl DownloadProgress for Notes {
    fn download(&self, key: &StubKey, download: Download) {
        self.0.lock().unwrap().push((key.clone(), download));
    }
}

impl Notes {
    /// Returns the new reports, which must all be of this key.
    fn of(&self, key: &StubKey) -> Vec<Download> {
        let notes = mem::take(&mut *self.0.lock().unwrap());
        assert!(notes.iter().all(|(of, _)| of == key));
        notes.into_iter().map(|(_, download)| download).collect()
    }
}

fn watched() -> (CatalogueConfig, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let mut config = config();
    config.progress = Some(notes.clone());
    (config, notes)
}

#[tokio::test]
async fn download_is_reported_from_start_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes(CODE, COMPONENT);
    let (mut config, notes) = watched();
    config.cache_dir = Some(dir.path().to_owned());
    let catalogue = catalogue(config);
    let found = catalogue.discover(&server.key()).await.unwrap();
    assert_eq!(notes.of(&server.key()), []);
    catalogue.fetch(&found).await.unwrap();
    let bytes = length(COMPONENT);
    let at = |bytes| Download::Receiving { bytes, total: Some(length(COMPONENT)) };
    assert_eq!(notes.of(&server.key()), [at(0), at(bytes), Download::Received { bytes }]);
    // The component is in the store now.
    catalogue.fetch(&found).await.unwrap();
    assert_eq!(notes.of(&server.key()), []);
}

#[tokio::test]
async fn unstated_length_is_reported_as_unknown() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).answer(CODE, || {
        Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(COMPONENT))])).into_response()
    });
    let (config, notes) = watched();
    let catalogue = catalogue(config);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();
    assert_eq!(notes.of(&server.key()).first(), Some(&Download::Receiving { bytes: 0, total: None }));
}

#[tokio::test]
async fn failed_download_is_reported_as_ended() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    let (config, notes) = watched();
    let catalogue = catalogue(config);
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap_err();
    assert_eq!(notes.of(&server.key()), [Download::Failed]);
}
