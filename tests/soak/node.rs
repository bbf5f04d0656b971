//! A message node that goes and comes back, and requests through it all the time.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use hostile::component;
use protostub_domain::{DomainServer, Memory};
use protostub_runtime::{Hyperty, Message, RequestError, Runtime};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{error::Elapsed, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often something is asked through the server.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a request may wait: longer than any outage.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) times: u64,
    pub(crate) answered: u64,
    /// They had an error response, by the host: the server was gone, say.
    pub(crate) told: u64,
    pub(crate) without_outcome: u64,
}

/// Requests, and the server between those who ask and those who answer.
pub(crate) struct Outages {
    stop: CancellationToken,
    task: JoinHandle<Result<Sum>>,
    _folder: TempDir,
    /// Who answers: another runtime.
    _other: Runtime,
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
        Ok(Self { stop, task, _folder: folder, _other: other })
    }

    pub(crate) async fn end(self) -> Result<Sum> {
        self.stop.cancel();
        self.task.await?
    }
}

/// A hyperty at an address that the server allocates.
async fn hyperty(runtime: &Runtime, server: &DomainServer) -> Result<Hyperty> {
    let node = format!("domain://msg-node.{}/address-allocation", server.domain());
    let request = Message::create(node.as_str()).with_body(json!({ "value": { "number": 1 } }));
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
    sum.times = times.load(Ordering::Relaxed);
    answering.abort();
    Ok(sum)
}

/// The server goes for some seconds, and comes back, again and again.
async fn outages(server: &DomainServer, times: &AtomicU64) -> Result<()> {
    loop {
        sleep(Duration::from_millis(rand::random_range(10_000..30_000))).await;
        server.stop().await?;
        sleep(Duration::from_millis(rand::random_range(500..4_000))).await;
        server.start_again(Memory::Kept).await?;
        times.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sum {
    fn count(&mut self, outcome: Result<Result<Message, RequestError>, Elapsed>) {
        match outcome {
            Ok(Ok(answer)) if answer.code() == Some(200) => self.answered += 1,
            Ok(_) => self.told += 1,
            Err(_) => self.without_outcome += 1,
        }
    }
}
