//! Each attack of `tests/hostile` is contained as it has to be, and the well-behaved stub beside it does not notice.

use std::time::Duration;

use ::hostile::{Attack, Stage, StageConfig, for_each_attack};
use protostub_runtime::{Bounds, Message};
use tokio::sync::OnceCell;

use crate::support::code_dir;

/// One for all attacks: a stub that is ended leaves the runtime as it was.
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
        // It would hold up the others: components are compiled one after the other. And what cannot be interrupted is not to go on for minutes
        // beside the other tests, nor to be found compiled by them. The neighbour's code is there already.
        let code = tempfile::tempdir().expect("a folder");
        let config = StageConfig { code_dir: Some(code.path().join("code")), ..StageConfig::default() };
        drop(Stage::new(config.clone()).await.expect("a stage"));
        let config = StageConfig { compile_timeout: Duration::from_secs(6), ..config };
        contained(&Stage::new(config).await.expect("a stage"), &attack.scaled(700)).await;
    } else if attack.name == "catalogue_floods_accepted_versions" {
        // A stage that remembers fewer versions than the flood has.
        let accepted_versions = Bounds { total: 32, per_domain: 4 };
        let config = StageConfig { code_dir: Some(code_dir()), accepted_versions, ..StageConfig::default() };
        contained(&Stage::new(config).await.expect("a stage"), &attack).await;
    } else {
        contained(stage().await, &attack).await;
    }
}

async fn contained(stage: &Stage, attack: &Attack) {
    if let Err(escaped) = stage.attack(attack).await {
        panic!("{}: {escaped}", attack.name);
    }
    let neighbour = stage.neighbours().stubs()[0].domain();
    let echo = stage.runtime().request(Message::read(format!("hyperty://{neighbour}/alice").as_str())).await;
    assert_eq!(echo.expect("an echo").code(), Some(200), "{}", attack.name);
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
