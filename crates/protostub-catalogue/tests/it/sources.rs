//! Sources that come before the network.

use std::{fs, sync::Arc};

use async_trait::async_trait;
use protostub_catalogue::{DirectorySource, Document, Fault, MemorySource, Request, Source};
use protostub_types::{Domain, StubKey, Version};

use crate::server::{COMPONENT, OWN, Server, catalogue_with, config, descriptor};

fn sp2() -> Domain {
    Domain::parse("sp2.example").unwrap()
}

fn key() -> StubKey {
    StubKey::Domain(sp2())
}

#[tokio::test]
async fn memory_source_serves_its_stubs() {
    let memory = Arc::new(MemorySource::new());
    let catalogue = catalogue_with(config(), vec![memory.clone()]);
    memory.insert(&sp2(), "default", descriptor().to_json(), COMPONENT);
    let found = catalogue.discover(&key()).await.unwrap();
    assert_eq!(found.url.as_str(), "https://sp2.example/.well-known/protostub/default");
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);

    let mut update = descriptor();
    update.version = Version::parse("1.1").unwrap();
    update.refer("https://cdn.example/new.wasm", b"new");
    memory.insert(&sp2(), "default", update.to_json(), b"new".as_slice());
    let found = catalogue.discover(&key()).await.unwrap();
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes().as_ref(), b"new");

    memory.insert(&sp2(), "default", descriptor().to_json(), b"something else".as_slice());
    let found = catalogue.discover(&key()).await.unwrap();
    let error = catalogue.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::WrongDigest { .. }), "{error}");

    memory.insert(&sp2(), "default", "{", COMPONENT);
    let error = catalogue.discover(&key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Descriptor(_)), "{error}");

    memory.remove(&sp2(), "default");
    assert!(catalogue.discover(&key()).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn directory_source_serves_its_stubs() {
    let folder = tempfile::tempdir().unwrap();
    let (all, one) = (folder.path().join("all"), folder.path().join("one"));
    let beside = |root: &std::path::Path| {
        let own = root.join(".well-known/protostub");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("default.json"), descriptor().to_json()).unwrap();
        fs::write(own.join("echo.wasm"), COMPONENT).unwrap();
        own
    };
    let own = beside(&all.join("sp2.example"));
    beside(&one);
    for source in [DirectorySource::new(&all), DirectorySource::of_domain(sp2(), &one)] {
        let catalogue = catalogue_with(config(), vec![Arc::new(source)]);
        let found = catalogue.discover(&key()).await.unwrap();
        assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
        let other = StubKey::Domain(Domain::parse("sp3.example").unwrap());
        assert!(catalogue.discover(&other).await.unwrap_err().is_not_found());
    }
    // A folder is not a descriptor. The size limit applies here, too.
    let catalogue = catalogue_with(config(), vec![Arc::new(DirectorySource::new(&all))]);
    fs::create_dir(own.join("default")).unwrap();
    assert!(catalogue.discover(&key()).await.is_ok());
    fs::write(own.join("default.json"), vec![b' '; 300 * 1024]).unwrap();
    let error = catalogue.discover(&key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::TooLarge { .. }), "{error}");
}

/// The folder of a domain may have the name that the domain had before it dropped the port 443.
#[tokio::test]
async fn folder_of_port_443_serves_the_domain() {
    let folder = tempfile::tempdir().unwrap();
    let publish = |name: &str, version: &str| {
        let own = folder.path().join(name).join(".well-known/protostub");
        fs::create_dir_all(&own).unwrap();
        let mut stub = descriptor();
        stub.version = Version::parse(version).unwrap();
        fs::write(own.join("default.json"), stub.to_json()).unwrap();
        fs::write(own.join("echo.wasm"), COMPONENT).unwrap();
    };
    let catalogue = catalogue_with(config(), vec![Arc::new(DirectorySource::new(folder.path()))]);
    publish("sp2.example:443", "1.0");
    let found = catalogue.discover(&key()).await.unwrap();
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
    publish("sp2.example", "2.0");
    assert_eq!(catalogue.discover(&key()).await.unwrap().descriptor.version.to_string(), "2.0");
}

#[tokio::test]
async fn descriptor_url_cannot_lead_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("sp2.example/.well-known/protostub");
    fs::create_dir_all(&own).unwrap();
    fs::write(folder.path().join("secret"), COMPONENT).unwrap();
    let catalogue = catalogue_with(config(), vec![Arc::new(DirectorySource::new(folder.path()))]);
    for url in ["../../../secret", "/../secret", "/..%2fsecret", "/%2e%2e/secret", "https://sp3.example/../secret", "//secret/"] {
        let mut stub = descriptor();
        stub.refer(url, COMPONENT);
        fs::write(own.join("default"), stub.to_json()).unwrap();
        let found = catalogue.discover(&key()).await.unwrap();
        assert!(catalogue.fetch(&found).await.is_err(), "{url}");
    }
}

#[tokio::test]
async fn sources_are_asked_in_order_and_the_network_last() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor()).bytes("/.well-known/protostub/echo.wasm", COMPONENT);
    let (first, second) = (Arc::new(MemorySource::new()), Arc::new(MemorySource::new()));
    let catalogue = catalogue_with(config(), vec![first.clone(), second.clone()]);
    let version = async || catalogue.discover(&server.key()).await.unwrap().descriptor.version.to_string();
    let publish = |source: &MemorySource, version: &str| {
        let mut stub = descriptor();
        stub.version = Version::parse(version).unwrap();
        source.insert(&server.domain(), "default", stub.to_json(), COMPONENT);
    };
    assert_eq!(version().await, "1.0");
    publish(&second, "2");
    assert_eq!(version().await, "2");
    publish(&first, "1");
    assert_eq!(version().await, "1");

    // A local descriptor may name code at the domain.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join(".well-known/protostub")).unwrap();
    fs::write(folder.path().join(OWN.trim_start_matches('/')), descriptor().to_json()).unwrap();
    let source = DirectorySource::of_domain(server.domain(), folder.path());
    let catalogue = catalogue_with(config(), vec![Arc::new(source)]);
    let found = catalogue.discover(&server.key()).await.unwrap();
    server.asked();
    assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
    assert_eq!(server.asked(), ["/.well-known/protostub/echo.wasm"]);
}

#[derive(Debug)]
struct Broken;

#[async_trait]
impl Source for Broken {
    async fn open(&self, _: &Request<'_>) -> Result<Document, Fault> {
        Err(Fault::Source("the database is locked".into()))
    }
}

#[tokio::test]
async fn failing_source_ends_the_search() {
    let server = Server::start().await;
    server.publish(OWN, &descriptor());
    let error = catalogue_with(config(), vec![Arc::new(Broken)]).discover(&server.key()).await.unwrap_err();
    assert!(error.to_string().ends_with("the source failed: the database is locked"), "{error}");
    assert!(server.asked().is_empty());
}
