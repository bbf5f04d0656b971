//! A message node that goes down and comes back, with steady requests through it.

use std::{
    collections::BTreeMap,
    ops::Range,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use protostub_artifacts::component;
use protostub_domain::{DomainServer, Memory};
use protostub_runtime::{Hyperty, Message, RequestError, Runtime};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{error::Elapsed, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Period of the requests through the server.
const PERIOD: Duration = Duration::from_millis(100);
/// Time limit of a request: longer than any outage.
const PATIENCE: Duration = Duration::from_secs(30);
/// Uptime of the server between outages, in milliseconds. It is longer than the time after which
/// the stubs count the end of a connection as a new fault. With less, the stubs pause for a minute
/// and more before they connect again, and most requests are answered with 408.
const STAYS: Range<u64> = 45_000..75_000;
/// Length of an outage, in milliseconds.
const IS_GONE: Range<u64> = 500..4_000;
/// Time limit at the end until a request is answered.
const RECOVERY: Duration = Duration::from_secs(60);

/// Outcomes of the requests.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) times: u64,
    pub(crate) answered: u64,
    /// Number of requests that failed with an error to the sender, by code. 408 means no answer in
    /// time, 502 and 503 a broken connection.
    pub(crate) told: BTreeMap<u16, u64>,
    pub(crate) without_outcome: u64,
    /// Number of outcomes that the answering runtime still owes at the end.
    pub(crate) open: u64,
    /// `true` if another request was answered after the last outage.
    pub(crate) recovered: bool,
}

/// The requests, and the server between the asking and the answering runtime.
pub(crate) struct Outages {
    stop: CancellationToken,
    task: JoinHandle<Result<Sum>>,
    _folder: TempDir,
    /// The runtime that answers.
    other: Runtime,
}

impl Outages {
    pub(crate) async fn begin(runtime: &Runtime) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let stub = folder.path().join("message-node");
        std::fs::create_dir(&stub)?;
        std::fs::write(stub.join("descriptor.json"), include_str!("../../stubs/message-node/descriptor.json"))?;
        std::fs::write(stub.join("component.wasm"), component("message-node"))?;
        let server = DomainServer::builder().folder(folder.path()).default_stub("message-node").start().await?;
        let other = Runtime::builder().home_domain(server.domain().as_str()).allow_loopback(true).build().await?;
        let asker = Arc::new(hyperty(runtime, &server).await?);
        let answerer = hyperty(&other, &server).await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(server, asker, answerer, stop.clone()));
        Ok(Self { stop, task, _folder: folder, other })
    }

    pub(crate) async fn end(self) -> Result<Sum> {
        self.stop.cancel();
        let mut sum = self.task.await??;
        sum.open = self.other.counts().open;
        Ok(sum)
    }
}

/// Registers a hyperty at an address that the server allocates.
async fn hyperty(runtime: &Runtime, server: &DomainServer) -> Result<Hyperty> {
    let node = format!("domain://msg-node.{}/address-allocation", server.domain());
    let request = Message::create(node.parse().unwrap()).with_body(json!({ "value": { "number": 1 } }));
    let body: Value = runtime.request(request).await?.body.context("a body")?.parse()?;
    let address = body["value"]["allocated"][0].as_str().context("an address")?.to_owned();
    Ok(runtime.register_hyperty(address).await?)
}

async fn run(server: DomainServer, asker: Arc<Hyperty>, mut answerer: Hyperty, stop: CancellationToken) -> Result<Sum> {
    let to = answerer.address().clone();
    let answering = tokio::spawn(async move {
        while let Some(message) = answerer.recv().await {
            let _ = answerer.post(message.response(200, None));
        }
    });
    let mut sum = Sum::default();
    let mut requests = JoinSet::new();
    let mut clock = interval(PERIOD);
    let times = AtomicU64::new(0);
    {
        let mut outages = pin!(outages(&server, &times));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ended = &mut outages => ended?,
                _ = clock.tick() => {
                    let (asker, message) = (Arc::clone(&asker), Message::read(to.clone()));
                    requests.spawn(async move {
                        timeout(2 * PATIENCE, asker.request_within(message, PATIENCE)).await
                    });
                }
                Some(ended) = requests.join_next() => sum.count(ended?),
            }
        }
    }
    server.start_again(Memory::Kept).await?;
    while let Some(ended) = requests.join_next().await {
        sum.count(ended?);
    }
    // Retries through any reconnect pause of the stubs.
    let recovery = async {
        while !matches!(asker.request_within(Message::read(to.clone()), PATIENCE).await, Ok(answer) if answer.code() == Some(200))
        {
            sleep(PERIOD).await;
        }
    };
    sum.recovered = timeout(RECOVERY, recovery).await.is_ok();
    sum.times = times.load(Ordering::Relaxed);
    answering.abort();
    Ok(sum)
}

/// Stops the server for some seconds and starts it, again and again.
async fn outages(server: &DomainServer, times: &AtomicU64) -> Result<()> {
    loop {
        sleep(Duration::from_millis(rand::random_range(STAYS))).await;
        server.stop().await?;
        sleep(Duration::from_millis(rand::random_range(IS_GONE))).await;
        server.start_again(Memory::Kept).await?;
        times.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sum {
    fn count(&mut self, outcome: Result<Result<Message, RequestError>, Elapsed>) {
        match outcome {
            Ok(Ok(answer)) if answer.code() == Some(200) => self.answered += 1,
            Ok(Ok(answer)) => *self.told.entry(answer.code().unwrap_or_default()).or_default() += 1,
            Ok(Err(error)) => *self.told.entry(error.code).or_default() += 1,
            Err(_) => self.without_outcome += 1,
        }
    }
}
