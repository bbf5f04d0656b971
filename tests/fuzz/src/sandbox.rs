// Targets that need a runtime: untrusted components, the calls of a guest to its host, settings.

use std::{
    env,
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    str,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use protostub_runtime::{Descriptor, Domain, DomainSettings, Limits, MemorySource, Message, Protostub, RestartPolicy, Runtime};
use protostub_types::{Body, Version};
use tokio_tungstenite::tungstenite;

/// Time limit of a read of the server.
const SERVER_PATIENCE: Duration = Duration::from_millis(200);
/// Number of requests that the server answers on one connection.
const ANSWERS: usize = 2;

/// Reads a settings file.
pub fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(problem) = protostub_cli::check_settings(text) {
        let has_place = problem.starts_with("protostub.toml:") && problem.split(':').nth(1).is_some_and(|line| line != "0");
        assert!(has_place || problem.contains("home domain"), "{problem}");
    }
}

/// Deploys an untrusted component like any other. Its start functions run.
pub fn component(data: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    // Each component has its own domain, because a failed stub has to wait before it is deployed
    // again.
    let domain = Domain::parse(&format!("c{}.example", NUMBER.fetch_add(1, Relaxed))).expect("a domain");
    let stage = &*STAGE;
    publish(&stage.source, &domain, data);
    stage.tokio.block_on(async {
        if let Ok(stub) = stage.runtime.load_stub(domain.as_str()).await {
            let _ = stub.undeploy().await;
        }
    });
    stage.source.remove(&domain, "default");
    stage.is_well();
}

/// Makes a stub call its host. The first byte is the number of following bytes with which the
/// stub's server answers every request. The rest is the program of `tests/programs/caller`.
pub fn host_calls(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (answer, program) = rest.split_at(rest.len().min(usize::from(*length)));
    let stage = &*STAGE;
    *lock(&ANSWER) = answer.to_vec();
    stage.tokio.block_on(async {
        let stub = stage.runtime.deploy_protostub(stage.server.as_str()).await.expect("the caller is deployed");
        stage.follow(&stub, program).await;
        // A failed stub is gone already.
        let _ = stub.undeploy().await;
    });
    stage.is_well();
}

/// The runtime of all targets, with a neighbour that must stay unaffected.
struct Stage {
    tokio: tokio::runtime::Runtime,
    source: MemorySource,
    runtime: Runtime,
    neighbour: Protostub,
    /// The server to which the caller connects, as its domain.
    server: Domain,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    notice_panics();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = serve();
    let neighbour = Domain::parse("neighbour.example").expect("a domain");
    let mut limits = Limits::default();
    limits.cpu_per_call = Duration::from_millis(100);
    limits.time_per_call = Duration::from_secs(1);
    limits.memory_bytes = 16 << 20;
    let mut restart = RestartPolicy::default();
    restart.restarts = 0;
    let mut settings = DomainSettings::default();
    settings.relays.push(neighbour.clone());
    let source = MemorySource::new();
    let builder = Runtime::builder().home_domain("home.example").allow_loopback(true).source(source.clone());
    let builder = builder.limits(limits).restart(restart).domain(server.clone(), settings);
    let runtime = tokio.block_on(builder.grace(Duration::from_millis(200)).max_stubs(8).build()).expect("a runtime");
    let caller = caller();
    for domain in [&server, &neighbour] {
        publish(&source, domain, &caller);
    }
    let neighbour = tokio.block_on(runtime.deploy_protostub(neighbour.as_str())).expect("the neighbour is deployed");
    Stage { tokio, source, runtime, neighbour, server }
});

impl Stage {
    /// Checks that the program's request has one answer, from the stub or on its behalf.
    async fn follow(&self, stub: &Protostub, program: &[u8]) {
        let mut request = Message::read(format!("hyperty://{}/caller", stub.domain()).parse().unwrap());
        request.body = Some(Body::Bytes(program.into()));
        if let Err(error) = self.runtime.request(request).await {
            assert_ne!(error.code, 408, "a request timed out: {error}");
        }
    }

    /// Checks that the neighbour answers, that no other stub is left, and that no thread of the
    /// host has panicked.
    fn is_well(&self) {
        self.tokio.block_on(async {
            let request = Message::read("hyperty://neighbour.example/caller".parse().unwrap());
            let answer = self.runtime.request(request).await.expect("the neighbour answers");
            assert_eq!(answer.code(), Some(200));
        });
        assert_eq!(self.neighbour.restarts(), 0, "the neighbour was restarted");
        assert_eq!(self.runtime.protostubs().len(), 1, "stubs other than the neighbour are left");
        let panics = lock(&PANICS);
        assert!(panics.is_empty(), "the host panicked: {panics:?}");
    }
}

fn publish(source: &MemorySource, domain: &Domain, component: &[u8]) {
    let mut descriptor = Descriptor::new("default", Version::parse("1.0").expect("a version"));
    descriptor.refer("component.wasm", component);
    source.insert(domain, "default", descriptor.to_json(), component.to_vec());
}

/// Returns the built `tests/programs/caller`. `cargo xtask fuzz` and `tests/artifacts` build it.
fn caller() -> Vec<u8> {
    let built = |root: &Path| root.join("target/stubs/wasm32-wasip2/release/caller.wasm");
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let file: PathBuf = roots.map(built).find(|file| file.is_file()).expect("the program `caller` is built");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Places where the host itself panicked. Tokio catches the panics of tasks, so no other check
/// would see them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn notice_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(place) = panic.location().filter(|place| place.file().contains("crates/protostub-")) {
            lock(&PANICS).push(place.to_string());
        }
        before(panic);
    }));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer of the server.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Starts a server on loopback that sends untrusted answers.
fn serve() -> Domain {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // As many connections as a stub may have open.
            if OPEN.fetch_add(1, Relaxed) < 16 {
                let answer = lock(&ANSWER).clone();
                thread::spawn(move || {
                    let _ = answer_with(stream, &answer);
                    OPEN.fetch_sub(1, Relaxed);
                });
            } else {
                OPEN.fetch_sub(1, Relaxed);
            }
        }
    });
    Domain::parse(&address).expect("a domain")
}

/// Answers with the bytes. The first byte selects the form: as they are, after a valid WebSocket
/// handshake, or as the body of a valid response.
fn answer_with(stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SERVER_PATIENCE))?;
    stream.set_write_timeout(Some(SERVER_PATIENCE))?;
    match answer.split_first() {
        None => Ok(()),
        Some((1, frames)) => {
            let mut socket = tungstenite::accept(stream).map_err(|error| std::io::Error::other(error.to_string()))?;
            socket.get_mut().write_all(frames)?;
            while socket.read().is_ok() {}
            Ok(())
        }
        Some((2, body)) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            respond(&stream, &[head.as_bytes(), body].concat())
        }
        Some((_, bytes)) => respond(&stream, bytes),
    }
}

fn respond(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut request = [0; 4096];
    for _ in 0..ANSWERS {
        if std::io::Read::read(&mut stream, &mut request)? == 0 {
            break;
        }
        stream.write_all(bytes)?;
    }
    Ok(())
}
