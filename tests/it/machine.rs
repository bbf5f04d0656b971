//! Tests on machines with fewer resources: a runtime works with less, or its error names the
//! remedy.

use std::process::Command;

use protostub_runtime::{BuildError, Message};
use protostub_sandbox::{Engine, EngineConfig, EngineError};
use serde_json::{Value, json};

use crate::support::{body, builder, component, order, source};

/// Set in a process with a small address space.
const IS_SMALL: &str = "PROTOSTUB_TEST_SMALL_ADDRESS_SPACE";
/// 8 GiB, which is too small for every pool of sandboxes.
const SMALL_KIB: &str = "8388608";

#[test]
fn small_address_space_runs_sandboxes_without_a_pool() {
    if std::env::var_os(IS_SMALL).is_none() {
        let here = "machine::small_address_space_runs_sandboxes_without_a_pool";
        let limited = Command::new("sh")
            .args(["-c", &format!("ulimit -v {SMALL_KIB} && exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", here, "--nocapture"])
            .env(IS_SMALL, "1")
            .output()
            .expect("a shell");
        let said = format!("{}{}", String::from_utf8_lossy(&limited.stdout), String::from_utf8_lossy(&limited.stderr));
        assert!(limited.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let engine = Engine::new(&EngineConfig::default()).expect("an engine");
    assert!(!engine.is_pooled(), "the limit does not hold here");
    drop(engine);
    let threads = tokio::runtime::Runtime::new().expect("threads");
    threads.block_on(async {
        let names = ["sp1.example", "sp2.example", "sp3.example"];
        let runtime = builder().source(source(&names, &component("actor"), &Value::Null)).build().await.expect("a runtime");
        let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
        for name in names {
            let reply = app.request(order(&format!("hyperty://{name}/x"), json!({ "n": 1 }))).await.expect("a response");
            assert_eq!((reply.code(), body(&reply)["value"]["n"].as_u64()), (Some(200), Some(1)));
        }
    });
}

#[tokio::test]
async fn sandbox_limit_above_the_machines_is_refused_with_a_hint() {
    let Some(most) = Engine::most_sandboxes() else { return };
    let Err(BuildError::Settings(error)) = builder().max_sandboxes(most + 1).build().await else { panic!("there are too many") };
    assert_eq!(error.path, ["lifecycle", "max-sandboxes"]);
    let error = error.to_string();
    assert!(error.contains(&format!("room for {most};")) && error.contains("`vm.max_map_count`"), "{error}");
    // The engine alone refuses them too.
    let mut config = EngineConfig::default();
    config.max_sandboxes = most + 1;
    let Err(error) = Engine::new(&config) else { panic!("there are too many") };
    assert!(
        matches!(error, EngineError::Mappings { sandboxes, most: said, .. } if (sandboxes, said) == (most + 1, most)),
        "{error}"
    );

    // More stubs than sandboxes are possible, because idle stubs make room for others.
    let source = source(&["sp1.example"], &component("actor"), &Value::Null);
    let runtime = builder().max_stubs(3 * most).source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let reply = app
        .request(Message::read("hyperty://sp1.example/x".parse().unwrap()).with_body(json!({ "n": 1 })))
        .await
        .expect("a response");
    assert_eq!(reply.code(), Some(200));
}
