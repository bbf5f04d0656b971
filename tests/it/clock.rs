//! The library's clock: a host program that pauses tokio's clock changes no timeout.

use std::time::{Duration, Instant};

use protostub_runtime::{DeployErrorKind, Message};
use serde_json::json;
use tokio::time::advance;

use crate::support::{TestRuntime, builder, follow};

const TIMEOUT: Duration = Duration::from_millis(200);
/// Time by which the tests advance the paused clock.
const AHEAD: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn request_times_out_by_the_librarys_clock() {
    let TestRuntime { runtime, app } = TestRuntime::of_actors(builder(), &["sp1.example"], &json!({})).await;
    let _silent = runtime.register_hyperty("hyperty://home.example/silent").await.expect("a hyperty");
    let unanswered = async || {
        let begin = Instant::now();
        let request = Message::read("hyperty://home.example/silent".parse().unwrap());
        let error = app.request_within(request, TIMEOUT).await.expect_err("no answer");
        assert_eq!(error.code, 408);
        begin.elapsed()
    };
    // The paused clock falls behind the real one by the time of each request.
    for _ in 0..3 {
        let took = unanswered().await;
        assert!(took >= TIMEOUT, "the request ended after {took:?}");
    }
    advance(AHEAD).await;
    let took = unanswered().await;
    assert!((TIMEOUT..AHEAD).contains(&took), "the request ended after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn deployment_waits_by_the_librarys_clock() {
    let builder = builder().connect_timeout(5 * TIMEOUT);
    let TestRuntime { runtime, app } = TestRuntime::of_actors(builder, &["sp1.example"], &json!({})).await;
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let disconnected = json!({ "do": "publish", "status": "disconnected", "reason": "no route" });
    let attempts = vec![disconnected.clone(); 100];
    let outage = json!([{ "do": "next-connects", "orders": attempts }, disconnected]);
    follow(&app, "hyperty://sp1.example/alice", outage).await.expect("code 200");
    let begin = Instant::now();
    let error = runtime.deploy_protostub("sp1.example").await.expect_err("the server is away");
    assert!(matches!(error.kind, DeployErrorKind::ConnectTimeout { .. }), "{error:?}");
    assert!(begin.elapsed() >= 5 * TIMEOUT, "the deployment waited for {:?}", begin.elapsed());
}
