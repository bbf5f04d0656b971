//! Tests of a runtime that cannot read or write its trust state. No other stub becomes live,
//! running stubs continue, and repairing the file is enough.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use protostub_runtime::{
    Bounds, DeployError, DeployErrorKind, Hyperty, MemorySource, Protostub, Runtime, StubGoneReason, StubStatus, TrustStateError,
    UpdateErrorKind, Updated, Version,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TestRuntime, builder, component, follow, order, publish};

/// A runtime with a cache, and an app on its bus.
struct Host {
    cache: TempDir,
    source: MemorySource,
    runtime: Runtime,
    app: Hyperty,
}

impl Host {
    async fn new() -> Self {
        let (cache, source) = (tempfile::tempdir().expect("a folder"), MemorySource::new());
        let builder = builder().cache_dir(cache.path()).source(source.clone());
        let TestRuntime { runtime, app } = TestRuntime::start(builder).await;
        Self { cache, source, runtime, app }
    }

    fn publish(&self, domain: &str, version: &str, mut configuration: Value) {
        configuration["is"] = version.into();
        publish(&self.source, domain, version, &component("actor"), configuration);
    }

    async fn deploy(&self, domain: &str) -> Protostub {
        let stub = self.runtime.deploy_protostub(domain).await.expect("a stub");
        stub.until_live().await.expect("live");
        stub
    }

    async fn ask(&self, domain: &str, what: Value) -> Value {
        follow(&self.app, &format!("hyperty://{domain}/alice"), what).await.expect("code 200")
    }

    /// Returns the running version.
    async fn runs(&self, domain: &str) -> String {
        self.ask(domain, json!({ "do": "configuration" })).await["is"].as_str().expect("which it is").to_owned()
    }

    /// Returns the folder of the accepted versions.
    fn committed(&self) -> PathBuf {
        self.cache.path().join("committed")
    }

    /// Returns the file with the accepted version of a domain's stub.
    fn record(&self, domain: &str) -> PathBuf {
        let entries = fs::read_dir(self.committed()).expect("a folder");
        let mut files = entries.map(|entry| entry.expect("an entry").path());
        let of_domain = |file: &PathBuf| fs::read_to_string(file).expect("a file").contains(&format!("domain {domain} "));
        files.find(of_domain).expect("a record")
    }
}

/// A link to itself that replaces a file or folder. No user can read the original then, not even
/// root. `Drop` restores it.
struct Broken {
    path: PathBuf,
    aside: PathBuf,
}

impl Broken {
    fn new(path: &Path) -> Self {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).expect("moved");
        symlink(path, path).expect("a link");
        Self { path: path.to_owned(), aside }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // The link is gone if the test has failed.
        let _ = fs::remove_file(&self.path);
        let _ = fs::rename(&self.aside, &self.path);
    }
}

/// Returns the configuration of a stub that takes three seconds from in-progress to live.
fn slowly() -> Value {
    let connect = json!([{ "do": "publish", "status": "in-progress" }, { "do": "timer", "ms": 3000 }]);
    json!({ "connect": connect, "timer": { "do": "publish", "status": "live" } })
}

fn check_text(text: &str, path: &Path) {
    assert!(text.contains(path.to_str().expect("a path")) && text.contains("make the f"), "{text}");
}

#[tokio::test]
async fn unreadable_version_refuses_until_it_is_mended() {
    let host = Host::new().await;
    for domain in ["sp1.example", "sp2.example"] {
        host.publish(domain, "1.0", json!({}));
        host.deploy(domain).await;
    }
    let stub = host.runtime.deploy_protostub("sp2.example").await.expect("a stub");
    stub.undeploy().await.expect("undeployed");
    host.publish("sp1.example", "1.1", json!({}));
    host.publish("sp2.example", "0.9", json!({}));
    let (one, two) = (host.record("sp1.example"), host.record("sp2.example"));
    let broken = [Broken::new(&one), Broken::new(&two)];
    let error = host.runtime.deploy_protostub("sp2.example").await.expect_err("its record cannot be read");
    let DeployErrorKind::TrustState(kind) = &error.kind else { panic!("{error:?}") };
    assert!(matches!(**kind, TrustStateError::Read { .. }), "{kind:?}");
    check_text(&kind.to_string(), &two);
    // The running stub continues in its version.
    let running = host.runtime.deploy_protostub("sp1.example").await.expect("it runs");
    let error = running.update().await.expect_err("its record cannot be read");
    let UpdateErrorKind::Obtain(kind) = &error.kind else { panic!("{error:?}") };
    check_text(&kind.to_string(), &one);
    assert_eq!((host.runs("sp1.example").await, running.restarts()), ("1.0".to_owned(), 0));
    drop(broken);
    // The failure does not count against the domains: a message deploys at once. After a domain's
    // own failure it would have to wait.
    host.publish("sp2.example", "1.2", json!({}));
    assert_eq!(host.runs("sp2.example").await, "1.2");
    running.update().await.expect("updated");
    assert_eq!(host.runs("sp1.example").await, "1.1");
}

#[tokio::test]
async fn damaged_version_refuses_by_the_name_of_its_file() {
    let host = Host::new().await;
    host.publish("sp1.example", "1.0", json!({}));
    host.deploy("sp1.example").await.undeploy().await.expect("undeployed");
    let file = host.record("sp1.example");
    fs::write(&file, "{").expect("written");
    for version in ["0.9", "1.1"] {
        host.publish("sp1.example", version, json!({}));
        let error = host.runtime.deploy_protostub("sp1.example").await.expect_err("damaged").kind.to_string();
        assert!(error.contains(file.to_str().expect("a path")) && error.contains("or remove it"), "{error}");
    }
    fs::remove_file(&file).expect("removed");
    assert_eq!(host.runs("sp1.example").await, "1.1");
}

/// The version is durable before it is live. A version that cannot be written is never live.
#[tokio::test]
async fn version_that_cannot_be_written_is_never_live() {
    let host = Host::new().await;
    host.publish("sp1.example", "1.0", slowly());
    let stub = host.runtime.load_stub("sp1.example").await.expect("deployed");
    let live = tokio::spawn({
        let stub = stub.clone();
        async move { stub.until_live().await }
    });
    stub.watch().until(|report| report.status == StubStatus::InProgress).await;
    let broken = Broken::new(&host.committed());
    let mut statuses = stub.watch();
    let settled = statuses.until(|report| matches!(report.status, StubStatus::Live | StubStatus::Failed));
    let request = host.app.request(order("hyperty://sp1.example/alice", json!({ "do": "configuration" })));
    let (last, response) = tokio::join!(settled, request);
    assert_eq!(last.status, StubStatus::Failed, "{last:?}");
    // The version gets no message either.
    assert_eq!(response.expect_err("never live").code, 503);
    let gone = live.await.expect("a task").expect_err("never live");
    let StubGoneReason::Failed(error) = &gone.reason else { panic!("{gone:?}") };
    let DeployErrorKind::TrustState(kind) = &error.kind else { panic!("{error:?}") };
    check_text(&kind.to_string(), &host.committed());
    drop(broken);
    assert_eq!(fs::read_dir(host.committed()).expect("a folder").count(), 0);
    host.publish("sp1.example", "1.0", json!({}));
    host.deploy("sp1.example").await;
    host.record("sp1.example");
}

#[tokio::test]
async fn update_that_cannot_be_written_is_taken_back() {
    let host = Host::new().await;
    host.publish("sp1.example", "1.0", json!({}));
    let stub = host.deploy("sp1.example").await;
    host.publish("sp1.example", "1.1", slowly());
    let update = tokio::spawn({
        let stub = stub.clone();
        async move { stub.update().await }
    });
    stub.watch().until(|report| report.status == StubStatus::InProgress).await;
    let broken = Broken::new(&host.committed());
    let error = update.await.expect("a task").expect_err("not accepted");
    let UpdateErrorKind::RolledBack { error, .. } = &error.kind else { panic!("{error:?}") };
    check_text(&error.to_string(), &host.committed());
    assert_eq!(host.runs("sp1.example").await, "1.0");
    stub.until_live().await.expect("live again");
    drop(broken);
    host.publish("sp1.example", "1.1", json!({}));
    let updated = stub.update().await.expect("updated");
    assert!(matches!(updated, Updated::Updated { .. }), "{updated:?}");
    assert!(fs::read_to_string(host.record("sp1.example")).expect("a record").contains("1.1"));
}

/// Statuses after `live` wait while the version is written. They follow `live`, in their order.
#[tokio::test]
async fn statuses_behind_live_keep_their_order() {
    let host = Host::new().await;
    let connect = json!({ "connect": [
        { "do": "publish", "status": "in-progress" },
        { "do": "publish", "status": "live" },
        { "do": "publish", "status": "disconnected", "reason": "for a moment" },
        { "do": "publish", "status": "in-progress" },
        { "do": "publish", "status": "live", "reason": "once more" },
    ] });
    host.publish("sp1.example", "1.0", connect);
    let mut sequences = Vec::new();
    // The second time, the version is accepted already, and no status waits.
    for _ in 0..2 {
        let stub = host.deploy("sp1.example").await;
        let last = stub.watch().until(|report| report.reason.as_deref() == Some("once more")).await;
        assert_eq!(last.status, StubStatus::Live);
        sequences.push(last.sequence);
        host.record("sp1.example");
        stub.undeploy().await.expect("undeployed");
    }
    assert_eq!(sequences[0], sequences[1], "each status is published once");
}

#[tokio::test]
async fn runtime_without_a_cache_refuses_older_versions() {
    let source = MemorySource::new();
    let bounds = Bounds { total: 2, per_domain: 1 };
    let runtime = builder().accepted_versions(bounds).source(source.clone()).build().await.expect("a runtime");
    let deploy = async |domain: &str, version: &str| {
        publish(&source, domain, version, &component("actor"), json!({}));
        let stub = runtime.deploy_protostub(domain).await?;
        stub.until_live().await?;
        Ok::<(), DeployError>(stub.undeploy().await?)
    };
    deploy("sp1.example", "2.0").await.expect("deployed");
    let error = deploy("sp1.example", "1.0").await.expect_err("older");
    let DeployErrorKind::Older { committed, .. } = &error.kind else { panic!("{error:?}") };
    assert_eq!(committed, &Version::parse("2.0").expect("a version"));
    deploy("sp2.example", "1.0").await.expect("deployed");
    let error = deploy("sp3.example", "1.0").await.expect_err("no place is left").kind.to_string();
    assert!(error.contains("sp3.example") && error.contains("`max-accepted-versions`"), "{error}");
    deploy("sp1.example", "2.1").await.expect("a domain that is there goes on");
}

/// Another user plants folders and keys where the cache folder is shared and sticky, like `/tmp`.
/// The list of entries comes from a runtime that has deployed a stub, so it is complete.
#[tokio::test]
async fn every_entry_of_a_shared_cache_folder_is_checked() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    const STRANGER: u32 = 12_345;
    let (cache, source) = (tempfile::tempdir().expect("a folder"), MemorySource::new());
    fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o1777)).expect("set");
    let start = async || {
        // With no other folder of compiled code, unlike other tests.
        let builder = Runtime::builder().home_domain("home.example").cache_dir(cache.path());
        builder.source(source.clone()).build().await
    };
    publish(&source, "sp1.example", "1.0", &component("actor"), json!({}));
    let runtime = start().await.expect("a runtime");
    runtime.deploy_protostub("sp1.example").await.expect("a stub").until_live().await.expect("live");
    runtime.shutdown(std::time::Duration::from_secs(10)).await;
    let entries = fs::read_dir(cache.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    let names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name()?.to_str()).collect();
    assert_eq!(names, ["committed", "compiled", "compiled.key", "components", "descriptors", "keys", "trust.key"]);
    for entry in &entries {
        if chown(entry, Some(STRANGER), None).is_err() {
            return; // Only root may give files away.
        }
        let error = start().await.err().unwrap_or_else(|| panic!("{} is used", entry.display()));
        let mut error: &dyn std::error::Error = &error;
        let mut text = error.to_string();
        while let Some(source) = error.source() {
            (error, text) = (source, format!("{text}: {source}"));
        }
        assert!(text.contains("user 12345") && text.contains(&entry.display().to_string()), "{text}");
        chown(entry, Some(fs::metadata(cache.path()).expect("a folder").uid()), None).expect("taken back");
    }
    start().await.expect("a runtime");
}

/// A version of 999999 locks out all real ones, until the operator resets the accepted version.
#[tokio::test]
async fn forgotten_version_lets_lower_versions_be_deployed() {
    let host = Host::new().await;
    host.publish("sp1.example", "999999", json!({}));
    let stub = host.deploy("sp1.example").await;
    let key = stub.key().clone();
    stub.undeploy().await.expect("undeployed");
    host.publish("sp1.example", "1.1", json!({}));
    let Err(error) = host.runtime.deploy_protostub("sp1.example").await else { panic!("the older version is deployed") };
    assert!(matches!(error.kind(), DeployErrorKind::Older { .. }), "{error}");

    let forgotten = host.runtime.forget_accepted_release(&key).await.expect("forgotten").expect("a version");
    assert_eq!(forgotten.version, Version::parse("999999").expect("a version"));
    assert_eq!(host.runtime.accepted_release(&key).await.expect("readable"), None);
    assert_eq!(fs::read_dir(host.committed()).expect("a folder").count(), 0, "another process must not find it either");
    // The refusal before is forgotten too: a message deploys the stub at once.
    assert_eq!(host.runs("sp1.example").await, "1.1");
    let accepted = host.runtime.accepted_release(&key).await.expect("readable").expect("a version");
    assert_eq!(accepted.version, Version::parse("1.1").expect("a version"));
}
