//! The store of verified components.

use std::{fs, sync::Arc};

use futures_util::future::join_all;
use protostub_catalogue::{CatalogueConfig, Fault, MemorySource};
use protostub_types::Sha256Digest;
use tempfile::TempDir;

use crate::server::{COMPONENT, OWN, Server, catalogue, catalogue_with, config, descriptor};

const CODE: &str = "/.well-known/protostub/echo.wasm";

fn storing(dir: &TempDir) -> CatalogueConfig {
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    config
}

#[tokio::test]
async fn component_is_downloaded_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes(CODE, COMPONENT);
    for run in 0..3 {
        // To the store, each catalogue is like a new process.
        let catalogue = catalogue(storing(&dir));
        let found = catalogue.discover(&server.key()).await.unwrap();
        let component = catalogue.fetch(&found).await.unwrap();
        assert_eq!(component.bytes(), COMPONENT);
        assert_eq!(component.is_stored(), run > 0);
    }
    assert_eq!(server.asked().iter().filter(|path| *path == CODE).count(), 1);
}

#[tokio::test]
async fn damaged_component_is_downloaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes(CODE, COMPONENT);
    let catalogue = catalogue(storing(&dir));
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();
    let path = fs::read_dir(dir.path().join("components")).unwrap().next().unwrap().unwrap().path();
    for damaged in [&b""[..], &COMPONENT[1..], b"another component altogether"] {
        fs::write(&path, damaged).unwrap();
        let component = catalogue.fetch(&found).await.unwrap();
        assert!(!component.is_stored() && component.bytes() == COMPONENT);
        assert_eq!(fs::read(&path).unwrap(), COMPONENT);
    }
}

#[tokio::test]
async fn refused_component_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes(CODE, "other code");
    let catalogue = catalogue(storing(&dir));
    let found = catalogue.discover(&server.key()).await.unwrap();
    let error = catalogue.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::WrongDigest { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("components")).unwrap().count(), 0);
}

#[tokio::test]
async fn stored_component_obeys_current_limits() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut stub = descriptor();
    stub.source_package.as_mut().unwrap().size = None;
    server.publish(OWN, &stub).bytes(CODE, COMPONENT);
    let fetch = async |config| {
        let catalogue = catalogue(config);
        let found = catalogue.discover(&server.key()).await.unwrap();
        catalogue.fetch(&found).await
    };
    fetch(storing(&dir)).await.unwrap();
    let mut small = storing(&dir);
    small.max_component_bytes = COMPONENT.len() - 1;
    let error = fetch(small).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn store_stays_within_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut small = storing(&dir);
    small.max_store_bytes = 250;
    let catalogue = catalogue(small);
    for n in 0..4 {
        let mut stub = descriptor();
        stub.refer("echo.wasm", &[n; 100]);
        server.publish(OWN, &stub).bytes(CODE, [n; 100]);
        let found = catalogue.discover(&server.key()).await.unwrap();
        catalogue.fetch(&found).await.unwrap();
        assert!(catalogue.fetch(&found).await.unwrap().is_stored());
    }
    assert_eq!(fs::read_dir(dir.path().join("components")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let components: Vec<Vec<u8>> = (0_u8..4).map(|n| vec![n; 200_000]).collect();
    let memory = Arc::new(MemorySource::new());
    let domain = |n: usize| protostub_types::Domain::parse(&format!("sp{n}.example")).unwrap();
    for (n, component) in components.iter().enumerate() {
        let mut stub = descriptor();
        stub.refer("echo.wasm", component);
        memory.insert(&domain(n), "default", stub.to_json(), component.clone());
    }
    // Each catalogue is like a process of its own. Each asks for every component at the same time.
    let all = (0..8).map(|_| {
        let (catalogue, components) = (catalogue_with(storing(&dir), vec![memory.clone()]), components.clone());
        tokio::spawn(async move {
            let each = components.iter().enumerate().map(async |(n, component)| {
                let found = catalogue.discover(&protostub_types::StubKey::Domain(domain(n))).await.unwrap();
                assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), component);
            });
            join_all(each).await;
        })
    });
    for outcome in join_all(all).await {
        outcome.unwrap();
    }
    let mut stored: Vec<_> = fs::read_dir(dir.path().join("components")).unwrap().map(|entry| entry.unwrap().path()).collect();
    stored.sort();
    assert_eq!(stored.len(), components.len(), "{stored:?}");
    for path in stored {
        let digest = Sha256Digest::of(&fs::read(&path).unwrap());
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with(&digest.to_string()));
    }
}

#[tokio::test]
async fn unusable_store_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("components"), "a file").unwrap();
    let error =
        protostub_catalogue::Catalogue::new(storing(&dir), crate::server::egress(Default::default()), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("components"), "{error}");
}
