//! Tests on machines with fewer resources: a runtime works with less, or its error names the
//! remedy.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
    time::Duration,
};

use protostub_runtime::{BuildError, Message};
use protostub_sandbox::{Engine, EngineConfig, EngineError};
use serde_json::{Value, json};

use crate::support::{body, builder, component, order, source};

/// Set in a process with a small address space.
const IS_SMALL: &str = "PROTOSTUB_TEST_SMALL_ADDRESS_SPACE";
/// 8 GiB, which is too small for every pool of sandboxes.
const SMALL_KIB: &str = "8388608";

/// Set in a process with few threads.
const HAS_FEW: &str = "PROTOSTUB_TEST_FEW_THREADS";
/// A user without processes. The system exempts root from its limit on threads.
const USER: u32 = 61_235;
/// Time limit of a process with few threads.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// The embedder's program has one thread and its own async runtime. The library's threads are
/// refused one by one: the first, the second and so on.
#[expect(clippy::print_stdout, reason = "the inner process prints its outcome, and a skipped test its reason")]
#[test]
fn build_without_threads_is_an_error_of_the_builder() {
    let folder = std::env::var_os(HAS_FEW);
    if let Some(folder) = folder {
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("no thread of its own");
        let built = threads.block_on(async { builder().code_dir(folder).build().await });
        match built {
            Ok(_) => println!("outcome: built"),
            Err(BuildError::Threads(error)) => println!("outcome: refused: {error}"),
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
        return;
    }
    if fs::metadata("/proc/self").expect("this process").uid() != 0 {
        println!("skipped: only root can become a user without processes");
        return;
    }
    let outcome_of = |threads: u32| {
        let here = "machine::build_without_threads_is_an_error_of_the_builder";
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).expect("root's right");
        // The other user may not reach the folder of this program, so the open file is executed.
        let limited = Command::new("timeout")
            .args(["--signal=KILL", &PATIENCE.as_secs().to_string(), "prlimit", &format!("--nproc={threads}")])
            .args(["/proc/self/fd/0", "--exact", here, "--nocapture", "--test-threads=1"])
            .stdin(File::open(std::env::current_exe().expect("this program")).expect("readable"))
            .env(HAS_FEW, folder.path())
            .uid(USER)
            .gid(USER)
            .output()
            .expect("the packages coreutils and util-linux");
        let said = format!("{}{}", String::from_utf8_lossy(&limited.stdout), String::from_utf8_lossy(&limited.stderr));
        assert!(limited.status.success(), "{threads}: {}: {said}", limited.status);
        said
    };
    // `timeout` and the process itself count too.
    for threads in 2..24 {
        let said = outcome_of(threads);
        let is_refused = said.contains("outcome: refused: ") && said.contains("`ulimit -u`");
        assert!(is_refused || (threads > 5 && said.contains("outcome: built")), "{threads}: {said}");
    }
    assert!(outcome_of(200).contains("outcome: built"));
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
