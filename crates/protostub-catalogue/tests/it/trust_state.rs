//! Unusable trust state refuses stubs, and is not lost by that. Each fault is a real one of the
//! file system.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use protostub_catalogue::{CatalogueError, Fault, Provenance, TrustStateError, trust::Signatures};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    committed::{accept, accepted, committed, keeping, key},
    sealed::{self, only},
    server::{COMPONENT, OWN, Server, catalogue, descriptor},
    trust::{KEYS, key as signing_key, signed, statement},
};

/// Replaces a file by something that is not a file. Faults of permissions would not stop root.
fn spoil(path: &Path, how: &str) {
    fs::remove_file(path).unwrap();
    match how {
        "folder" => fs::create_dir(path).unwrap(),
        "loop" => symlink(path, path).unwrap(),
        "nowhere" => symlink("/nowhere/at/all", path).unwrap(),
        how => panic!("{how}"),
    }
}

fn unspoil(path: &Path, content: &[u8]) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
    fs::write(path, content).unwrap();
}

const HOW: [&str; 3] = ["folder", "loop", "nowhere"];

#[tokio::test]
async fn version_that_cannot_be_read_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("sp1.example");
    accept(&catalogue(keeping(&dir)), &key, "2.0").await.unwrap();
    let path = only(&dir, "committed");
    let content = fs::read(&path).unwrap();
    for how in HOW {
        let catalogue = catalogue(keeping(&dir));
        spoil(&path, how);
        let error = catalogue.committed(&key).await.unwrap_err();
        assert!(matches!(error, TrustStateError::Read { .. }), "{how}: {error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("make the file readable"), "{text}");
        let refused = catalogue.commit(&key, &committed("1.0"), None).await;
        assert!(refused.is_err() && fs::symlink_metadata(&path).is_ok(), "{how}");
        unspoil(&path, &content);
        assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("2.0"), "{how}");
    }
    // A file takes the folder's place.
    let catalogue = catalogue(keeping(&dir));
    let folder = dir.path().join("committed");
    fs::rename(&folder, dir.path().join("aside")).unwrap();
    fs::write(&folder, "x").unwrap();
    let error = catalogue.committed(&key).await.unwrap_err();
    assert!(matches!(error, TrustStateError::Read { .. }), "{error}");
    fs::remove_file(&folder).unwrap();
    fs::rename(dir.path().join("aside"), &folder).unwrap();
    assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("2.0"));
}

#[tokio::test]
async fn damaged_version_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = catalogue(keeping(&dir));
    let key = key("sp1.example");
    accept(&catalogue, &key, "1.0").await.unwrap();
    let path = only(&dir, "committed");
    let intact = sealed::read(&path);
    let cut = &intact[..intact.len() / 2];
    let damages = ["", "{}", cut, &intact.replace("1.0", "..."), &intact.replace("sp1", "sp2"), &" ".repeat(5000)];
    for (damaged, has_tag) in damages.iter().flat_map(|damaged| [(*damaged, true), (*damaged, false)]) {
        match has_tag {
            true => sealed::write(&path, damaged),
            false => fs::write(&path, damaged).unwrap(),
        }
        let written = fs::read_to_string(&path).unwrap();
        let error = catalogue.committed(&key).await.unwrap_err();
        assert!(matches!(error, TrustStateError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("or remove it to trust"), "{text}");
        assert!(catalogue.commit(&key, &committed("0.9"), None).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), written, "the file is unchanged");
    }
    // The operator follows the advice of the error. This process still knows the version.
    fs::remove_file(&path).unwrap();
    assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("1.0"));
    accept(&catalogue, &key, "1.1").await.unwrap();
    assert_eq!(accepted(&catalogue, &key).await.as_deref(), Some("1.1"));
}

#[tokio::test]
async fn cache_folder_removed_meanwhile_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = TempDir::new_in(dir.path()).unwrap();
    let server = Server::start().await;
    let with_time = |_: &axum::http::HeaderMap| ([(header::CACHE_CONTROL, "max-age=60")], descriptor().to_json()).into_response();
    server.answer_to(OWN, with_time).bytes("/.well-known/protostub/echo.wasm", COMPONENT);
    let catalogue = catalogue(keeping(&cache));
    accept(&catalogue, &server.key(), "2.0").await.unwrap();
    fs::remove_dir_all(cache.path()).unwrap();
    // Deployments go on, and the version is still known.
    assert_eq!(accepted(&catalogue, &server.key()).await.as_deref(), Some("2.0"));
    let found = catalogue.discover(&server.key()).await.unwrap();
    catalogue.fetch(&found).await.unwrap();
    accept(&catalogue, &server.key(), "2.1").await.unwrap();
    for folder in ["committed", "descriptors", "components"] {
        use std::os::unix::fs::PermissionsExt as _;
        only(&cache, folder);
        let mode = fs::metadata(cache.path().join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    let next = self::catalogue(keeping(&cache));
    assert_eq!(accepted(&next, &server.key()).await.as_deref(), Some("2.1"));
}

/// A process died after it wrote a record, and before it gave the record its name.
#[tokio::test]
async fn kill_before_rename_leaves_the_version_before() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("sp1.example");
    accept(&catalogue(keeping(&dir)), &key, "2.0").await.unwrap();
    let path = only(&dir, "committed");
    let half = fs::read(&path).unwrap();
    fs::write(dir.path().join("committed").join(".partial-died"), &half[..half.len() / 2]).unwrap();
    let next = catalogue(keeping(&dir));
    assert_eq!(only(&dir, "committed"), path);
    assert_eq!(accepted(&next, &key).await.as_deref(), Some("2.0"));
    accept(&next, &key, "2.1").await.unwrap();
    assert_eq!(accepted(&catalogue(keeping(&dir)), &key).await.as_deref(), Some("2.1"));
}

#[tokio::test]
async fn version_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = catalogue(keeping(&dir));
    let key = key("sp1.example");
    let folder = dir.path().join("committed");
    fs::remove_dir(&folder).unwrap();
    symlink(&folder, &folder).unwrap();
    for refused in [catalogue.check_commit(&key).await, catalogue.commit(&key, &committed("1.0"), None).await] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(folder.to_str().unwrap()), "{text}");
    }
    fs::remove_file(&folder).unwrap();
    accept(&catalogue, &key, "1.0").await.unwrap();
}

/// A domain signs, and its keys are kept. While the kept keys cannot be read, the domain's
/// published keys are not used instead.
#[tokio::test]
async fn key_set_that_cannot_be_read_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let own = signing_key("2026");
    let set = json!({ "keys": [own.public().to_jwk()] }).to_string();
    server.answer(KEYS, move || -> Response { ([(header::CACHE_CONTROL, "max-age=3600")], set.clone()).into_response() });
    server.publish(OWN, &signed(&statement(&server.domain()), &own));
    let discover = async || -> Result<_, CatalogueError> {
        let mut config = keeping(&dir);
        config.trust.signatures = Signatures::VerifyIfPresent;
        catalogue(config).discover(&server.key()).await
    };
    assert!(discover().await.unwrap().authenticity.signed().is_some());
    let path = only(&dir, "keys");
    let content = fs::read(&path).unwrap();
    for how in HOW {
        spoil(&path, how);
        let error = discover().await.unwrap_err();
        assert!(matches!(error.fault(), Fault::TrustState(TrustStateError::Read { .. })), "{how}: {error}");
        assert!(!error.is_not_found() && !error.is_retryable());
        unspoil(&path, &content);
        assert!(discover().await.unwrap().authenticity.signed().is_some(), "{how}");
    }
    for damaged in [&b""[..], &content[..content.len() / 2], br#"{"asked":"x","confirmed":1,"keep_seconds":1,"json":""}"#] {
        fs::write(&path, damaged).unwrap();
        let error = discover().await.unwrap_err();
        assert!(matches!(error.fault(), Fault::TrustState(TrustStateError::Damaged { .. })), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    fs::remove_file(&path).unwrap();
    assert!(discover().await.unwrap().authenticity.signed().is_some());
}

/// The keys were confirmed by a clock that was ahead, so their age is unknown.
#[tokio::test]
async fn key_set_of_the_future_is_confirmed_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let own = signing_key("2026");
    let set = json!({ "keys": [own.public().to_jwk()] }).to_string();
    server.answer(KEYS, move || -> Response { ([(header::CACHE_CONTROL, "max-age=3600")], set.clone()).into_response() });
    let descriptor = signed(&statement(&server.domain()), &own).to_json();
    let with_time =
        move |_: &axum::http::HeaderMap| ([(header::CACHE_CONTROL, "max-age=60")], descriptor.clone()).into_response();
    server.answer_to(OWN, with_time);
    let discover = async || -> Result<_, CatalogueError> {
        let mut config = keeping(&dir);
        config.trust.signatures = Signatures::VerifyIfPresent;
        catalogue(config).discover(&server.key()).await
    };
    discover().await.unwrap();
    let set_back = || {
        let path = only(&dir, "keys");
        let text = sealed::read(&path);
        let at = text.find("\"confirmed\":").unwrap() + "\"confirmed\":".len();
        sealed::write(&path, &format!("{}9{}", &text[..at], &text[at..]));
    };
    set_back();
    server.asked();
    assert!(discover().await.unwrap().authenticity.signed().is_some());
    assert!(server.asked().contains(&KEYS.to_owned()), "the keys are confirmed again");
    set_back();
    server.stop().await;
    let error = discover().await.unwrap_err();
    assert!(error.to_string().contains("clock"), "{error}");
}

/// A copy that cannot be read is fetched again, and its file stays. The home domain is not asked
/// for a domain that has served its own stub.
#[tokio::test]
async fn copy_that_cannot_be_read_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let with_time = |_: &axum::http::HeaderMap| ([(header::CACHE_CONTROL, "max-age=60")], descriptor().to_json()).into_response();
    server.answer_to(OWN, with_time).bytes("/.well-known/protostub/echo.wasm", COMPONENT);
    let started = || catalogue(keeping(&dir));
    let found = started().discover(&server.key()).await.unwrap();
    started().fetch(&found).await.unwrap();
    for folder in ["descriptors", "components"] {
        let path = only(&dir, folder);
        let content = fs::read(&path).unwrap();
        spoil(&path, "loop");
        let catalogue = started();
        let found = catalogue.discover(&server.key()).await.unwrap();
        let component = catalogue.fetch(&found).await.unwrap();
        assert_eq!((component.bytes().as_ref(), component.is_stored()), (COMPONENT, folder != "components"));
        unspoil(&path, &content);
    }
    assert!(matches!(started().discover(&server.key()).await.unwrap().provenance, Provenance::Fresh { .. }));
}

#[tokio::test]
async fn unreadable_copy_gives_no_place_to_the_home_domain() {
    let dir = tempfile::tempdir().unwrap();
    let (home, server) = (Server::start().await, Server::start().await);
    let with_time = |_: &axum::http::HeaderMap| ([(header::CACHE_CONTROL, "max-age=0")], descriptor().to_json()).into_response();
    server.answer_to(OWN, with_time);
    let started = || {
        let mut config = keeping(&dir);
        config.home = home.domain();
        catalogue(config)
    };
    started().discover(&server.key()).await.unwrap();
    let stand_in = format!("/.well-known/protostub/{}", server.domain());
    home.publish(&stand_in, &descriptor());
    server.status(OWN, 404, "gone");
    let path = only(&dir, "descriptors");
    for spoilt in ["loop", "folder"] {
        spoil(&path, spoilt);
        let error = started().discover(&server.key()).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(home.asked().is_empty());
        unspoil(&path, b"");
    }
    assert!(started().discover(&server.key()).await.unwrap_err().is_not_found());
    // An unreadable folder does not prove that it was empty.
    fs::remove_dir_all(dir.path().join("descriptors")).unwrap();
    let catalogue = started();
    fs::remove_dir(dir.path().join("descriptors")).unwrap();
    symlink(dir.path().join("descriptors"), dir.path().join("descriptors")).unwrap();
    let error = catalogue.discover(&server.key()).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::TrustState(TrustStateError::Read { .. })), "{error}");
    assert!(home.asked().is_empty());
}

/// Runs one of these tests in a process of its own, since it removes resources that all threads
/// need.
fn in_child(test: &str, cache: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("trust_state::{test}"), "--ignored", "--nocapture", "--test-threads=1"])
        .env("PROTOSTUB_TEST_CACHE", cache)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

fn cache_of_parent() -> protostub_catalogue::CatalogueConfig {
    let mut config = crate::server::config();
    config.cache_dir = Some(PathBuf::from(std::env::var_os("PROTOSTUB_TEST_CACHE").expect("a child of another test")));
    config
}

/// Case of the review: with few file descriptors, 38 of 40 domains deployed 1.0 over 2.0.
#[tokio::test]
async fn without_descriptors_no_accepted_version_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let before = catalogue(keeping(&dir));
    for n in 0..40 {
        accept(&before, &key(&format!("sp{n}.example")), "2.0").await.unwrap();
    }
    in_child("child_without_descriptors_reads_no_version", dir.path());
    let after = catalogue(keeping(&dir));
    for n in 0..40 {
        assert_eq!(accepted(&after, &key(&format!("sp{n}.example"))).await.as_deref(), Some("2.0"), "{n}");
    }
}

#[tokio::test]
#[ignore = "runs in a process of its own, for without_descriptors_no_accepted_version_is_lost"]
async fn child_without_descriptors_reads_no_version() {
    let catalogue = catalogue(cache_of_parent());
    tokio::task::spawn_blocking(|| ()).await.unwrap();
    let all = getrlimit(Resource::Nofile);
    let mut taken = Vec::new();
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..all }).unwrap();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    let keys: Vec<_> = (0..40).map(|n| key(&format!("sp{n}.example"))).collect();
    let loads = futures_util::future::join_all(keys.iter().map(|key| catalogue.committed(key))).await;
    for load in loads {
        let error = load.unwrap_err();
        assert!(matches!(&error, TrustStateError::Read { .. }), "{error}");
        assert!(error.to_string().contains("Too many open files"), "{error}");
    }
    let refused = catalogue.commit(&keys[0], &committed("1.0"), None).await;
    assert!(matches!(refused, Err(TrustStateError::Read { .. } | TrustStateError::Write { .. })), "{refused:?}");
    // A fault that ends during the retries causes no error.
    let (load, ()) = tokio::join!(catalogue.committed(&keys[1]), async {
        tokio::task::yield_now().await;
        taken.clear();
    });
    assert_eq!(load.unwrap(), Some(committed("2.0")));
}

/// A full file system accepts no new version. The accepted versions stay.
#[expect(clippy::print_stderr, reason = "a skipped test states the reason")]
#[tokio::test]
async fn full_file_system_refuses_versions() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| Command::new("mount").args(args).arg(dir.path()).output();
    let mounted = mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
    if !mounted.as_ref().is_ok_and(|mounted| mounted.status.success()) {
        eprintln!("skipped: a small tmpfs cannot be mounted here: {mounted:?}");
        return;
    }
    let outcome = tokio::spawn({
        let mut config = crate::server::config();
        config.cache_dir = Some(dir.path().to_owned());
        let filler = dir.path().join("filler");
        async move {
            let catalogue = catalogue(config.clone());
            accept(&catalogue, &key("sp1.example"), "1.0").await.unwrap();
            let _ = fs::write(&filler, vec![1; 128 * 1024]);
            for refused in
                [accept(&catalogue, &key("sp1.example"), "2.0").await, catalogue.check_commit(&key("sp2.example")).await]
            {
                let error = refused.unwrap_err();
                assert!(matches!(error, TrustStateError::Write { .. }), "{error}");
                assert!(error.to_string().contains("No space left"), "{error}");
            }
            let next = self::catalogue(config);
            assert_eq!(accepted(&next, &key("sp1.example")).await.as_deref(), Some("1.0"));
            fs::remove_file(&filler).unwrap();
            accept(&catalogue, &key("sp1.example"), "2.0").await.unwrap();
        }
    })
    .await;
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    outcome.unwrap();
}
