//! Tests of the attacks of `tests/hostile`: each is contained as required, and the well-behaved
//! stub next to it is unaffected.

use std::time::Duration;

use ::hostile::{Attack, Containment, Load, Stage, StageConfig, for_each_attack, percentile};
use protostub_runtime::{Bounds, Message};
use tokio::sync::OnceCell;

use crate::{sayings, steps, support::code_dir};

/// One stage for all attacks: an ended stub leaves the runtime unchanged.
static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> &'static Stage {
    STAGE
        .get_or_init(|| async {
            let mut config = StageConfig { code_dir: Some(code_dir()), ..StageConfig::default() };
            config.limits.cpu_per_call = Duration::from_millis(500);
            config.limits.time_per_call = Duration::from_secs(2);
            let stage = Stage::new(config).await.expect("a stage");
            stage.keep_code().await.expect("the attackers' code");
            stage
        })
        .await
}

async fn check(attack: Attack) {
    if attack.name == "takes_minutes_to_compile" {
        // Components are compiled one after the other, so this attack has its own stage. Its
        // compilation cannot be interrupted, so it is smaller here and does not go on for minutes
        // next to other tests. Its folder of code is separate, so that other tests do not find it
        // compiled. The neighbour's code is cached before.
        let code = tempfile::tempdir().expect("a folder");
        let config = StageConfig { code_dir: Some(code.path().join("code")), ..StageConfig::default() };
        drop(Stage::new(config.clone()).await.expect("a stage"));
        let config = StageConfig { compile_timeout: Duration::from_secs(6), ..config };
        contained(&Stage::new(config).await.expect("a stage"), &attack.scaled(700)).await;
    } else if attack.name == "opens_connections_to_many_names" {
        // Each connection counts as an attempt. With the default limit the attack would open fewer
        // connections.
        let mut config = StageConfig { code_dir: Some(code_dir()), ..StageConfig::default() };
        config.limits.connect_attempts_per_second = 10_000;
        let how = contained(&Stage::new(config).await.expect("a stage"), &attack).await;
        // The runtime closed idle connections, and no exchange failed.
        assert!(how.contains("1000 answered"), "{how}");
    } else if attack.name == "catalogue_floods_accepted_versions" {
        // This stage remembers fewer versions than the flood has.
        let accepted_versions = Bounds { total: 32, per_domain: 4 };
        let config = StageConfig { code_dir: Some(code_dir()), accepted_versions, ..StageConfig::default() };
        contained(&Stage::new(config).await.expect("a stage"), &attack).await;
    } else {
        contained(stage().await, &attack).await;
    }
}

/// Three stubs open as many of 20 sockets as they can. Each gets fewer than its own limit allows.
/// The next stub and the catalogue still find a socket.
#[tokio::test]
async fn hoards_of_three_stubs_leave_sockets_for_others() {
    let config = StageConfig { code_dir: Some(code_dir()), max_sockets: Some(20), ..StageConfig::default() };
    let stage = Stage::new(config).await.expect("a stage");
    let mut hoarder = ::hostile::attacks::opens_connections();
    hoarder.contained = Containment::Held("max_sockets");
    let mut hoarders = Vec::new();
    for _ in 0..3 {
        let attacker = stage.place(&hoarder).await.expect("an attacker");
        stage.provoke(&attacker).await.expect("a share");
        hoarders.push(attacker);
    }
    contained(&stage, &::hostile::attacks::server_has_wrong_certificate()).await;
    contained(&stage, &::hostile::attacks::server_redirects_in_circle()).await;
}

async fn contained(stage: &Stage, attack: &Attack) -> String {
    steps::record();
    let contained = stage.attack(attack).await.unwrap_or_else(|escaped| panic!("{}: {escaped}", attack.name));
    assert_eq!(sayings::not_safe(), [""; 0], "{}", attack.name);
    let neighbour = stage.neighbours().stubs()[0].domain();
    let echo = stage.runtime().request(Message::read(format!("hyperty://{neighbour}/alice").parse().unwrap())).await;
    assert_eq!(echo.expect("an echo").code(), Some(200), "{}", attack.name);
    contained.how
}

macro_rules! cases {
    ($($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                check(::hostile::attacks::$name()).await;
            }
        )*
    };
}
for_each_attack!(cases);

/// The neighbour gets requests at fixed times. Meanwhile each of fourteen exchanges gets endless
/// informational responses, again and again.
#[tokio::test]
async fn neighbours_are_served_during_endless_informational() {
    const ROUNDS: usize = 20;
    let mut config = StageConfig { code_dir: Some(code_dir()), ..StageConfig::default() };
    config.limits.connect_attempts_per_second = 10_000;
    let stage = Stage::new(config).await.expect("a stage");
    let load = Load::begin(stage.runtime(), stage.neighbours()).await.expect("load");
    let attacker = stage.place(&::hostile::attacks::server_sends_endless_informational()).await.expect("an attacker");
    for _ in 0..ROUNDS {
        stage.provoke(&attacker).await.expect("it is contained");
    }
    let mut latencies: Vec<Duration> = load.take().iter().map(|answer| answer.latency).collect();
    let sum = load.end().await;
    assert_eq!(sum.lost, 0, "{:?}", sum.fault);
    let p95 = percentile(&mut latencies, 95);
    assert!(p95 < Duration::from_secs(1), "{p95:?} of {} requests", latencies.len());
    stage.remove(attacker).await.expect("it goes");
}
