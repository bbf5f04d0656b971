//! Accepted versions of stubs.

use std::{fs, path::PathBuf};

use protostub_catalogue::{AcceptedRelease, Bounds, Catalogue, CatalogueConfig, TrustStateError};
use protostub_types::{Domain, Sha256Digest, StubKey, Version};
use tempfile::TempDir;

use crate::server::{catalogue, config};

pub(crate) fn keeping(dir: &TempDir) -> CatalogueConfig {
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    config
}

pub(crate) fn committed(version: &str) -> AcceptedRelease {
    AcceptedRelease {
        version: Version::parse(version).unwrap(),
        digest: Sha256Digest::of(version.as_bytes()),
        signed: version == "1.1",
    }
}

pub(crate) fn key(domain: &str) -> StubKey {
    StubKey::Domain(Domain::parse(domain).unwrap())
}

/// Returns the version that was accepted last.
pub(crate) async fn accepted(catalogue: &Catalogue, key: &StubKey) -> Option<String> {
    catalogue.committed(key).await.unwrap().map(|committed| committed.version.to_string())
}

/// Accepts a version in place of the last accepted one.
pub(crate) async fn accept(catalogue: &Catalogue, key: &StubKey, version: &str) -> Result<(), TrustStateError> {
    let before = catalogue.committed(key).await?;
    catalogue.commit(key, &committed(version), before.as_ref()).await
}

#[tokio::test]
async fn committed_version_is_known_to_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let started = || -> Catalogue { catalogue(keeping(&dir)) };
    let domain = Domain::parse("sp1.example").unwrap();
    let named = |name: &str| StubKey::Named { domain: domain.clone(), name: name.to_owned() };
    let legacy = StubKey::Legacy { scheme: "slack".to_owned(), domain: domain.clone() };
    // Keys of one domain, some with the same name.
    let keys = [StubKey::Domain(domain.clone()), named("default"), named("chat"), legacy, named("slack.sp1.example")];
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(accepted(&started(), key).await, None);
        accept(&started(), key, "1.0").await.unwrap();
        accept(&started(), key, &format!("2.{n}")).await.unwrap();
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(started().committed(key).await.unwrap(), Some(committed(&format!("2.{n}"))), "{key}");
    }
}

#[tokio::test]
async fn version_of_another_process_is_known_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let started = || -> Catalogue { catalogue(keeping(&dir)) };
    let (this, other) = (started(), started());
    let key = key("sp1.example");
    for version in ["1.0", "2.0", "1.1", "3.0"] {
        accept(&other, &key, version).await.unwrap();
        // The first access reads the record, and the second one uses the memory.
        for _ in 0..2 {
            assert_eq!(this.committed(&key).await.unwrap(), Some(committed(version)));
            assert_eq!(other.committed(&key).await.unwrap(), Some(committed(version)));
        }
    }
}

/// Two deployments were judged by the same record. The second one does not replace the version of
/// the first one.
#[tokio::test]
async fn commit_over_a_record_not_judged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (this, other) in [(catalogue(keeping(&dir)), catalogue(keeping(&dir))), {
        let shared = catalogue(config());
        (shared.clone(), shared)
    }] {
        let key = key("sp1.example");
        accept(&this, &key, "1.0").await.unwrap();
        let before = other.committed(&key).await.unwrap();
        accept(&this, &key, "3.0").await.unwrap();
        let error = other.commit(&key, &committed("2.0"), before.as_ref()).await.unwrap_err();
        assert!(matches!(error, TrustStateError::Changed { .. }), "{error}");
        assert!(error.to_string().ends_with("deploy the stub again"), "{error}");
        assert_eq!(accepted(&other, &key).await.as_deref(), Some("3.0"));
        // Committing the same version twice causes no conflict.
        other.commit(&key, &committed("3.0"), before.as_ref()).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_folder_versions_are_remembered_in_memory() {
    let catalogue = catalogue(config());
    let key = key("sp1.example");
    assert_eq!(accepted(&catalogue, &key).await, None);
    accept(&catalogue, &key, "1.0").await.unwrap();
    assert_eq!(catalogue.clone().committed(&key).await.unwrap(), Some(committed("1.0")));
}

/// A file of an earlier release counts. The next version replaces it by a file that counts for the
/// domain.
#[tokio::test]
async fn versions_in_files_of_earlier_releases_count() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("sp1.example");
    let file = write_record(&dir, "domain sp1.example default", "2.0", true);
    let catalogue = catalogue(keeping(&dir));
    assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("2.0"));
    accept(&catalogue, &key, "2.1").await.unwrap();
    assert!(!file.exists());
    assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("2.1"));
}

/// Writes the record that an earlier release made for this text of the key. The record counts when
/// this release starts for the first time.
fn write_record(dir: &TempDir, key: &str, version: &str, signed: bool) -> PathBuf {
    let folder = dir.path().join("committed");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(Sha256Digest::of(key.as_bytes()).to_string());
    let digest = Sha256Digest::of(version.as_bytes());
    fs::write(&file, format!(r#"{{"key":"{key}","version":"{version}","sha256":"{digest}","signed":{signed}}}"#)).unwrap();
    file
}

/// Earlier releases took `sp1.example:443` for another domain than `sp1.example`. The stricter of
/// their two records counts, and the next version replaces both.
#[tokio::test]
async fn version_accepted_under_port_443_counts() {
    const OWN: &str = "domain sp1.example default";
    const FORMER: &str = "domain sp1.example:443 default";
    for (own, former, expected) in [
        (None, ("2.0", true), ("2.0", true)),
        (Some(("1.0", true)), ("2.0", false), ("2.0", true)),
        (Some(("3.0", false)), ("2.0", true), ("3.0", true)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        own.map(|(version, signed)| write_record(&dir, OWN, version, signed));
        let file = write_record(&dir, FORMER, former.0, former.1);
        let catalogue = catalogue(keeping(&dir));
        for spelling in ["sp1.example", "sp1.example:443"] {
            let accepted = catalogue.committed(&key(spelling)).await.unwrap().unwrap();
            assert_eq!((accepted.version.to_string().as_str(), accepted.signed), expected, "{spelling}");
        }
        // Only a version that was judged by both records replaces them.
        let key = key("sp1.example");
        let judged_by_one = own.map(|(version, signed)| AcceptedRelease { signed, ..committed(version) });
        let error = catalogue.commit(&key, &committed("4.0"), judged_by_one.as_ref()).await.unwrap_err();
        assert!(matches!(error, TrustStateError::Changed { .. }) && file.exists(), "{error}");
        accept(&catalogue, &key, "4.0").await.unwrap();
        assert!(!file.exists());
        let next = self::catalogue(keeping(&dir));
        assert_eq!(accepted(&next, &key).await.as_deref(), Some("4.0"));
    }
    // The port 80 is not the default port.
    let dir = tempfile::tempdir().unwrap();
    let catalogue = catalogue(keeping(&dir));
    accept(&catalogue, &key("sp1.example:80"), "2.0").await.unwrap();
    assert_eq!(accepted(&catalogue, &key("sp1.example")).await, None);
}

/// A domain with endless subdomains and names displaces its own versions. When all places are
/// taken, new domains are refused, and present ones stay.
#[tokio::test]
async fn flood_of_one_domain_evicts_its_own_versions_only() {
    let dir = tempfile::tempdir().unwrap();
    for cache_dir in [None, Some(dir.path().to_owned())] {
        let mut config = config();
        config.cache_dir = cache_dir;
        config.accepted_versions = Bounds { total: 8, per_domain: 4 };
        let catalogue = catalogue(config);
        let victim = key("bank.example");
        accept(&catalogue, &victim, "2.0").await.unwrap();
        for n in 0..20 {
            let key = match n % 2 {
                0 => key(&format!("a{n}.evil.example:{}", 8000 + n)),
                _ => StubKey::Named { domain: Domain::parse("evil.example").unwrap(), name: format!("n{n}") },
            };
            catalogue.check_commit(&key).await.unwrap();
            accept(&catalogue, &key, "1.0").await.unwrap();
            assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("1.0"));
        }
        for n in 0..3 {
            accept(&catalogue, &key(&format!("evil{n}.example")), "1.0").await.unwrap();
        }
        let late = key("late.example");
        for refused in [catalogue.check_commit(&late).await, accept(&catalogue, &late, "1.0").await] {
            let error = refused.unwrap_err();
            assert_eq!(
                error.to_string(),
                "failed to keep the accepted version of late.example: the limit of 8 records is reached; raise `max-accepted-versions`"
            );
        }
        assert_eq!(accepted(&catalogue, &victim).await.as_deref(), Some("2.0"));
        accept(&catalogue, &victim, "2.1").await.unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("committed")).unwrap().count(), 8);
}
