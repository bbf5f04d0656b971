//! Handles: clones of a runtime, and senders of a hyperty.

use std::{fs, process::Command, time::Duration};

use futures_util::StreamExt as _;
use protostub_runtime::{
    DeployErrorKind, Hyperty, HypertyDescriptor, Message, MessageType, RegisterError, Runtime, StubGoneReason, StubStatus,
};
use serde_json::json;

use crate::support::{body, builder, component, soon, source};

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
