// What needs a runtime: components from anywhere, the calls that a guest may make of its host, settings.

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

/// How long a read of the server waits.
const SERVER_PATIENCE: Duration = Duration::from_millis(200);
/// How many requests of one connection the server answers.
const ANSWERS: usize = 2;

/// A settings file.
pub fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(problem) = protostub_cli::check_settings(text) {
        assert!(!problem.is_empty());
    }
}

/// A component, from anywhere: it is deployed like any other, and its start functions run.
pub fn component(data: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    // Each is a stub of its own: one that failed has to wait until it is tried again.
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

/// The calls that a stub makes of its host. The first byte says how many of those that follow the stub's server answers with, whatever it is asked; the
/// rest is the program of `tests/programs/caller`.
pub fn host_calls(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (answer, program) = rest.split_at(rest.len().min(usize::from(*length)));
    let stage = &*STAGE;
    *lock(&ANSWER) = answer.to_vec();
    stage.tokio.block_on(async {
        let stub = stage.runtime.deploy_protostub(stage.server.as_str()).await.expect("the caller is deployed");
        stage.follow(&stub, program).await;
        // What broke is gone already.
        let _ = stub.undeploy().await;
    });
    stage.is_well();
}

/// The runtime that everything happens in, with a neighbour that must not notice.
struct Stage {
    tokio: tokio::runtime::Runtime,
    source: MemorySource,
    runtime: Runtime,
    neighbour: Protostub,
    /// The server that the caller speaks to, as its domain.
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
    /// Whatever the program is, its request has one answer, by the stub or in its place.
    async fn follow(&self, stub: &Protostub, program: &[u8]) {
        let mut request = Message::read(format!("hyperty://{}/caller", stub.domain()).as_str());
        request.body = Some(Body::Bytes(program.into()));
        if let Err(error) = self.runtime.request(request).await {
            assert_ne!(error.code, 408, "a request was lost: {error}");
        }
    }

    /// The neighbour answers, nothing is left of the others, and no thread of the host has panicked.
    fn is_well(&self) {
        self.tokio.block_on(async {
            let request = Message::read("hyperty://neighbour.example/caller");
            let answer = self.runtime.request(request).await.expect("the neighbour answers");
            assert_eq!(answer.code(), Some(200));
        });
        assert_eq!(self.neighbour.restarts(), 0, "the neighbour was restarted");
        assert_eq!(self.runtime.protostubs().len(), 1, "there is more than the neighbour");
        let panics = lock(&PANICS);
        assert!(panics.is_empty(), "the host panicked: {panics:?}");
    }
}

fn publish(source: &MemorySource, domain: &Domain, component: &[u8]) {
    let mut descriptor = Descriptor::new("default", Version::parse("1.0").expect("a version"));
    descriptor.refer("component.wasm", component);
    source.insert(domain, "default", descriptor.to_json(), component.to_vec());
}

/// `tests/programs/caller`, built: `cargo xtask fuzz` and `tests/artifacts` build it.
fn caller() -> Vec<u8> {
    let built = |root: &Path| root.join("target/stubs/wasm32-wasip2/release/caller.wasm");
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let file: PathBuf = roots.map(built).find(|file| file.is_file()).expect("the program `caller` is built");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Where the host itself panicked. Tasks of tokio end with their panics, so nobody else would notice.
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

/// What the server answers.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// A server on loopback whose answers are not to be relied on.
fn serve() -> Domain {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // As many as a stub may have open.
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

/// The bytes as they are; or after a proper handshake of WebSocket, or as the body of a proper response, as the first of them says.
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
