//! The product: a runtime as a program embeds it, with the echo as the stub of every domain. It is
//! complete, and checks every limit. Only the rate limits are set high, because they would dominate
//! the measurement otherwise.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use protostub_artifacts::component;
use protostub_catalogue::{Document, Fault, Request, Source, Subject};
use protostub_runtime::{
    Address, Descriptor, DomainSettings, Hyperty, Limits, Message, Runtime, RuntimeBuilder, TotalSettings, Version,
    imports::{HostImport, StubInfo, StubState, wasmtime},
};
use tokio::sync::{Mutex, oneshot};
use wasmtime::component::Linker;

use crate::{
    bare::Instance,
    samples::each,
    workload::{FROM, Text, message},
};

/// A bare instance that tasks of the runtime call.
pub(crate) type Shared = Arc<Mutex<Instance>>;

/// Maximum number of messages in flight under load, and maximum of their bodies together, in bytes.
const WINDOW: usize = 256;
const WINDOW_BYTES: usize = 4 << 20;

/// Returns the maximum number of messages in flight with bodies of this size.
pub(crate) fn most_on_their_way(bytes: usize) -> u32 {
    u32::try_from(WINDOW.min(WINDOW_BYTES / bytes)).unwrap_or(1)
}

/// Returns the default limits with higher rates of messages and bytes per second.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.posts_per_second = u32::MAX;
    limits.bytes_in_per_second = u64::MAX >> 16;
    limits.bytes_out_per_second = u64::MAX >> 16;
    limits
}

/// Returns totals without a limit of memory: ten thousand idle stubs reserve more than they touch.
fn totals() -> TotalSettings {
    let mut totals = TotalSettings::default();
    totals.max_memory_bytes = Some(usize::MAX);
    totals
}

/// Returns a builder with the settings that do not affect the figures: the home and the source of
/// stubs.
pub(crate) fn builder(source: impl Source + 'static) -> RuntimeBuilder {
    Runtime::builder().home_domain("home.example").allow_loopback(true).limits(limits()).totals(totals()).source(source)
}

/// A catalogue of every possible domain, in memory.
#[derive(Debug, Clone)]
pub(crate) struct Everywhere {
    descriptor: Bytes,
    component: Bytes,
}

impl Everywhere {
    pub(crate) fn new(component: Vec<u8>, configuration: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let mut descriptor = Descriptor::new("default", Version::parse("1.0")?);
        descriptor.refer("component.wasm", &component);
        descriptor.configuration = configuration;
        Ok(Self { descriptor: descriptor.to_json().into(), component: component.into() })
    }

    pub(crate) fn echo() -> Result<Self> {
        Self::new(component("batched-echo"), serde_json::Map::new())
    }
}

#[async_trait]
impl Source for Everywhere {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        let bytes = match request.subject {
            Subject::Descriptor => &self.descriptor,
            Subject::Component => &self.component,
            _ => return Err(Fault::NotFound { answer: "this catalogue has no keys".into() }),
        };
        Ok(Document::from_bytes(bytes.clone()))
    }
}

/// Captures the wasmtime engine of the runtime, for the bare side to use the same. An interface of
/// the host program is linked with that engine.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<OnceLock<wasmtime::Engine>>);

impl Probe {
    pub(crate) fn engine(&self) -> Result<wasmtime::Engine> {
        self.0.get().cloned().context("the runtime has not linked the interface of the probe")
    }

    /// Installs the probe. The runtime links it only for a domain that has a grant, so this grants
    /// it to a domain without a stub.
    pub(crate) fn install(&self, builder: RuntimeBuilder) -> Result<RuntimeBuilder> {
        let mut settings = DomainSettings::default();
        settings.imports.insert(Self::INTERFACE.to_owned());
        Ok(builder.host_import(self.clone()).domain("probe.example".parse()?, settings))
    }
}

impl HostImport for Probe {
    const INTERFACE: &'static str = "protostub:bench/probe@1.0.0";
    type Data = ();

    fn data(&self, _: &StubInfo) {}

    fn add_to_linker(&self, linker: &mut Linker<StubState>, _: fn(&mut StubState) -> &mut ()) -> wasmtime::Result<()> {
        let _ = self.0.set(linker.engine().clone());
        linker.instance(Self::INTERFACE).map(drop)
    }
}

/// A runtime with a native listener on its threads.
pub(crate) struct Live {
    pub(crate) runtime: Runtime,
    pub(crate) engine: wasmtime::Engine,
    listener: Arc<Mutex<Hyperty>>,
}

impl Live {
    /// Starts a runtime in which the stub of `sp1.example` is live.
    pub(crate) async fn new() -> Result<Self> {
        Self::of(builder(Everywhere::echo()?)).await
    }

    /// Starts the same with room for one stub and with one thread. Tools that watch a process have
    /// little room for the memory that it reserves. Threads that look for work would add to the
    /// counts.
    pub(crate) async fn small() -> Result<Self> {
        Self::of(builder(Everywhere::echo()?).max_stubs(1).worker_threads(1)).await
    }

    async fn of(builder: RuntimeBuilder) -> Result<Self> {
        let probe = Probe::default();
        let runtime = probe.install(builder)?.build().await?;
        runtime.deploy_protostub("sp1.example").await?;
        let listener = Arc::new(Mutex::new(runtime.register_hyperty(FROM).await?));
        Ok(Self { engine: probe.engine()?, runtime, listener })
    }

    /// Runs a future on the library's own threads.
    pub(crate) async fn inside<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        inside(&self.runtime, work).await
    }

    /// Measures the time of `count` round trips, one after the other.
    pub(crate) async fn trips(&self, to: &Address, text: impl Into<Text>, count: u32) -> Result<Duration> {
        let (listener, to, text) = (Arc::clone(&self.listener), to.clone(), text.into());
        self.inside(async move { trips(&mut *listener.lock().await, &to, text, count).await }).await
    }

    /// Measures the time of `count` messages there and back, with many in flight.
    pub(crate) async fn load(&self, to: &Address, bytes: usize, count: u32) -> Result<Duration> {
        self.windows(to, bytes, most_on_their_way(bytes), count).await
    }

    /// Measures round trips and then as many bare calls in one task, which nearly always stays on
    /// one processor. On a shared machine, one processor can be 50 % faster than another.
    pub(crate) async fn trips_and_calls(
        &self,
        bare: &Shared,
        to: &Address,
        text: impl Into<Text>,
        count: u32,
    ) -> Result<[f64; 2]> {
        let (listener, bare, to, text) = (Arc::clone(&self.listener), Arc::clone(bare), to.clone(), text.into());
        self.inside(async move {
            let ours = trips(&mut *listener.lock().await, &to, text.clone(), count).await?;
            let limit = bare.lock().await.calls(text, 1, count).await?;
            Ok([each(ours, count), each(limit, count)])
        })
        .await
    }

    /// Measures the same under load, with bare calls of `batch` messages each.
    pub(crate) async fn load_and_calls(
        &self,
        bare: &Shared,
        to: &Address,
        bytes: usize,
        batch: usize,
        count: u32,
    ) -> Result<[f64; 2]> {
        let (listener, bare, to) = (Arc::clone(&self.listener), Arc::clone(bare), to.clone());
        self.inside(async move {
            let ours = windows(&mut *listener.lock().await, &to, bytes, most_on_their_way(bytes), count).await?;
            let each_has = u32::try_from(batch)?;
            let calls = count.div_ceil(each_has);
            let limit = bare.lock().await.calls(bytes, batch, calls).await?;
            Ok([each(ours, count), each(limit, calls * each_has)])
        })
        .await
    }

    /// Measures the time of `count` messages there and back, with `window` in flight.
    pub(crate) async fn windows(&self, to: &Address, bytes: usize, window: u32, count: u32) -> Result<Duration> {
        let (listener, to) = (Arc::clone(&self.listener), to.clone());
        self.inside(async move {
            let mut listener = listener.lock().await;
            windows(&mut listener, &to, bytes, window, count).await
        })
        .await
    }

    /// Measures the time of `count` requests, from the library's own threads or from those of the
    /// program.
    pub(crate) async fn requests(&self, to: &Address, bytes: usize, count: u32, crossing: bool) -> Result<Duration> {
        let (listener, to) = (Arc::clone(&self.listener), to.clone());
        let work = async move { requests(&*listener.lock().await, &to, bytes, count).await };
        if crossing { work.await } else { self.inside(work).await }
    }
}

/// Runs a future on the threads of a runtime.
pub(crate) async fn inside<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    runtime.spawn_inside(async move {
        // The caller may have gone.
        let _ = done.send(work.await);
    });
    result.await.map_err(|_| anyhow!("the measurement did not end"))?
}

async fn trips(listener: &mut Hyperty, to: &Address, text: Text, count: u32) -> Result<Duration> {
    let message = message(listener.address(), to, text);
    let begun = Instant::now();
    for _ in 0..count {
        listener.post(message.clone())?;
        let back = listener.recv().await.context("the runtime ended")?;
        ensure!(is_echo(&back, &message), "the reply is not an echo: {back:?}");
    }
    Ok(begun.elapsed())
}

async fn windows(listener: &mut Hyperty, to: &Address, bytes: usize, window: u32, count: u32) -> Result<Duration> {
    let message = message(listener.address(), to, bytes);
    let mut back = Vec::new();
    let begun = Instant::now();
    let mut left = count;
    while left > 0 {
        let now = left.min(window);
        for posted in listener.post_all((0..now).map(|_| message.clone())) {
            posted?;
        }
        let mut open = now as usize;
        while open > 0 {
            let came = listener.recv_many(&mut back, open).await;
            ensure!(came > 0, "the runtime ended");
            for back in &back {
                ensure!(is_echo(back, &message), "the reply is not an echo: {back:?}");
            }
            back.clear();
            open -= came;
        }
        left -= now;
    }
    Ok(begun.elapsed())
}

async fn requests(hyperty: &Hyperty, to: &Address, bytes: usize, count: u32) -> Result<Duration> {
    let mut request = message(hyperty.address(), to, bytes);
    request.kind = protostub_runtime::MessageType::Read;
    let begun = Instant::now();
    for _ in 0..count {
        let answer = hyperty.request(request.clone()).await?;
        ensure!(answer.from == request.to, "the answer has another sender: {answer:?}");
    }
    Ok(begun.elapsed())
}

fn is_echo(back: &Message, sent: &Message) -> bool {
    back.kind == sent.kind
        && back.from == sent.to
        && back.body.as_ref().map(|body| body.as_bytes().len()) == sent.body.as_ref().map(|body| body.as_bytes().len())
}
