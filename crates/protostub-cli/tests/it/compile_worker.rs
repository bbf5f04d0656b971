//! Compilation in worker processes: by the real command, and by executables that are not workers.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use protostub_runtime::{Descriptor, Domain, MemorySource, Runtime, RuntimeBuilder};
use protostub_sandbox::{COMPILE_WORKER, CompileError, CompileWorker, CompiledStub, Engine, EngineConfig, EngineError};
use protostub_types::{Sha256Digest, Version};

/// Timeout for events that should happen soon.
const PATIENCE: Duration = Duration::from_secs(120);

fn command() -> PathBuf {
    env!("CARGO_BIN_EXE_protostub").into()
}

/// Returns the path of a script that is not a worker.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/workers").join(name)
}

fn echo() -> Vec<u8> {
    protostub_artifacts::component("echo")
}

fn engine(worker: Option<CompileWorker>, cache: Option<&Path>) -> Result<Engine, EngineError> {
    let mut config = EngineConfig::default();
    config.max_sandboxes = 10;
    config.compile_worker = worker;
    config.cache_dir = cache.map(Path::to_owned);
    Engine::new(&config)
}

async fn compile(engine: &Engine, bytes: Vec<u8>) -> Result<CompiledStub, CompileError> {
    let digest = Sha256Digest::of(&bytes);
    tokio::time::timeout(PATIENCE, engine.compile(bytes, digest)).await.expect("it ends")
}

/// Returns the error of a component that does not compile with a worker.
async fn failure(worker: CompileWorker, bytes: Vec<u8>) -> String {
    let engine = engine(Some(worker), None).expect("an engine");
    compile(&engine, bytes).await.expect_err("it does not compile").to_string()
}

/// A valid component that takes the compiler minutes: long functions of only branches, with a
/// hundred live values.
pub(crate) static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const FUNCTIONS: usize = 40;
    const FUNCTION_BYTES: usize = 1_000_000;
    const LOCALS: u8 = 120;

    fn leb128(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }
    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [leb128(bytes.len()), bytes.to_vec()].concat()
    }
    fn section(kind: u8, content: &[u8]) -> Vec<u8> {
        [vec![kind], with_length(content)].concat()
    }

    let mut body = vec![1, LOCALS, 0x7f];
    for local in (0..LOCALS).cycle().take(FUNCTION_BYTES / 12) {
        // (if (local.get $n) (then (local.set $n (i32.add (local.get $n) (i32.const 1)))))
        body.extend([0x20, local, 0x04, 0x40, 0x20, local, 0x41, 1, 0x6a, 0x21, local, 0x0b]);
    }
    body.push(0x0b);
    let functions = [leb128(FUNCTIONS), vec![0; FUNCTIONS]].concat();
    let code = [leb128(FUNCTIONS), with_length(&body).repeat(FUNCTIONS)].concat();
    let module = [b"\0asm\x01\0\0\0".to_vec(), section(1, &[1, 0x60, 0, 0]), section(3, &functions), section(10, &code)].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
});

#[tokio::test]
async fn component_compiles_in_a_worker_process() {
    let cache = tempfile::tempdir().expect("a folder");
    let cache = cache.path().join("compiled");
    let with_worker = engine(Some(CompileWorker::new(command())), Some(&cache)).expect("an engine");
    let compiled = compile(&with_worker, echo()).await.expect("it compiles");
    assert_eq!(compiled.digest(), Sha256Digest::of(&echo()));
    assert!(compiled.exports().iter().any(|export| export.starts_with("rethink:protostub/stub@")), "{compiled:?}");
    // The worker's code equals the code that is compiled without it: an engine without a worker
    // loads it from the cache.
    let without = engine(None, Some(&cache)).expect("an engine");
    compile(&without, echo()).await.expect("it compiles");
    assert_eq!(without.disk_cache(), Some((1, 0)));
}

#[tokio::test]
async fn invalid_component_fails_alike_with_and_without_worker() {
    let cut = echo()[..20_000].to_vec();
    let own = compile(&engine(None, None).expect("an engine"), cut.clone()).await.expect_err("it is cut off").to_string();
    assert_eq!(failure(CompileWorker::new(command()), cut).await, own);
    // The engine starts no process for bytes that are not a component.
    assert!(failure(CompileWorker::new(script("deaf.sh")), b"none".to_vec()).await.contains("not WebAssembly"));
}

/// The host's pool has no room for the memory, or for the number of memories. The worker has no
/// pool, so it compiles the component.
#[tokio::test]
async fn memory_over_the_pool_is_not_blamed_on_the_worker() {
    let component =
        |memories: &str| wat::parse_str(format!("(component (core module $m {memories}) (core instance (instantiate $m)))"));
    for memories in ["(memory 65536)", &"(memory 1)".repeat(5)] {
        let bytes = component(memories).expect("a component");
        let own = compile(&engine(None, None).expect("an engine"), bytes.clone()).await.expect_err("it is too large").to_string();
        assert!(own.starts_with("the component needs more than the host has room for: "), "{own}");
        assert_eq!(failure(CompileWorker::new(command()), bytes).await, own);
    }
}

#[tokio::test]
async fn compile_worker_over_its_limits_is_ended() {
    let mut worker = CompileWorker::new(command());
    worker.cpu_seconds = 1;
    let failed = failure(worker, BOMB.clone()).await;
    assert!(failed.contains("was ended after 1 s of computing, its limit"), "{failed}");

    let mut worker = CompileWorker::new(command());
    worker.memory_bytes = 256 << 20;
    let failed = failure(worker, BOMB.clone()).await;
    assert!(failed.contains("broke down") || failed.contains("memory"), "{failed}");
}

#[tokio::test]
async fn wrong_worker_executable_is_reported() {
    let check = async |name: &str, expected: &str| {
        let program = script(name);
        let mut worker = CompileWorker::new(&program);
        worker.memory_bytes = 1 << 20;
        let failed = failure(worker, echo()).await;
        assert!(failed.starts_with(&format!("the compile worker {} ", program.display())), "{name}: {failed}");
        assert!(failed.contains(expected), "{name}: {failed}");
    };
    check("echo.sh", "that no compile worker of this version answers: name an executable that calls `compile_worker`").await;
    check("silent.sh", "answered 0 bytes that no compile worker").await;
    check(
        "forger.sh",
        "answered with code that does not match the request: the entry was changed, damaged, or made with another key",
    )
    .await;
    check(
        "stranger.sh",
        "was built with another version of the library, or for another machine: name the executable of this version",
    )
    .await;
    check("failing.sh", "ended without an answer (exit status: 7): no space left").await;
    check("killed.sh", "broke down (signal: 9").await;
    check("panicking.sh", "ended without an answer (exit status: 101): a panic: multiple memories").await;
    let failed = failure(CompileWorker::new(script("panicking.sh")), echo()).await;
    assert!(failed.ends_with("multiple memories"), "only the first line is quoted: {failed}");
    check("endless.sh", "ended without an answer").await;
    let missing = script("none.sh");
    let error = engine(Some(CompileWorker::new(&missing)), None).expect_err("there is no such file").to_string();
    assert_eq!(error, format!("the compile worker {} is no executable file", missing.display()));
}

#[test]
fn compile_worker_called_by_hand_fails() {
    let mut child = Command::new(command())
        .arg(COMPILE_WORKER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(&[b'x'; 200]).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("a compile worker is called by a runtime that has a component to compile: "), "{said}");
}

fn builder() -> RuntimeBuilder {
    Runtime::builder().home_domain("home.example").compile_worker(command())
}

fn publish(source: &MemorySource, name: &str, component: Vec<u8>) {
    let mut descriptor = Descriptor::new("default", Version::parse("1.0").expect("a version"));
    descriptor.refer("component.wasm", &component);
    source.insert(&Domain::parse(name).expect("a domain"), "default", descriptor.to_json(), component);
}

/// Returns the compile worker of a process, if it has one.
#[cfg(target_os = "linux")]
pub(crate) fn worker_of(parent: u32) -> Option<u32> {
    let processes =
        fs::read_dir("/proc").expect("the processes").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|process| {
        // A process that has just ended has no readable files.
        let command = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let of = stat(*process).get(1).and_then(|parent| parent.parse().ok());
        of == Some(parent) && command.trim_end_matches('\0').ends_with(COMPILE_WORKER)
    })
}

/// Returns the fields of a process after its name: its state, its parent and so on.
#[cfg(target_os = "linux")]
fn stat(process: u32) -> Vec<String> {
    // `id (name) state parent …`
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    text.rsplit_once(") ").map_or_else(Vec::new, |(_, fields)| fields.split(' ').map(str::to_owned).collect())
}

/// Returns `true` if a compile worker of this process is running.
#[cfg(target_os = "linux")]
fn a_worker_is_there() -> bool {
    worker_of(std::process::id()).is_some()
}

#[cfg(not(target_os = "linux"))]
fn a_worker_is_there() -> bool {
    false
}

/// The process that asked for the code is killed while the compiler runs.
#[cfg(target_os = "linux")]
#[test]
fn worker_of_a_killed_process_ends_at_once() {
    /// Processor time that shows that the compiler runs, in hundredths of a second.
    const COMPILES: u64 = 100;
    /// Less than the worker may compute.
    const SOON: Duration = Duration::from_secs(20);

    let folder = tempfile::tempdir().expect("a folder");
    let bomb = folder.path().join("bomb.wasm");
    fs::write(&bomb, &*BOMB).expect("written");
    let mut host = Command::new(command()).arg("inspect").arg(&bomb).stdout(Stdio::null()).spawn().expect("it starts");
    let worker = loop {
        assert!(host.try_wait().expect("a process").is_none(), "the host ended without a worker");
        if let Some(worker) = worker_of(host.id()) {
            break worker;
        }
    };
    let computed = || stat(worker).get(11).and_then(|ticks| ticks.parse::<u64>().ok());
    while computed().expect("the worker compiles") < COMPILES {
        std::thread::yield_now();
    }
    host.kill().expect("it is killed");
    host.wait().expect("it ends");
    let killed = Instant::now();
    // A process without a parent that waits for it stays a zombie.
    while stat(worker).first().is_some_and(|state| state != "Z") {
        assert!(killed.elapsed() < SOON, "the worker still runs, after {SOON:?}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn slow_component_is_ended_without_delaying_others() {
    let source = MemorySource::new();
    publish(&source, "bomb.example", BOMB.clone());
    publish(&source, "echo.example", echo());
    let builder = builder().source(source).compile_timeout(Duration::from_secs(30));
    let runtime = builder.build().await.expect("a runtime");
    let bomb = runtime.load_stub("bomb.example");
    tokio::pin!(bomb);
    // The bomb compiles until its timeout. Meanwhile another component compiles and starts.
    tokio::select! {
        ended = &mut bomb => panic!("it has ended too early: {ended:?}"),
        stub = runtime.load_stub("echo.example") => drop(stub.expect("the neighbour is deployed")),
    }
    let error = tokio::time::timeout(PATIENCE, bomb).await.expect("it ends").expect_err("it takes too long");
    let error = format!("{error}: {}", error.kind);
    assert!(error.contains("was not compiled within 30 s") || error.contains("was ended after"), "{error}");
    // The worker process ends too.
    let gone = async {
        while a_worker_is_there() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the process has ended");
}
