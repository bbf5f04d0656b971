//! Tests of updates: a new version takes over and senders need no change, or the old version stays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use protostub_runtime::{
    DomainSettings, Hyperty, MemorySource, RestartPolicy, Runtime, RuntimeBuilder, StubGone, StubGoneReason, StubStatus,
    UpdateErrorKind, Updated, Version,
};
use serde_json::{Value, json};

use crate::support::{body, builder, component, descriptor, domain, order, publish};

const ALICE: &str = "hyperty://sp1.example/alice";

/// Starts a runtime with a live stub of version 1.0.
async fn live(builder: RuntimeBuilder) -> (MemorySource, Runtime, Hyperty) {
    let source = MemorySource::new();
    publish(&source, "sp1.example", "1.0", &component("actor"), json!({ "is": "1.0", "observer": "hyperty://home.example/app" }));
    let runtime = builder.source(source.clone()).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    (source, runtime, app)
}

async fn value(app: &Hyperty, what: Value) -> Value {
    let response = app.request(order(ALICE, what)).await.expect("a response");
    assert_eq!(response.code(), Some(200), "{response:?}");
    body(&response)["value"].clone()
}

async fn runs(app: &Hyperty) -> String {
    value(app, json!({ "do": "configuration" })).await["is"].as_str().expect("which it is").to_owned()
}

fn version(text: &str) -> Version {
    Version::parse(text).expect("a version")
}

#[tokio::test]
async fn update_keeps_the_address_session_and_subscribers() {
    let (source, runtime, mut app) = live(builder()).await;
    let stub = &runtime.protostubs()[0];
    let url = stub.url().expect("a URL").clone();
    value(&app, json!({ "do": "save", "bytes": 5 })).await;
    assert_eq!(stub.check_for_update().await.expect("an answer"), None);
    let up_to_date = Updated::UpToDate { version: version("1.0") };
    assert_eq!(stub.update().await.expect("nothing to do"), up_to_date);
    assert_eq!(stub.restarts(), 0);

    publish(&source, "sp1.example", "1.1", &component("actor"), json!({ "is": "1.1" }));
    let available = stub.check_for_update().await.expect("an answer").expect("an update");
    assert_eq!((available.version.as_str(), available.running.as_str(), available.is_older()), ("1.1", "1.0", false));
    let updated = stub.update().await.expect("updated");
    assert_eq!(updated, Updated::Updated { from: version("1.0"), to: version("1.1") });
    assert_eq!(body(&app.recv().await.expect("its last words")), json!({ "disconnect": "update" }));
    assert_eq!((runs(&app).await, value(&app, json!({ "do": "load" })).await), ("1.1".to_owned(), json!(5)));
    let again = &runtime.protostubs()[0];
    assert_eq!((again.url(), again.version()), (Some(&url), Some(version("1.1"))));
    assert_eq!(stub.check_for_update().await.expect("an answer"), None);
}

#[tokio::test]
async fn changed_code_of_the_same_version_is_an_update() {
    let (source, runtime, app) = live(builder()).await;
    let stub = &runtime.protostubs()[0];
    let digest = stub.digest();
    publish(&source, "sp1.example", "1.0", &component("echo"), json!({}));
    let available = stub.check_for_update().await.expect("an answer").expect("an update");
    assert!(available.version == available.running && available.digest.is_some() && available.digest != digest);
    stub.update().await.expect("updated");
    assert_eq!(stub.digest(), available.digest);
    let echo = app.request(order(ALICE, json!({ "do": "fail" }))).await.expect("an echo");
    assert_eq!(echo.code(), Some(200));
}

/// Requests the running version again and again. Returns the numbers of answers and errors, and the
/// versions in their order.
async fn ask_until(asker: Hyperty, done: Arc<AtomicBool>) -> (u64, u64, Vec<Version>) {
    let (mut answered, mut failed, mut seen) = (0, 0, Vec::new());
    while !done.load(Ordering::Relaxed) {
        match asker.request(order(ALICE, json!({ "do": "configuration" }))).await {
            Ok(response) => {
                answered += 1;
                seen.push(version(body(&response)["value"]["is"].as_str().expect("which it is")));
            }
            // The replaced instance had taken the request.
            Err(error) => {
                assert_eq!(error.code, 502, "{error}");
                failed += 1;
            }
        }
    }
    (answered, failed, seen)
}

#[tokio::test]
async fn update_loses_no_message() {
    let (source, runtime, app) = live(builder()).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for n in 0..8 {
        let asker = runtime.register_hyperty(format!("hyperty://home.example/asker-{n}")).await.expect("a hyperty");
        asking.push(tokio::spawn(ask_until(asker, Arc::clone(&done))));
    }
    let stub = &runtime.protostubs()[0];
    for number in 1..=10 {
        let version = format!("1.{number}");
        publish(&source, "sp1.example", &version, &component("actor"), json!({ "is": version }));
        stub.update().await.expect("updated");
        assert_eq!(runs(&app).await, version);
    }
    done.store(true, Ordering::Relaxed);
    let (mut answered, mut failed) = (0, 0);
    for asker in asking {
        let (ok, not, seen) = asker.await.expect("an asker");
        assert!(seen.is_sorted(), "an older one answers again: {seen:?}");
        answered += ok;
        failed += not;
    }
    let counts = runtime.counts();
    assert_eq!((counts.open, counts.failed), (0, failed), "{counts:?}");
    // `runs` made ten more requests.
    assert_eq!(counts.answered, answered + 10, "{counts:?}");
    assert!(answered > 10);
}

#[tokio::test]
async fn failing_update_is_rolled_back() {
    let (source, runtime, app) = live(builder()).await;
    let stub = &runtime.protostubs()[0];
    let url = stub.url().expect("a URL").clone();
    value(&app, json!({ "do": "save", "bytes": 5 })).await;
    let broken = [
        (json!({ "start": { "do": "fail", "reason": "no `url`" } }), "no `url`"),
        (json!({ "start": { "do": "panic", "reason": "out of order" } }), "out of order"),
        (json!({ "connect": { "do": "panic", "reason": "no such server" } }), "no such server"),
        (
            json!({ "connect": [{ "do": "save", "bytes": 9 }, { "do": "publish", "status": "failed", "reason": "wrong password" }] }),
            "wrong password",
        ),
    ];
    for (number, (configuration, why)) in broken.into_iter().enumerate() {
        publish(&source, "sp1.example", &format!("2.{number}"), &component("actor"), configuration);
        let error = stub.update().await.expect_err("it does not work");
        let UpdateErrorKind::RolledBack { version: tried, error } = &error.kind else { panic!("{error:?}") };
        assert_eq!(tried, &version(&format!("2.{number}")));
        assert!(error.to_string().contains(why), "{error}");
        // The previous version runs again, with its saved session.
        assert_eq!((runs(&app).await, value(&app, json!({ "do": "load" })).await), ("1.0".to_owned(), json!(5)));
        assert_eq!((stub.url(), stub.version()), (Some(&url), Some(version("1.0"))));
    }
    // An update that cannot be downloaded does not affect the running stub.
    source.insert(&domain("sp1.example"), "default", r#"{"objectName":"default","version":"3.0"}"#, Vec::new());
    let before = stub.restarts();
    let error = stub.update().await.expect_err("nothing to deploy");
    assert!(matches!(error.kind, UpdateErrorKind::Obtain(_)), "{error:?}");
    assert_eq!((stub.restarts(), stub.status().status), (before, StubStatus::Live));
}

#[tokio::test]
async fn older_version_is_refused_across_restarts_unless_allowed() {
    let cache = tempfile::tempdir().expect("a folder");
    let (source, runtime, app) = live(builder().cache_dir(cache.path())).await;
    publish(&source, "sp1.example", "0.9", &component("actor"), json!({ "is": "0.9" }));
    let error = runtime.protostubs()[0].update().await.expect_err("older");
    assert!(matches!(error.kind, UpdateErrorKind::Older { .. }), "{error:?}");
    assert_eq!(runs(&app).await, "1.0");
    drop(app);
    runtime.shutdown(Duration::from_secs(60)).await;

    let runtime = builder().cache_dir(cache.path()).source(source.clone()).build().await.expect("a runtime");
    let error = runtime.deploy_protostub("sp1.example").await.expect_err("older than what was live before");
    let reason = error.kind.to_string();
    assert!(reason.contains("version 0.9") && reason.contains("the newer 1.0") && reason.contains("allow-older"), "{reason}");
    drop(runtime);

    let mut settings = DomainSettings::default();
    settings.allow_older = true;
    let builder = builder().cache_dir(cache.path()).domain(domain("sp1.example"), settings);
    let runtime = builder.source(source.clone()).build().await.expect("a runtime");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    publish(&source, "sp1.example", "0.8", &component("actor"), json!({ "is": "0.8" }));
    assert!(stub.check_for_update().await.expect("an answer").expect("an update").is_older());
    assert_eq!(stub.update().await.expect("back"), Updated::Updated { from: version("0.9"), to: version("0.8") });
}

#[tokio::test]
async fn concurrent_or_late_update_is_refused() {
    let (source, runtime, _app) = live(builder()).await;
    let stub = runtime.protostubs()[0].clone();
    // This version starts, and is never live.
    let never = json!({ "is": "2.0", "connect": { "do": "publish", "status": "in-progress" } });
    publish(&source, "sp1.example", "2.0", &component("actor"), never);
    let first = tokio::spawn({
        let stub = stub.clone();
        async move { stub.update().await }
    });
    stub.watch().until(|report| report.status == StubStatus::InProgress).await;
    let second = stub.update().await.expect_err("there is one already");
    assert!(matches!(second.kind, UpdateErrorKind::UnderWay), "{second:?}");
    stub.undeploy().await.expect("undeployed");
    let first = first.await.expect("a task").expect_err("undeployed meanwhile");
    assert!(matches!(&first.kind, UpdateErrorKind::Gone(gone) if is_undeployed(gone)), "{first:?}");
    let third = stub.update().await.expect_err("it is gone");
    assert!(matches!(&third.kind, UpdateErrorKind::Gone(gone) if is_undeployed(gone)), "{third:?}");
}

fn is_undeployed(gone: &StubGone) -> bool {
    gone.to_string() == "the protocol stub of sp1.example was undeployed; deploy it again to use it"
        && matches!(gone.reason, StubGoneReason::Undeployed)
}

#[tokio::test]
async fn update_keeps_a_stub_disconnected() {
    for may_overlap in [false, true] {
        let publish = |source: &MemorySource, version: &str| match may_overlap {
            true => publish_overlapping(source, version, json!({ "is": version })),
            false => publish(source, "sp1.example", version, &component("actor"), json!({ "is": version })),
        };
        let (source, runtime, app) = live(builder()).await;
        let stub = &runtime.protostubs()[0];
        publish(&source, "1.1");
        stub.update().await.expect("updated");
        stub.disconnect().await.expect("disconnected");
        publish(&source, "1.2");
        let updated = tokio::time::timeout(Duration::from_secs(20), stub.update()).await;
        updated.expect("it does not wait until it is live").expect("updated");
        assert_eq!(stub.status().status, StubStatus::Created);
        assert_eq!(app.request(order(ALICE, json!({ "do": "load" }))).await.expect_err("it is disconnected").code, 503);
        stub.connect().await.expect("connected");
        assert_eq!(runs(&app).await, "1.2");
    }
}

/// Publishes a version that may run concurrently with the one before.
fn publish_overlapping(source: &MemorySource, version: &str, configuration: Value) {
    let actor = component("actor");
    let mut descriptor = descriptor(&actor, configuration);
    descriptor.version = Version::parse(version).expect("a version");
    descriptor.overlap = true;
    source.insert(&domain("sp1.example"), "default", descriptor.to_json(), actor);
}

#[tokio::test]
async fn overlapping_update_keeps_the_stub_live() {
    let (source, runtime, mut app) = live(builder()).await;
    let stub = &runtime.protostubs()[0];
    let asker = runtime.register_hyperty("hyperty://home.example/asker").await.expect("a hyperty");
    app.subscribe(stub.url().expect("a URL").join("status").expect("an address")).await.expect("subscribed");
    value(&asker, json!({ "do": "save", "bytes": 5 })).await;

    // The new instance finds no session, because the session belongs to the old instance. The
    // session that it saves becomes the stub's.
    let connect = json!([
        { "do": "panic-if-saved" },
        { "do": "save", "bytes": 7 },
        { "do": "publish", "status": "in-progress" },
        { "do": "publish", "status": "live" },
    ]);
    publish_overlapping(&source, "1.1", json!({ "is": "1.1", "connect": connect }));
    let over = AtomicBool::new(false);
    let asking = async {
        let mut seen = Vec::new();
        while !over.load(Ordering::SeqCst) {
            seen.push(runs(&asker).await);
        }
        seen
    };
    let (updated, seen) = tokio::join!(
        async {
            let updated = stub.update().await.expect("updated");
            over.store(true, Ordering::SeqCst);
            updated
        },
        asking
    );
    assert_eq!(updated, Updated::Updated { from: version("1.0"), to: version("1.1") });
    assert!(seen.is_sorted(), "each request was answered, by the one and then by the other: {seen:?}");
    assert_eq!(runs(&asker).await, "1.1");
    assert_eq!(value(&asker, json!({ "do": "load" })).await, 7);
    assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Live, 1));
    // Subscribers got only the status at their subscription. The observer got the last words of the
    // old instance.
    assert_eq!(body(&app.recv().await.expect("what holds"))["value"], "LIVE");
    let mut last_words = body(&app.recv().await.expect("last words"));
    if last_words["value"] == "LIVE" {
        // The status was published during the subscription, so it comes twice.
        last_words = body(&app.recv().await.expect("last words"));
    }
    assert_eq!(last_words, json!({ "disconnect": "update" }));
    stub.undeploy().await.expect("undeployed");
    let disconnected = body(&app.recv().await.expect("a status"));
    assert_eq!(disconnected["value"], "DISCONNECTED", "{disconnected}");
}

/// A new version can be the end of an outage.
#[tokio::test]
async fn overlapping_update_of_a_disconnected_stub_is_live() {
    let (source, runtime, app) = live(builder()).await;
    let stub = &runtime.protostubs()[0];
    value(&app, json!({ "do": "publish", "status": "disconnected", "reason": "no route" })).await;
    publish_overlapping(&source, "1.1", json!({ "is": "1.1" }));
    stub.update().await.expect("updated");
    assert_eq!(stub.status().status, StubStatus::Live);
    assert_eq!(runs(&app).await, "1.1");
}

#[tokio::test]
async fn failing_overlapping_update_changes_nothing() {
    let mut quick = RestartPolicy::default();
    quick.restarts = 0;
    let (source, runtime, app) = live(builder().connect_timeout(Duration::from_secs(2)).restart(quick)).await;
    let stub = &runtime.protostubs()[0];
    let before = stub.status();
    value(&app, json!({ "do": "save", "bytes": 5 })).await;
    for (configuration, reason) in [
        (json!({ "start": { "do": "fail", "reason": "no" } }), "no"),
        (json!({ "connect": { "do": "trap" } }), "unreachable"),
        (json!({ "connect": { "do": "publish", "status": "failed", "reason": "never" } }), "never"),
        (json!({ "connect": { "do": "echo" } }), "not live within"),
    ] {
        publish_overlapping(&source, "1.1", configuration);
        let error = stub.update().await.expect_err("it does not work");
        let UpdateErrorKind::RolledBack { error, .. } = &error.kind else { panic!("{error:?}") };
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!((stub.status(), runs(&app).await.as_str()), (before.clone(), "1.0"));
    }
    assert_eq!(value(&app, json!({ "do": "load" })).await, 5);
    assert_eq!(stub.version(), Some(version("1.0")));
}

#[tokio::test]
async fn overlapping_update_that_crashes_late_ends_the_stub() {
    let mut never = RestartPolicy::default();
    never.restarts = 0;
    let (source, runtime, mut app) = live(builder().restart(never)).await;
    let stub = &runtime.protostubs()[0];
    let connect = json!([
        { "do": "publish", "status": "in-progress" },
        { "do": "timer", "ms": 1 },
        { "do": "publish", "status": "live" },
    ]);
    publish_overlapping(&source, "1.1", json!({ "connect": connect, "timer": { "do": "trap" } }));
    app.subscribe(stub.url().expect("a URL").join("status").expect("an address")).await.expect("subscribed");
    for _ in 0..20 {
        // The old instance is busy and delays its last words.
        app.post(order(ALICE, json!({ "do": "sleep", "ms": 400 }))).expect("posted");
        // The result depends on the order of the crash and the takeover.
        let updated = stub.update().await.map_err(|error| error.kind);
        if !matches!(updated, Err(UpdateErrorKind::RolledBack { .. })) {
            break;
        }
        // The new version crashed before it counted as live, and the update was rolled back. Try
        // again.
    }
    let told = async {
        loop {
            let message = app.recv().await.expect("a message");
            if body(&message)["value"] == "FAILED" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("its last status is told");
    let error = stub.until_live().await.expect_err("it has ended");
    assert!(format!("{error:?}").contains("unreachable"), "{error:?}");
}
