use std::{collections::HashMap, future::Future, pin::pin, sync::Arc, time::Duration};

use protostub_runtime::{Address, Domain, StatusUpdate, StubKey};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::broadcast::error::RecvError,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    actions,
    context::ServerContext,
    hangup::HangupWatch,
    protocol::{Change, Dropped, Request, Response, Status, Stub, Stubs},
    socket::{self, Socket},
};
use crate::failure::Failure;

/// Maximum length of a request, in bytes. No message in a stub's inbox is longer.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Maximum number of connected clients.
const MAX_CLIENTS: usize = 32;
/// Timeout for a silent client between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Timeout for a client to read a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, and timeout to refuse a client over the limit.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ServerContext {
    fn status(&self) -> Status {
        let (output, log) = &self.dropped;
        Status::of(&self.runtime, self.since, Dropped { output: output.dropped(), log: log.dropped() })
    }
}

/// Answers clients until `stop` is cancelled. No task of the server is left when the function
/// returns.
pub(crate) async fn serve(socket: Socket, context: ServerContext, stop: CancellationToken) {
    let context = Arc::new(context);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = clients.join_next() => {}
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) if !socket::is_trusted(&stream) => tracing::warn!("the control socket refused a process of another user"),
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => match HangupWatch::new(&stream) {
                    Ok(hangup) => {
                        clients.spawn(Connection::new(stream, Arc::clone(&context)).run(hangup));
                    }
                    Err(error) => tracing::warn!(%error, "the control socket failed to watch a client"),
                },
                Ok((stream, _)) => {
                    let mut client = Connection::new(stream, Arc::clone(&context));
                    let problem = Failure::failed(format!("the control socket has {MAX_CLIENTS} clients, its limit; disconnect one of them"));
                    // A new socket's buffer always has room for one line.
                    let _ = timeout(ACCEPT_PAUSE, client.send(&Response::Error(problem))).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket failed to accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    clients.shutdown().await;
}

/// A connection of one client.
struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    context: Arc<ServerContext>,
}

/// The client has disconnected, or does not read.
struct Disconnected;

/// The last change that a client got, for each stub.
type Told = HashMap<(Domain, Option<Address>), Change>;

impl Connection {
    fn new(stream: UnixStream, context: Arc<ServerContext>) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, context }
    }

    async fn run(mut self, hangup: HangupWatch) {
        while let Ok(Ok(line)) = timeout(IDLE_TIMEOUT, self.line()).await {
            let sent = match Request::read(&line) {
                Ok(Request::Follow { target }) => {
                    // Any input of the client ends the follow.
                    let _gone = self.follow(target, &hangup).await;
                    return;
                }
                // The answer is polled first, so that each request begins, even if its client has
                // hung up already. A deployment, an update and an undeployment then go on by
                // themselves.
                Ok(request) => tokio::select! {
                    biased;
                    sent = Box::pin(self.answer(request)) => sent,
                    () = hangup.hung_up() => Err(Disconnected),
                },
                Err(problem) => self.send(&Response::Error(problem)).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Reads the next line. After an error, or a line that is too long, the connection is unusable.
    async fn line(&mut self) -> Result<Vec<u8>, Disconnected> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX);
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) | Err(_) => Err(Disconnected),
            Ok(_) if line.len() >= MAX_REQUEST_BYTES && !line.ends_with(b"\n") => {
                let problem = Failure::wrong(format!("the request is too long: at most {MAX_REQUEST_BYTES} bytes are allowed"));
                let _ = self.send(&Response::Error(problem)).await;
                Err(Disconnected)
            }
            Ok(_) => Ok(line),
        }
    }

    async fn send(&mut self, response: &Response) -> Result<(), Disconnected> {
        match timeout(WRITE_TIMEOUT, self.writer.write_all(response.to_line().as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Disconnected),
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), Disconnected> {
        let context = Arc::clone(&self.context);
        let runtime = &context.runtime;
        let outcome = match request {
            Request::Deploy { target, progress } => {
                let deployment = actions::deploy(runtime, &target);
                self.with_progress(runtime.stub_key(&target).ok().filter(|_| progress), deployment).await?.and_then(to_json)
            }
            Request::Send(request) => {
                let key = runtime.stub_key(request.to.as_str()).ok().filter(|_| request.progress);
                self.with_progress(key, actions::send(runtime, request)).await?.and_then(to_json)
            }
            Request::Undeploy { target } => actions::undeploy(runtime, &target).await.and_then(to_json),
            Request::Update { target, check, progress } => {
                let key = runtime.stub_key(&target).ok().filter(|_| progress);
                let action = async {
                    if check {
                        actions::check_for_update(runtime, &target).await
                    } else {
                        actions::update(runtime, &target).await
                    }
                };
                self.with_progress(key, Box::pin(action)).await?.and_then(to_json)
            }
            Request::Accepted { target, reset } => actions::accepted(runtime, &target, reset).await.and_then(to_json),
            Request::Reload {} => actions::reload(runtime, context.policy.as_deref()).and_then(to_json),
            Request::List {} => to_json(Stubs { stubs: Stub::all(runtime) }),
            Request::Status { target: None } => to_json(context.status()),
            Request::Status { target: Some(target) } => {
                actions::find(runtime, &target).map(|stub| Stub::of(&stub)).and_then(to_json)
            }
            // `run` handles this request itself.
            Request::Follow { .. } => to_json(()),
        };
        let response = match outcome {
            Ok(result) => Response::Result { result },
            Err(error) => Response::Error(Failure::of(&error)),
        };
        self.send(&response).await
    }

    /// Sends the progress of the deployment of `key` while `action` runs.
    async fn with_progress<T>(&mut self, key: Option<StubKey>, action: impl Future<Output = T>) -> Result<T, Disconnected> {
        let Some(key) = key.map(|key| key.to_string()) else { return Ok(action.await) };
        let mut progress = self.context.progress.subscribe();
        let mut action = pin!(action);
        loop {
            tokio::select! {
                biased;
                outcome = &mut action => return Ok(outcome),
                update = progress.recv() => match update {
                    Ok(update) if update.key == key => self.send(&Response::Progress { progress: update }).await?,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(action.await),
                },
            }
        }
    }

    async fn follow(&mut self, target: Option<String>, hangup: &HangupWatch) -> Result<(), Disconnected> {
        let context = Arc::clone(&self.context);
        let mut changes = context.runtime.status_changes();
        let key = match target.map(|target| context.runtime.stub_key(&target)).transpose() {
            Ok(key) => key,
            Err(problem) => return self.send(&Response::Error(Failure::wrong(problem))).await,
        };
        let domain = key.as_ref().map(StubKey::domain);
        let status = match to_json(context.status()) {
            Ok(status) => status,
            Err(error) => return self.send(&Response::Error(Failure::of(&error))).await,
        };
        self.send(&Response::Result { result: status }).await?;
        // A change can be in the first listing and arrive as an event too.
        let mut told = Told::new();
        self.send_current(domain, &mut told).await?;
        let mut may_send_more = true;
        loop {
            let update = tokio::select! {
                biased;
                () = hangup.hung_up() => return Err(Disconnected),
                input = self.reader.fill_buf(), if may_send_more => match input {
                    // The client has closed its own direction, and still reads.
                    Ok([]) => {
                        may_send_more = false;
                        continue;
                    }
                    _ => return Ok(()),
                },
                update = changes.recv() => update,
            };
            match update {
                Some(StatusUpdate::Changed(change)) => self.send_change(change.into(), domain, &mut told).await?,
                // The client is too slow for each change: it gets their number, and the current
                // status of all stubs.
                Some(StatusUpdate::Missed { changes: missed }) => {
                    self.send(&Response::Missed { missed }).await?;
                    self.send_current(domain, &mut told).await?;
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Sends the current status of each stub.
    async fn send_current(&mut self, wanted: Option<&Domain>, told: &mut Told) -> Result<(), Disconnected> {
        for stub in Stub::all(&Arc::clone(&self.context).runtime) {
            self.send_change(stub.into(), wanted, told).await?;
        }
        Ok(())
    }

    async fn send_change(&mut self, change: Change, wanted: Option<&Domain>, told: &mut Told) -> Result<(), Disconnected> {
        if wanted.is_some_and(|domain| *domain != change.domain) {
            return Ok(());
        }
        let stub = (change.domain.clone(), change.stub.clone());
        let before = if change.status.is_available() { told.insert(stub, change.clone()) } else { told.remove(&stub) };
        let same = |before: &Change| before.status == change.status && before.reason == change.reason;
        if before.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.send(&Response::Status { status: change }).await
    }
}

fn to_json(value: impl Serialize) -> anyhow::Result<Box<RawValue>> {
    Ok(to_raw_value(&value)?)
}
