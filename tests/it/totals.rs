//! Tests of the limits of all stubs together, and of limits of an hour or a day, which restarts and
//! new deployments do not reset.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use protostub_runtime::{
    Hyperty, Limits, MemorySource, Message, Protostub, RestartPolicy, Runtime, RuntimeBuilder, SafeText, StubKey, TotalSettings,
};
use serde_json::json;

use crate::support::{TestRuntime, builder, code_dir, component, descriptor, domain, follow, order, soon};

const ALICE: &str = "hyperty://sp1.example/alice";

fn totals(change: impl FnOnce(&mut TotalSettings)) -> TotalSettings {
    let mut totals = TotalSettings::default();
    change(&mut totals);
    totals
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// Adds a restart policy that restarts after each crash, without a pause.
fn restarting(builder: RuntimeBuilder) -> RuntimeBuilder {
    let mut policy = RestartPolicy::default();
    (policy.restarts, policy.first_pause, policy.longest_pause) = (100, Duration::ZERO, Duration::ZERO);
    builder.restart(policy)
}

/// The keys of the stubs whose reports the host program got.
type Reports = Arc<Mutex<Vec<StubKey>>>;

fn reporting(builder: RuntimeBuilder) -> (RuntimeBuilder, Reports) {
    let reports = Reports::default();
    let passed_on = Arc::clone(&reports);
    (builder.on_crash(move |key, _| passed_on.lock().expect("reports").push(key.clone())), reports)
}

/// Makes the stub of a domain crash. Each crash has a sender of its own, since a sender whose
/// messages end two instances is refused.
async fn crash(runtime: &Runtime, stub: &Protostub, n: usize) {
    let app: Hyperty = runtime.register_hyperty(format!("hyperty://home.example/{n}").as_str()).await.expect("a hyperty");
    let to = format!("hyperty://{}/alice", stub.domain());
    let reason = format!("crash {n}");
    let error = app.request(order(&to, json!({ "do": "panic", "reason": reason }))).await.expect_err("it crashed");
    assert_eq!(error.code, 502, "{error}");
    // The next instance comes after the report.
    follow(&app, &to, json!({ "n": n })).await.expect("an answer of the next instance");
}

#[tokio::test]
async fn crash_reports_of_a_stub_in_an_hour_are_limited() {
    let (builder, reports) = reporting(restarting(builder()).limits(limits(|limits| limits.crash_reports_per_hour = 2)));
    let (runtime, _app) = TestRuntime::of_actors(builder, &["sp1.example", "sp2.example"], &json!({})).await.into_parts();
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    for n in 0..4 {
        crash(&runtime, &stub, n).await;
    }
    assert_eq!(stub.limits_hit().get("crash_reports_per_hour"), Some(&2), "{:?}", stub.limits_hit());
    let last = stub.last_crash().expect("a report");
    assert!(last.message.as_ref().is_some_and(|message| message.contains("crash 3")), "{last:?}");
    // Another deployment of the stub has no new reports, but another stub has its own.
    stub.undeploy().await.expect("undeployed");
    let again = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    crash(&runtime, &again, 4).await;
    let other = runtime.deploy_protostub("sp2.example").await.expect("a stub");
    crash(&runtime, &other, 5).await;
    let keys = [stub.key(), stub.key(), other.key()].map(Clone::clone);
    assert_eq!(*reports.lock().expect("reports"), keys);
}

#[tokio::test]
async fn crash_reports_of_all_stubs_are_limited() {
    let totals = totals(|totals| (totals.max_crash_reports_per_hour, totals.max_kept_crash_reports) = (2, 1));
    let (builder, reports) = reporting(restarting(builder()).totals(totals));
    let domains = ["sp1.example", "sp2.example", "sp3.example"];
    let (runtime, _app) = TestRuntime::of_actors(builder, &domains, &json!({})).await.into_parts();
    let mut stubs = Vec::new();
    for (n, domain) in domains.into_iter().enumerate() {
        let stub = runtime.deploy_protostub(domain).await.expect("a stub");
        crash(&runtime, &stub, n).await;
        stubs.push(stub);
    }
    assert_eq!(*reports.lock().expect("reports"), [stubs[0].key().clone(), stubs[1].key().clone()]);
    assert_eq!(stubs[2].limits_hit().get("max_crash_reports_per_hour"), Some(&1));
    assert_eq!(stubs.iter().map(|stub| stub.last_crash().is_some()).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(stubs[0].limits_hit().get("max_kept_crash_reports"), Some(&1));
}

#[tokio::test]
async fn log_bytes_of_a_day_outlive_a_deployment() {
    let builder = builder().limits(limits(|limits| limits.log_bytes_per_day = 4_000));
    let (runtime, app) = TestRuntime::of_actors(builder, &["sp1.example"], &json!({})).await.into_parts();
    let log = async |times: u64| {
        follow(&app, ALICE, json!({ "do": "log", "text": "x".repeat(1_000), "times": times })).await.expect("an answer");
        // The limits of a call are counted before the next one begins.
        follow(&app, ALICE, json!({ "n": 1 })).await.expect("an answer");
        let stub = runtime.protostubs().pop().expect("a stub");
        stub.limits_hit().get("log_bytes_per_day").copied()
    };
    assert_eq!([log(3).await, log(2).await], [None, Some(2)]);
    runtime.protostubs().pop().expect("a stub").undeploy().await.expect("undeployed");
    assert_eq!(log(1).await, Some(1));
}

#[tokio::test]
async fn memory_of_all_stubs_refuses_deployments_by_name() {
    let source = MemorySource::new();
    let echo = component("echo");
    let publish = |n: usize| {
        let domain = domain(&format!("sp{n}.example"));
        source.insert(&domain, "default", descriptor(&echo, json!(null)).to_json(), echo.clone());
        domain
    };
    let builder = Runtime::builder().home_domain("home.example").source(source.clone()).code_dir(code_dir());
    let runtime = builder.totals(totals(|totals| totals.max_memory_bytes = Some(8 << 20))).build().await.expect("a runtime");
    let mut stubs = Vec::new();
    let error = loop {
        match runtime.deploy_protostub(publish(stubs.len()).as_str()).await {
            Ok(stub) => stubs.push(stub),
            Err(error) => break error,
        }
        assert!(stubs.len() < 10, "all stubs start");
    };
    assert!(stubs.len() > 2, "{} stubs: {error}", stubs.len());
    let told = SafeText::chain(&error);
    assert!(told.contains("all stubs share 8388608") && told.contains("`max-memory-bytes`"), "{told}");
    // Other stubs work on, and the memory of a stub that has ended is free.
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let answer = app.request(Message::read("hyperty://sp0.example/alice".parse().unwrap())).await;
    assert_eq!(answer.expect("an answer").code(), Some(200));
    stubs.pop().expect("a stub").undeploy().await.expect("undeployed");
    soon(async { while runtime.deploy_protostub(publish(20).as_str()).await.is_err() {} }).await;
}
