//! The product: a runtime as a program embeds it, with the echo as the stub of every domain. Nothing is left out, every limit is checked; only
//! the rates, which would be what is measured otherwise, are set high.

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
    Address, Descriptor, DomainSettings, Hyperty, Limits, Message, Runtime, RuntimeBuilder, Version,
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

/// How many messages are on their way under load, and no more than so many bytes of bodies.
const WINDOW: usize = 256;
const WINDOW_BYTES: usize = 4 << 20;

/// How many messages with bodies of so many bytes are on their way at most.
pub(crate) fn most_on_their_way(bytes: usize) -> u32 {
    u32::try_from(WINDOW.min(WINDOW_BYTES / bytes)).unwrap_or(1)
}

/// The limits as they ship, but for the rates: how many messages and bytes a second.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.posts_per_second = u32::MAX;
    limits.bytes_in_per_second = u64::MAX >> 16;
    limits.bytes_out_per_second = u64::MAX >> 16;
    limits
}

/// What is not measured of a runtime: the home, the source of stubs.
pub(crate) fn builder(source: impl Source + 'static) -> RuntimeBuilder {
    Runtime::builder().home_domain("home.example").allow_loopback(true).limits(limits()).source(source)
}

/// A catalogue of every domain there is, in memory.
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
            _ => return Err(Fault::NotFound { answer: "nothing is signed here".into() }),
        };
        Ok(Document::from_bytes(bytes.clone()))
    }
}

/// Gets hold of the wasmtime engine that the runtime made, so that the bare side uses the same: what an interface of the host program's own is
/// handed to link with belongs to it.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<OnceLock<wasmtime::Engine>>);

impl Probe {
    pub(crate) fn engine(&self) -> Result<wasmtime::Engine> {
        self.0.get().cloned().context("the runtime has linked no interface of the program's own")
    }

    /// A domain must be granted it to have it linked; this one has no stub.
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
    /// With the stub of `sp1.example` live.
    pub(crate) async fn new() -> Result<Self> {
        Self::of(builder(Everywhere::echo()?)).await
    }

    /// The same, with room for one stub and with one thread: tools that watch a process have little room for what it reserves, and what threads do
    /// while they look for work is not what is counted.
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

    /// Runs it on the library's own threads.
    pub(crate) async fn inside<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        inside(&self.runtime, work).await
    }

    /// How long so many round trips take, one after the other.
    pub(crate) async fn trips(&self, to: &Address, text: impl Into<Text>, count: u32) -> Result<Duration> {
        let (listener, to, text) = (Arc::clone(&self.listener), to.clone(), text.into());
        self.inside(async move { trips(&mut *listener.lock().await, &to, text, count).await }).await
    }

    /// How long so many messages take there and back, many on their way at a time.
    pub(crate) async fn load(&self, to: &Address, bytes: usize, count: u32) -> Result<Duration> {
        self.windows(to, bytes, most_on_their_way(bytes), count).await
    }

    /// Both, with as many bare calls after the trips: in one task, and so on one processor nearly always. On a machine that is shared, one may be half
    /// again as fast as the other.
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

    /// The same under load, with bare calls of so many messages each.
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

    /// How long so many messages take there and back, so many on their way at a time.
    pub(crate) async fn windows(&self, to: &Address, bytes: usize, window: u32, count: u32) -> Result<Duration> {
        let (listener, to) = (Arc::clone(&self.listener), to.clone());
        self.inside(async move {
            let mut listener = listener.lock().await;
            windows(&mut listener, &to, bytes, window, count).await
        })
        .await
    }

    /// How long so many requests take, from the library's own threads or from those of the program.
    pub(crate) async fn requests(&self, to: &Address, bytes: usize, count: u32, crossing: bool) -> Result<Duration> {
        let (listener, to) = (Arc::clone(&self.listener), to.clone());
        let work = async move { requests(&*listener.lock().await, &to, bytes, count).await };
        if crossing { work.await } else { self.inside(work).await }
    }
}

/// Runs it on the threads of a runtime.
pub(crate) async fn inside<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    runtime.spawn_inside(async move {
        // Whoever asked may have gone.
        let _ = done.send(work.await);
    });
    result.await.map_err(|_| anyhow!("what was to be measured did not end"))?
}

async fn trips(listener: &mut Hyperty, to: &Address, text: Text, count: u32) -> Result<Duration> {
    let message = message(listener.address(), to, text);
    let begun = Instant::now();
    for _ in 0..count {
        listener.post(message.clone())?;
        let back = listener.recv().await.context("the runtime ended")?;
        ensure!(is_echo(&back, &message), "what came back is no echo: {back:?}");
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
                ensure!(is_echo(back, &message), "what came back is no echo: {back:?}");
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
        ensure!(answer.from == request.to, "somebody else answered: {answer:?}");
    }
    Ok(begun.elapsed())
}

fn is_echo(back: &Message, sent: &Message) -> bool {
    back.kind == sent.kind
        && back.from == sent.to
        && back.body.as_ref().map(|body| body.as_bytes().len()) == sent.body.as_ref().map(|body| body.as_bytes().len())
}
