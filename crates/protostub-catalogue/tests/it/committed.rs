//! Which version of a stub was accepted last.

use std::fs;

use protostub_catalogue::{Catalogue, CatalogueConfig, Committed};
use protostub_types::{Domain, Sha256Digest, StubKey, Version};
use tempfile::TempDir;

use crate::server::{catalogue, config};

fn keeping(dir: &TempDir) -> CatalogueConfig {
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    config
}

fn committed(version: &str) -> Committed {
    Committed {
        version: Version::parse(version).unwrap(),
        digest: Sha256Digest::of(version.as_bytes()),
        signed: version == "1.1",
    }
}

#[tokio::test]
async fn what_was_committed_is_known_to_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let started = || -> Catalogue { catalogue(keeping(&dir)) };
    let domain = Domain::parse("sp1.example").unwrap();
    let named = |name: &str| StubKey::Named { domain: domain.clone(), name: name.to_owned() };
    let legacy = StubKey::Legacy { scheme: "slack".to_owned(), domain: domain.clone() };
    // All of one domain, and three of one name.
    let keys = [StubKey::Domain(domain.clone()), named("default"), named("chat"), legacy, named("slack.sp1.example")];
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(started().committed(key).await, None);
        started().commit(key, &committed("1.0")).await;
        started().commit(key, &committed(&format!("2.{n}"))).await;
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(started().committed(key).await, Some(committed(&format!("2.{n}"))), "{key}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = catalogue(keeping(&dir));
    let key = StubKey::Domain(Domain::parse("sp1.example").unwrap());
    catalogue.commit(&key, &committed("1.0")).await;
    let path = fs::read_dir(dir.path().join("committed")).unwrap().next().unwrap().unwrap().path();
    let intact = fs::read_to_string(&path).unwrap();
    for damaged in ["", "{}", &intact.replace("1.0", "..."), &intact.replace("sp1", "sp2"), &" ".repeat(5000)] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(catalogue.committed(&key).await, None, "{damaged}");
        assert!(!path.exists());
    }
    catalogue.commit(&key, &committed("1.1")).await;
    assert_eq!(catalogue.committed(&key).await, Some(committed("1.1")));
}

#[tokio::test]
async fn what_another_process_does_to_it_is_known_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let started = || -> Catalogue { catalogue(keeping(&dir)) };
    let (this, other) = (started(), started());
    let key = StubKey::Domain(Domain::parse("sp1.example").unwrap());
    for version in ["1.0", "2.0", "1.1", "3.0"] {
        other.commit(&key, &committed(version)).await;
        // Read, and remembered.
        for _ in 0..2 {
            assert_eq!(this.committed(&key).await, Some(committed(version)));
            assert_eq!(other.committed(&key).await, Some(committed(version)));
        }
    }
    let path = fs::read_dir(dir.path().join("committed")).unwrap().next().unwrap().unwrap().path();
    fs::write(&path, "{}").unwrap();
    assert_eq!(this.committed(&key).await, None);
    assert_eq!(other.committed(&key).await, None, "the file was removed");
    this.commit(&key, &committed("4.0")).await;
    assert_eq!(other.committed(&key).await, Some(committed("4.0")));
    fs::remove_file(&path).unwrap();
    assert_eq!(other.committed(&key).await, None);
}

#[tokio::test]
async fn without_a_folder_nothing_is_remembered() {
    let catalogue = catalogue(config());
    let key = StubKey::Domain(Domain::parse("sp1.example").unwrap());
    catalogue.commit(&key, &committed("1.0")).await;
    assert_eq!(catalogue.committed(&key).await, None);
}
