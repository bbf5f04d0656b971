//! The authenticated files of a cache: changes that only a holder of the key can make, and changes
//! that any user can make who could once write to the folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use protostub_catalogue::{Catalogue, CatalogueError, Fault, Provenance, TrustStateError, trust::Signatures};
use protostub_types::{Descriptor, Sha256Digest, Version};
use ring::hmac;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    committed::{accept, accepted, keeping, key},
    server::{OWN, Server, catalogue, descriptor, egress},
    trust::{KEYS, key as signing_key, signed, statement},
};

/// Length of the tag and its line feed, in bytes.
const TAG_BYTES: usize = 65;

/// Returns the content of a file, without its tag.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap().split_off(TAG_BYTES)
}

/// Writes a file with the right tag.
pub(crate) fn write(path: &Path, content: &str) {
    let folder = path.parent().unwrap();
    let key = fs::read(folder.parent().unwrap().join("trust.key")).unwrap();
    let subject: Sha256Digest = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().parse().unwrap();
    let kind = folder.file_name().unwrap().to_str().unwrap();
    let sealed = [b"protostub trust state 1".as_slice(), kind.as_bytes(), b"\0", subject.as_bytes(), content.as_bytes()].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &sealed);
    let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path, format!("{tag}\n{content}")).unwrap();
}

/// Returns the only file in a folder of the cache, apart from the mark of adopted files.
pub(crate) fn only(dir: &TempDir, folder: &str) -> PathBuf {
    let files = fs::read_dir(dir.path().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| !path.ends_with(".sealed"));
    let file = files.next().expect("a file");
    assert_eq!(files.count(), 0);
    file
}

fn version(text: &str) -> Descriptor {
    let mut stub = descriptor();
    stub.version = Version::parse(text).unwrap();
    stub
}

fn publish(server: &Server, stub: &Descriptor) {
    let json = stub.to_json();
    server.answer(OWN, move || -> Response { ([(header::CACHE_CONTROL, "max-age=3600")], json.clone()).into_response() });
}

/// Returns the content of a file as a release without tags would have made it.
fn without_tag(path: &Path) -> String {
    let content = read(path);
    fs::write(path, &content).unwrap();
    content
}

/// The folder was open to others, or shared, before the first start of this release. A planted copy
/// decides nothing then, although its content is right.
#[tokio::test]
async fn planted_descriptor_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    publish(&server, &version("6.6"));
    catalogue(keeping(&dir)).discover(&server.key()).await.unwrap();
    let path = only(&dir, "descriptors");
    let other_key = fs::read(&path).unwrap();
    without_tag(&path);
    let planted = fs::read(&path).unwrap();
    publish(&server, &version("1.0"));
    for (planted, is_first_start) in [(&planted, true), (&planted, false), (&other_key, true)] {
        fs::write(&path, planted).unwrap();
        if is_first_start {
            fs::remove_file(dir.path().join("trust.key")).unwrap();
            fs::remove_file(dir.path().join("keys/.sealed")).unwrap();
        }
        server.asked();
        let found = catalogue(keeping(&dir)).discover(&server.key()).await.unwrap();
        assert_eq!((found.descriptor.version.as_str(), found.provenance), ("1.0", Provenance::Asked));
        assert_eq!(server.asked(), [OWN]);
    }
    // Nor while the domain cannot be reached.
    server.stop().await;
    fs::write(&path, &planted).unwrap();
    assert!(catalogue(keeping(&dir)).discover(&server.key()).await.unwrap_err().is_retryable());
}

/// A planted key set verifies nothing: not at the first start of this release, and not later.
#[tokio::test]
async fn planted_key_set_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let (own, strange) = (signing_key("2026"), signing_key("2026"));
    let publish_keys = |key: &protostub_catalogue::trust::SigningKey| {
        let set = json!({ "keys": [key.public().to_jwk()] }).to_string();
        server.answer(KEYS, move || -> Response { ([(header::CACHE_CONTROL, "max-age=3600")], set.clone()).into_response() });
    };
    let discover = async || -> Result<_, CatalogueError> {
        let mut config = keeping(&dir);
        config.trust.signatures = Signatures::Require;
        catalogue(config).discover(&server.key()).await
    };
    // The attacker's keys, as an earlier release would have kept them.
    publish_keys(&strange);
    server.publish(OWN, &signed(&statement(&server.domain()), &strange));
    discover().await.unwrap();
    let path = only(&dir, "keys");
    without_tag(&path);
    let planted = fs::read(&path).unwrap();
    publish_keys(&own);
    fs::remove_file(dir.path().join("keys/.sealed")).unwrap();
    let error = discover().await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Signature(_)), "{error}");
    server.publish(OWN, &signed(&statement(&server.domain()), &own));
    discover().await.unwrap();
    // After the first start, the file is a damaged record.
    fs::write(&path, &planted).unwrap();
    let error = discover().await.unwrap_err();
    assert!(matches!(error.fault(), Fault::TrustState(TrustStateError::Damaged { .. })), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// The versions of an earlier release count from the first start on. Later, a record without a tag
/// is not one of an earlier release, and an older version in it does not count.
#[tokio::test]
async fn accepted_version_without_a_tag_is_adopted_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("sp1.example");
    accept(&catalogue(keeping(&dir)), &key, "2.0").await.unwrap();
    let path = only(&dir, "committed");
    let content = without_tag(&path);
    fs::remove_file(dir.path().join("keys/.sealed")).unwrap();
    let first = catalogue(keeping(&dir));
    assert_eq!(accepted(&first, &key).await.as_deref(), Some("2.0"));
    assert_eq!(read(&path), content);
    let next = || -> Catalogue { catalogue(keeping(&dir)) };
    assert_eq!(accepted(&next(), &key).await.as_deref(), Some("2.0"));
    let older = content.replace("2.0", "1.0");
    for planted in [older.clone(), format!("{}\n{older}", "0".repeat(64))] {
        fs::write(&path, planted).unwrap();
        let error = next().committed(&key).await.unwrap_err();
        assert!(matches!(error, TrustStateError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("was not made with the key "), "{error}");
    }
}

/// A volume that others can write to, as those of Kubernetes. The operator's setting allows the
/// volume, but no planted folder or key.
#[cfg(unix)]
#[tokio::test]
async fn volume_of_others_needs_the_operators_setting() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    let key = key("sp1.example");
    let start = |allow| {
        let mut config = keeping(&dir);
        config.allow_other_writers = allow;
        Catalogue::new(config, egress(Default::default()), Vec::new())
    };
    let refusal = |allow| std::error::Error::source(&start(allow).unwrap_err()).unwrap().to_string();
    let give_away = |path: &Path| chown(path, Some(12_345), None).is_ok();
    for open_to in [0o2775, 0o777] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(open_to)).unwrap();
        assert!(refusal(false).contains("see `allow-other-writers` in `[cache]`"), "{}", refusal(false));
    }
    let is_root = give_away(dir.path());
    accept(&start(true).unwrap(), &key, "2.0").await.unwrap();
    // With the next mount, the volume's group gets access to all files.
    for file in ["committed", "trust.key"] {
        fs::set_permissions(dir.path().join(file), fs::Permissions::from_mode(0o2770)).unwrap();
    }
    assert_eq!(accepted(&start(true).unwrap(), &key).await.as_deref(), Some("2.0"));
    assert_eq!(fs::metadata(dir.path().join("trust.key")).unwrap().permissions().mode() & 0o777, 0o600);
    for planted in ["trust.key", "committed", "descriptors"] {
        if is_root && give_away(&dir.path().join(planted)) {
            assert!(refusal(true).contains("user 12345"), "{}", refusal(true));
            chown(dir.path().join(planted), Some(rustix::process::geteuid().as_raw()), None).unwrap();
        }
    }
}

/// Another user plants a pipe where the folder is shared. Reading the pipe would never end.
#[cfg(unix)]
#[tokio::test]
async fn planted_pipe_does_not_delay_the_start() {
    let dir = tempfile::tempdir().unwrap();
    catalogue(keeping(&dir));
    let files = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let files: Vec<_> = files.collect();
    assert_eq!(files, [dir.path().join("trust.key")], "each file here needs a check before it is opened");
    for file in files {
        fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        let error = Catalogue::new(keeping(&dir), egress(Default::default()), Vec::new()).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the key is not a regular file");
    }
}

/// Another user plants folders, links and keys where the cache folder itself is shared and sticky,
/// like `/tmp`.
#[cfg(unix)]
#[tokio::test]
async fn shared_cache_folder_with_planted_entries_is_refused() {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
    let dir = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let start = || Catalogue::new(keeping(&dir), egress(Default::default()), Vec::new());
    let refused = |planted: &Path| {
        let error = start().unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains(planted.to_str().unwrap()) && text.contains("user 12345"), "{text}");
    };
    let gives_away = |path: &Path| chown(path, Some(12_345), None).is_ok();
    for folder in ["descriptors", "committed", "keys", "components"] {
        let planted = dir.path().join(folder);
        // An earlier start of this test may have made it.
        let _ = fs::remove_dir(&planted);
        fs::create_dir(&planted).unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o777)).unwrap();
        if gives_away(&planted) {
            refused(&planted);
        }
        fs::remove_dir(&planted).unwrap();
        // The link leads to a folder of the victim.
        symlink(own.path(), &planted).unwrap();
        if lchown(&planted, Some(12_345), None).is_ok() {
            refused(&planted);
        }
        fs::remove_file(&planted).unwrap();
    }
    let planted = dir.path().join("trust.key");
    fs::write(&planted, [7; 32]).unwrap();
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o600)).unwrap();
    if gives_away(&planted) {
        refused(&planted);
    }
    fs::remove_file(&planted).unwrap();
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
    // Without planted entries, the shared folder is good enough.
    start().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = start().unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("can be written to by other users (mode 777)"), "{reason}");
}
