//! Handles: clones of a runtime, and senders of a hyperty.

use std::{fs, process::Command, time::Duration};

use futures_util::StreamExt as _;
use protostub_runtime::{
    DeployErrorKind, Document, Fault, Hyperty, HypertyDescriptor, Message, MessageType, RegisterError, Runtime, RuntimeBuilder,
    Source, SourceRequest, StatusWatch, StubGoneReason, StubStatus,
};
use serde_json::json;

use crate::support::{body, builder, component, order, soon, source};

const LONG: Duration = Duration::from_secs(60);

async fn runtime() -> (Runtime, Hyperty) {
    let runtime = builder().source(source(&["sp1.example"], &component("echo"), &json!({}))).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    (runtime, app)
}

fn update(n: u64) -> Message {
    Message::update("hyperty://sp1.example/alice".parse().unwrap()).with_body(json!(n))
}

#[tokio::test]
async fn hyperty_receives_in_one_task_while_others_send() {
    const EACH: u64 = 20;
    let (_runtime, mut app) = runtime().await;
    let senders = [0, EACH].map(|first| {
        let sender = app.sender().clone();
        tokio::spawn(async move {
            for n in first..first + EACH {
                sender.post(update(n)).expect("there is room");
            }
        })
    });
    let mut echoes = Vec::new();
    while echoes.len() < 2 * EACH as usize {
        let message = app.next().await.expect("an echo");
        assert_eq!((&message.kind, &message.to), (&MessageType::Update, app.address()));
        echoes.push(body(&message).as_u64().expect("a number"));
    }
    for sender in senders {
        sender.await.expect("a task");
    }
    // The messages of each sender keep their order.
    let (first, second): (Vec<u64>, Vec<u64>) = echoes.iter().partition(|n| **n < EACH);
    assert_eq!((first, second), ((0..EACH).collect(), (EACH..2 * EACH).collect()));
    let reply = app.sender().request(Message::read("hyperty://sp1.example/bob".parse().unwrap())).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
}

#[tokio::test]
async fn sender_of_a_dropped_hyperty_is_refused() {
    let (runtime, app) = runtime().await;
    let sender = app.sender();
    drop(app);
    let again = runtime.register_hyperty("hyperty://home.example/app").await.expect("the address is free");
    let expected = "the hyperty hyperty://home.example/app was dropped; register it again to send";
    let error = sender.post(update(1)).expect_err("refused");
    assert_eq!((error.code, error.reason.as_str()), (503, expected));
    let all = sender.post_all([update(1), update(2)]);
    assert_eq!(all.into_iter().map(|posted| posted.expect_err("refused").code).collect::<Vec<_>>(), [503, 503]);
    let error = sender.clone().request_within(update(1), LONG).await.expect_err("refused");
    assert_eq!((error.code, error.reason.as_str()), (503, expected));
    again.post(update(1)).expect("there is room");
}

#[tokio::test]
async fn runtime_lives_as_long_as_its_last_clone() {
    let (runtime, mut app) = runtime().await;
    let last = runtime.clone();
    drop(runtime);
    let stub = last.deploy_protostub("sp1.example").await.expect("a stub");
    drop(last);
    assert_eq!(app.next().await, None);
    assert_eq!(stub.status().status, StubStatus::Dead);
}

#[tokio::test]
async fn shutdown_has_one_outcome_for_all_clones() {
    let (runtime, mut app) = runtime().await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let clone = runtime.clone();
    let (first, second) = tokio::join!(runtime.shutdown(LONG), clone.shutdown(Duration::ZERO));
    assert_eq!((&first.stopped[..], &first.abandoned[..]), (&[stub.key().clone()][..], &[][..]));
    assert_eq!(second, first);
    assert_eq!(clone.shutdown(LONG).await, first);
    drop(runtime);

    let error = clone.deploy_protostub("sp1.example").await.expect_err("shut down");
    assert!(matches!(error.kind, DeployErrorKind::ShutDown), "{error:?}");
    assert_eq!(error.to_string(), "failed to deploy the protocol stub of sp1.example");
    let error = clone.register_hyperty("hyperty://home.example/other").await.expect_err("shut down");
    assert!(matches!(error, RegisterError::ShutDown { .. }), "{error:?}");
    assert_eq!(clone.request(update(1)).await.expect_err("shut down").code, 503);
    assert_eq!(app.post(update(1)).expect_err("shut down").code, 503);
    assert!(clone.protostubs().is_empty());
    assert_eq!(clone.counts().open, 0);
    let gone = stub.connect().await.expect_err("shut down");
    assert!(matches!(gone.reason, StubGoneReason::ShutDown), "{gone:?}");
    assert_eq!(app.next().await, None);
}

#[tokio::test]
async fn shutdown_goes_on_without_its_future() {
    let (runtime, mut app) = runtime().await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mut shutdown = Box::pin(runtime.shutdown(LONG));
    assert!(futures_util::poll!(&mut shutdown).is_pending());
    drop(shutdown);
    assert_eq!(app.next().await, None);
    let outcome = runtime.shutdown(LONG).await;
    assert_eq!((&outcome.stopped[..], &outcome.abandoned[..]), (&[stub.key().clone()][..], &[][..]));
}

#[tokio::test]
async fn runtime_dropped_during_its_shutdown_stops_at_once() {
    let (runtime, mut app) = runtime().await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mut shutdown = Box::pin(runtime.shutdown(LONG));
    let _pending_or_not = futures_util::poll!(&mut shutdown);
    drop(shutdown);
    drop(runtime);
    assert_eq!(stub.status().status, StubStatus::Dead);
    assert_eq!(app.next().await, None);
}

/// Set in a process that holds the handles of many runtimes.
const HOLDS_HANDLES: &str = "PROTOSTUB_TEST_HOLDS_HANDLES";

/// Returns the number of mappings of this process, and its address space in bytes.
fn address_space() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").expect("the mappings");
    let bounds = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let number = |text| usize::from_str_radix(text, 16).expect("an address");
    (maps.lines().count(), bounds.map(|(begin, end)| number(end) - number(begin)).sum())
}

/// Runs a runtime to its end, and returns all handles that a program can keep.
async fn kept_handles(shuts_down: bool) -> impl Sized {
    let (runtime, mut app) = runtime().await;
    let mut changes = runtime.status_changes();
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let described = HypertyDescriptor::default();
    let other = runtime.register_hyperty_with("hyperty://sp1.example/other", described).await.expect("a hyperty");
    let (sender, watch, listed) = (app.sender(), stub.watch(), runtime.protostubs());
    let kept = if shuts_down {
        assert_eq!(runtime.shutdown(LONG).await.abandoned, []);
        Some(runtime)
    } else {
        drop(runtime);
        None
    };
    while soon(app.next()).await.is_some() {}
    while soon(changes.recv()).await.is_some() {}
    (kept, app, changes, stub, other, sender, watch, listed)
}

#[test]
fn handles_of_an_ended_runtime_hold_no_engine() {
    const RUNTIMES: usize = 10;
    if std::env::var_os(HOLDS_HANDLES).is_none() {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "handles::handles_of_an_ended_runtime_hold_no_engine", "--nocapture"])
            .env(HOLDS_HANDLES, "1")
            .output()
            .expect("a process");
        let said = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let threads = tokio::runtime::Runtime::new().expect("threads");
    threads.block_on(async {
        let running = runtime().await;
        let (maps_of_one, bytes_of_one) = address_space();
        assert_eq!(running.0.shutdown(LONG).await.abandoned, []);
        let mut kept = Vec::new();
        for number in 0..RUNTIMES {
            kept.push(kept_handles(number % 2 == 0).await);
        }
        // The last tasks of a runtime that was dropped end by themselves.
        let freed = async {
            let (mut maps, mut bytes) = address_space();
            while maps >= maps_of_one || bytes >= bytes_of_one {
                tokio::time::sleep(Duration::from_millis(20)).await;
                (maps, bytes) = address_space();
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(20), freed).await;
        let now = address_space();
        assert!(freed.is_ok(), "{RUNTIMES} ended runtimes: {now:?}, one running: {:?}", (maps_of_one, bytes_of_one));
        drop(kept);
    });
}

#[tokio::test]
async fn status_watch_ends_with_its_stub_despite_handles() {
    let (runtime, _app) = runtime().await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mut watch = stub.watch();
    stub.undeploy().await.expect("undeployed");
    let ends = async |watch: &mut StatusWatch| {
        let mut last = None;
        while let Some(report) = watch.changed().await {
            last = Some(report.status);
        }
        last
    };
    assert_eq!(soon(ends(&mut watch)).await, Some(StubStatus::Dead));
    assert_eq!(soon(ends(&mut stub.watch())).await, None, "the last status was seen");
    let last = soon(stub.watch().until(|report| report.status == StubStatus::Live)).await;
    assert_eq!(last.status, StubStatus::Dead);
}

/// A stub that was never live has no deadline once it was told to disconnect.
#[tokio::test]
async fn deploy_of_a_disconnected_stub_is_an_error() {
    let waits = json!({ "connect": { "do": "echo" } });
    let builder = builder().source(source(&["sp1.example"], &component("actor"), &waits)).connect_timeout(10 * LONG);
    let runtime = builder.build().await.expect("a runtime");
    let stub = runtime.load_stub("sp1.example").await.expect("a stub");
    let waiting = async { tokio::join!(runtime.deploy_protostub("sp1.example"), stub.disconnect()) };
    let (before, disconnected) = soon(waiting).await;
    disconnected.expect("disconnected");
    let after = soon(runtime.deploy_protostub("sp1.example")).await;
    for outcome in [before, after] {
        let error = outcome.expect_err("the stub was told to disconnect");
        assert!(matches!(error.kind, DeployErrorKind::Disconnected), "{error:?}");
    }
    soon(stub.connect()).await.expect("told to connect");
    assert!(futures_util::poll!(Box::pin(runtime.deploy_protostub("sp1.example"))).is_pending());
}

/// A hook of the host program may block all of the runtime's threads.
#[tokio::test]
async fn shutdown_keeps_its_deadline_with_blocked_threads() {
    let runtime = builder().worker_threads(1).build().await.expect("a runtime");
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (tell, is_blocked) = tokio::sync::oneshot::channel();
    runtime.spawn_inside(async move {
        let _ = tell.send(());
        let _ = blocked.recv();
    });
    is_blocked.await.expect("the task runs");
    let outcome = soon(runtime.shutdown(Duration::from_millis(100))).await;
    assert_eq!((outcome.stopped, outcome.abandoned), (vec![], vec![]));
    drop(release);
}

#[tokio::test]
async fn shutdown_by_a_task_inside_returns_its_outcome() {
    let (runtime, _app) = runtime().await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let (tell, outcome) = tokio::sync::oneshot::channel();
    let inside = runtime.clone();
    runtime.spawn_inside(async move {
        let _ = tell.send(inside.shutdown(LONG).await);
    });
    let outcome = soon(outcome).await.expect("the task has the outcome");
    assert_eq!((&outcome.stopped[..], &outcome.abandoned[..]), (&[stub.key().clone()][..], &[][..]));
    assert_eq!(soon(runtime.shutdown(LONG)).await, outcome);
}

/// A source that never answers.
#[derive(Debug)]
struct Silence;

#[async_trait::async_trait]
impl Source for Silence {
    async fn open(&self, _: &SourceRequest<'_>) -> Result<Document, Fault> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn request_cut_off_by_the_shutdown_names_it() {
    let check = async |builder: RuntimeBuilder, to: &str, body: serde_json::Value| {
        let runtime = builder.build().await.expect("a runtime");
        let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
        let mut peer = runtime.register_hyperty("hyperty://home.example/peer").await.expect("a hyperty");
        let mut request = std::pin::pin!(app.request(Message::read(to.parse().unwrap()).with_body(body)));
        assert!(futures_util::poll!(&mut request).is_pending());
        if to == peer.address().as_str() {
            peer.recv().await.expect("the request");
        } else {
            let stub = &runtime.protostubs()[0];
            soon(stub.watch().until(|report| matches!(report.status, StubStatus::Live | StubStatus::Deploying))).await;
            if stub.status().status == StubStatus::Live {
                // The stub has taken the earlier request too.
                app.request(order(to, json!({ "n": 1 }))).await.expect("a reply");
            }
        }
        let (cut_off, outcome) = tokio::join!(request, runtime.shutdown(LONG));
        let error = cut_off.expect_err("cut off");
        assert!(error.code == 503 && error.reason.contains("the runtime is shutting down"), "{to}: {error:?}");
        assert_eq!(outcome.abandoned, []);
    };
    let stub = "hyperty://sp1.example/alice";
    let actor = || builder().source(source(&["sp1.example"], &component("actor"), &json!({})));
    check(builder().source(Silence), stub, json!(null)).await;
    check(actor(), stub, json!({ "do": "keep" })).await;
    check(actor(), "hyperty://home.example/peer", json!(null)).await;
}
