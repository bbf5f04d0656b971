use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use protostub_runtime::{Address, Domain, Runtime, StubKey};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    actions,
    protocol::{Change, Doing, Dropped, Request, Response, Status, Stub, Stubs},
    socket::{self, Socket},
};
use crate::{output::Failure, printer::Counts};

/// How long a request may be, in bytes: no message of a stub's inbox is longer.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// How many clients may be connected at a time.
const MAX_CLIENTS: usize = 32;
/// How long a client may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// What the clients of a runtime share.
pub(crate) struct Served {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) since: SystemTime,
    /// The file of its policies.
    pub(crate) policy: Option<PathBuf>,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) progress: broadcast::Sender<Doing>,
    /// Counts of the lines that were not printed, and of those that were not logged.
    pub(crate) dropped: (Arc<Counts>, Arc<Counts>),
}

impl Served {
    fn status(&self) -> Status {
        let (output, log) = &self.dropped;
        Status::of(&self.runtime, self.since, Dropped { output: output.dropped(), log: log.dropped() })
    }
}

/// Answers clients until it is told to stop. Nothing of it is left when it returns.
pub(crate) async fn serve(socket: Socket, served: Served, stop: CancellationToken) {
    let served = Arc::new(served);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = clients.join_next() => {}
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) if !socket::is_trusted(&stream) => tracing::warn!("another user's process was refused at the control socket"),
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                    clients.spawn(Client::new(stream, Arc::clone(&served)).run());
                }
                Ok((stream, _)) => {
                    let mut client = Client::new(stream, Arc::clone(&served));
                    let problem = Failure::failed(format!("{MAX_CLIENTS} clients are connected already, and no more may be"));
                    // One line always has room in a new socket's buffer.
                    let _ = timeout(NO_ROOM, client.tell(&Response::Error(problem))).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted at the control socket");
                    tokio::time::sleep(NO_ROOM).await;
                }
            },
        }
    }
    clients.shutdown().await;
}

/// One connection.
struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    served: Arc<Served>,
}

/// The client is no longer there, or does not read.
struct Gone;

impl Client {
    fn new(stream: UnixStream, served: Arc<Served>) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, served }
    }

    async fn run(mut self) {
        while let Ok(Ok(line)) = timeout(IDLE, self.line()).await {
            let told = match Request::read(&line) {
                Ok(Request::Follow { target }) => {
                    // Ended by whatever comes from the client.
                    let _gone = self.follow(target).await;
                    return;
                }
                Ok(request) => Box::pin(self.answer(request)).await,
                Err(problem) => self.tell(&Response::Error(problem)).await,
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// The next line. The connection is of no use after an error, or a line that is too long.
    async fn line(&mut self) -> Result<Vec<u8>, Gone> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX);
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) | Err(_) => Err(Gone),
            Ok(_) if line.len() >= MAX_REQUEST_BYTES && !line.ends_with(b"\n") => {
                let problem = Failure::wrong(format!("a request is at most {MAX_REQUEST_BYTES} bytes long"));
                let _ = self.tell(&Response::Error(problem)).await;
                Err(Gone)
            }
            Ok(_) => Ok(line),
        }
    }

    async fn tell(&mut self, response: &Response) -> Result<(), Gone> {
        match timeout(PATIENCE, self.writer.write_all(response.to_line().as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), Gone> {
        let served = Arc::clone(&self.served);
        let runtime = &served.runtime;
        let outcome = match request {
            Request::Deploy { target, progress } => {
                let deployment = actions::deploy(runtime, &target);
                self.with_progress(runtime.stub_key(&target).ok().filter(|_| progress), deployment).await?.and_then(to_json)
            }
            Request::Send(letter) => {
                let key = runtime.stub_key(letter.to.as_str()).ok().filter(|_| letter.progress);
                self.with_progress(key, actions::send(runtime, letter)).await?.and_then(to_json)
            }
            Request::Undeploy { target } => actions::undeploy(runtime, &target).await.and_then(to_json),
            Request::Update { target, check, progress } => {
                let key = runtime.stub_key(&target).ok().filter(|_| progress);
                self.with_progress(key, Box::pin(actions::update(runtime, &target, check))).await?.and_then(to_json)
            }
            Request::Reload {} => actions::reload(runtime, served.policy.as_deref()).and_then(to_json),
            Request::List {} => to_json(Stubs { stubs: Stub::all(runtime) }),
            Request::Status { target: None } => to_json(served.status()),
            Request::Status { target: Some(target) } => {
                actions::find(runtime, &target).map(|stub| Stub::of(&stub)).and_then(to_json)
            }
            // Taken care of before.
            Request::Follow { .. } => to_json(()),
        };
        let response = match outcome {
            Ok(result) => Response::Result { result },
            Err(error) => Response::Error(Failure::of(&error)),
        };
        self.tell(&response).await
    }

    /// Tells how the deployment of `key` goes on while `action` does.
    async fn with_progress<T>(&mut self, key: Option<StubKey>, action: impl Future<Output = T>) -> Result<T, Gone> {
        let Some(key) = key.map(|key| key.to_string()) else { return Ok(action.await) };
        let mut progress = self.served.progress.subscribe();
        let mut action = pin!(action);
        loop {
            tokio::select! {
                biased;
                outcome = &mut action => return Ok(outcome),
                news = progress.recv() => match news {
                    Ok(doing) if doing.key == key => self.tell(&Response::Progress { progress: doing }).await?,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(action.await),
                },
            }
        }
    }

    async fn follow(&mut self, target: Option<String>) -> Result<(), Gone> {
        let served = Arc::clone(&self.served);
        let mut changes = served.changes.subscribe();
        let key = match target.map(|target| served.runtime.stub_key(&target)).transpose() {
            Ok(key) => key,
            Err(problem) => return self.tell(&Response::Error(Failure::wrong(problem))).await,
        };
        let domain = key.as_ref().map(StubKey::domain);
        let status = match to_json(served.status()) {
            Ok(status) => status,
            Err(error) => return self.tell(&Response::Error(Failure::of(&error))).await,
        };
        self.tell(&Response::Result { result: status }).await?;
        // What was told of each stub: a change may be in the first listing, and be heard of once more.
        let mut told = HashMap::new();
        for stub in Stub::all(&served.runtime) {
            self.tell_change(stub.into(), domain, &mut told).await?;
        }
        loop {
            let change = tokio::select! {
                biased;
                _ = self.reader.fill_buf() => return Ok(()),
                change = changes.recv() => change,
            };
            match change {
                Ok(change) => self.tell_change(change, domain, &mut told).await?,
                // Too slow for each of them: what holds now is told instead.
                Err(RecvError::Lagged(_)) => {
                    for stub in Stub::all(&served.runtime) {
                        self.tell_change(stub.into(), domain, &mut told).await?;
                    }
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn tell_change(
        &mut self,
        change: Change,
        wanted: Option<&Domain>,
        told: &mut HashMap<(Domain, Option<Address>), Change>,
    ) -> Result<(), Gone> {
        if wanted.is_some_and(|domain| *domain != change.domain) {
            return Ok(());
        }
        let stub = (change.domain.clone(), change.stub.clone());
        let before = if change.status.is_available() { told.insert(stub, change.clone()) } else { told.remove(&stub) };
        let same = |before: &Change| before.status == change.status && before.reason == change.reason;
        if before.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.tell(&Response::Status { status: change }).await
    }
}

fn to_json(value: impl Serialize) -> anyhow::Result<Box<RawValue>> {
    Ok(to_raw_value(&value)?)
}
