//! Tests of a stub whose server is away: its instance stays, and tries again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use protostub_runtime::{
    Credential, CredentialError, CredentialProvider, CredentialRequest, DeployErrorKind, Hyperty, Protostub, RestartPolicy,
    Runtime, RuntimeBuilder, StaticCredentials, StubStatus,
};
use serde_json::{Value, json};

use crate::{
    identity::{ALICE, bearer, connected_with, login},
    support::{TestRuntime, body, builder, domain, follow, soon},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The order for an attempt to connect that fails.
fn fails() -> Value {
    json!([{ "do": "publish", "status": "in-progress" }, { "do": "publish", "status": "disconnected", "reason": "no route" }])
}

/// The order for an attempt to connect that never ends.
fn hangs() -> Value {
    json!({ "do": "publish", "status": "in-progress" })
}

/// Starts a stub that becomes live.
async fn live(builder: RuntimeBuilder) -> (Runtime, Hyperty, Protostub) {
    configured(builder, json!({})).await
}

async fn configured(builder: RuntimeBuilder, configuration: Value) -> (Runtime, Hyperty, Protostub) {
    let mut restart = RestartPolicy::default();
    restart.first_pause = Duration::from_millis(1);
    let builder = builder.connect_timeout(CONNECT_TIMEOUT).restart(restart);
    let (runtime, app) = TestRuntime::of_actors(builder, &["sp1.example"], &configuration).await.into_parts();
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    (runtime, app, stub)
}

/// Sets the orders for the stub's next attempts to connect. The attempt after them succeeds.
async fn attempts(app: &Hyperty, orders: &[Value]) {
    follow(app, ALICE, json!({ "do": "next-connects", "orders": orders })).await.expect("code 200");
}

async fn breaks(app: &Hyperty) {
    let order = json!({ "do": "publish", "status": "disconnected", "reason": "connection reset" });
    follow(app, ALICE, order).await.expect("code 200");
}

/// Returns the number of `connect` events that the instance has got.
async fn connects(app: &Hyperty) -> usize {
    let calls = follow(app, ALICE, json!({ "do": "calls" })).await.expect("code 200");
    let events = calls.as_array().expect("calls").iter().flat_map(|call| call.as_array().expect("events"));
    events.filter(|event| *event == "connect").count()
}

#[tokio::test]
async fn attempts_that_fail_keep_the_instance() {
    let (_runtime, app, stub) = live(builder()).await;
    attempts(&app, &[fails(), fails(), fails()]).await;
    breaks(&app).await;
    let began = Instant::now();
    // This message waits until the fourth attempt.
    assert_eq!(connects(&app).await, 5);
    // The message wakes the stub at once, and then after a pause each time.
    assert!(began.elapsed() >= 3 * Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(stub.restarts(), 0);
}

#[tokio::test]
async fn attempt_without_a_report_ends_the_instance() {
    let (_runtime, app, stub) = live(builder()).await;
    attempts(&app, &[hangs()]).await;
    breaks(&app).await;
    assert_eq!(connects(&app).await, 1, "of the next instance");
    assert_eq!(stub.restarts(), 1);
}

/// The new instance was never live, but its stub was.
#[tokio::test]
async fn instance_that_starts_during_an_outage_stays() {
    let (_runtime, app, stub) = configured(builder(), json!({ "connect": { "do": "countdown", "reason": "no route" } })).await;
    let failed = json!({ "do": "publish", "status": "failed", "reason": "out of order" });
    follow(&app, ALICE, json!([{ "do": "save", "bytes": 3 }, failed])).await.expect("code 200");
    assert_eq!(connects(&app).await, 4);
    assert_eq!(stub.restarts(), 1);
}

#[tokio::test]
async fn deployment_of_an_unreachable_stub_fails_in_time() {
    let (runtime, app, stub) = live(builder()).await;
    attempts(&app, &vec![fails(); 100]).await;
    breaks(&app).await;
    let error = soon(runtime.deploy_protostub("sp1.example")).await.expect_err("its server is away");
    assert!(matches!(error.kind, DeployErrorKind::ConnectTimeout { after } if after == CONNECT_TIMEOUT), "{error:?}");
    assert_eq!((stub.status().status, stub.restarts()), (StubStatus::Disconnected, 0));
}

#[tokio::test]
async fn login_that_cannot_connect_ends_with_401_in_time() {
    let table = StaticCredentials::new().with(domain("sp1.example"), bearer("of the domain"));
    let (runtime, app, stub) = live(builder().credentials(table)).await;
    let guess = json!({ "domain": "sp1.example", "credential": { "kind": "bearer", "value": "guess" } });
    let refused = async || {
        let answer = soon(app.request(login(&runtime, guess.clone()))).await.expect("an answer");
        let description = json!("the protocol stub of sp1.example could not connect with the credential");
        assert_eq!((answer.code(), &body(&answer)["description"]), (Some(401), &description));
    };
    // The server refuses this credential only.
    attempts(&app, &[fails()]).await;
    refused().await;
    assert_eq!(connected_with(&app).await["value"], "of the domain");
    assert_eq!(stub.restarts(), 0);
    // The attempt with the credential never ends.
    attempts(&app, &[hangs()]).await;
    refused().await;
    assert_eq!(connected_with(&app).await["value"], "of the domain");
    assert_eq!(stub.restarts(), 1);
    // The server refuses everyone.
    attempts(&app, &vec![fails(); 3]).await;
    refused().await;
    assert_eq!(connected_with(&app).await["value"], "of the domain");
    assert_eq!(stub.restarts(), 1);
}

/// A provider that cannot be reached for some time.
#[derive(Debug, Clone, Default)]
struct Unsteady {
    is_away: Arc<AtomicBool>,
}

#[async_trait]
impl CredentialProvider for Unsteady {
    async fn credential(&self, _: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(CredentialError::Temporary("the token endpoint does not answer".into())),
            false => Ok(Some(bearer("token"))),
        }
    }
}

#[tokio::test]
async fn provider_that_is_away_too_keeps_the_instance() {
    let provider = Unsteady::default();
    let (_runtime, app, stub) = live(builder().credentials(provider.clone())).await;
    provider.is_away.store(true, Ordering::Relaxed);
    breaks(&app).await;
    let provider_returns = async {
        let mut status = stub.watch();
        let has_reason = |text: &str| text.contains("no credential to connect with: the token endpoint does not answer");
        soon(status.until(|report| report.reason.as_deref().is_some_and(has_reason))).await;
        provider.is_away.store(false, Ordering::Relaxed);
    };
    let (connects, ()) = tokio::join!(connects(&app), provider_returns);
    assert_eq!((connects, stub.restarts()), (2, 0));
}
