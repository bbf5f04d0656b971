use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use super::{
    protocol::{DeploymentProgress, Request, Response, Status},
    socket,
};
use crate::{event::Event, failure::Failure};

/// Maximum length of an answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// A connection to a running runtime.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the runtime that listens at `path`. Rejects a process of another user, which
    /// could read the requests and answer as it likes.
    pub(crate) async fn connect(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(|error| {
            let path = path.display();
            Failure::no_runtime(format!("no runtime listens at {path}: {error}; start one with `protostub run --socket {path}`"))
        })?;
        if !socket::is_trusted(&stream) {
            let owner = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |peer| peer.uid().to_string());
            return Err(Failure::usage(format!(
                "failed to ask the runtime at {}: its process belongs to another user (id {owner}); name a socket of your own \
                 with --socket, or run the command as that user",
                path.display()
            )));
        }
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Connects to the only runtime of this user at the default place. Returns `None` if no runtime
    /// is running. Fails if several are running.
    pub(crate) async fn find() -> anyhow::Result<Option<Self>> {
        let mut found = socket::listening().await?;
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop().map(|(path, stream)| Self { stream: BufReader::new(stream), path })),
            several => {
                let paths: Vec<_> = found.iter().map(|(path, _)| path.display().to_string()).collect();
                let paths = paths.join(", ");
                Err(Failure::usage(format!("{several} runtimes are running; select one with --socket, from {paths}")))
            }
        }
    }

    /// Sends a request, passes its progress to `progress`, and waits for the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        mut progress: impl FnMut(DeploymentProgress),
    ) -> anyhow::Result<T> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // If the write fails, the runtime may still have sent the reason.
        let _written = self.stream.write_all(&line).await;
        loop {
            match self.receive().await? {
                Some(Response::Result { result }) => return serde_json::from_str(result.get()).with_context(|| self.garbled()),
                Some(Response::Error(failure)) => return Err(failure.into()),
                Some(Response::Progress { progress: step }) => progress(step),
                Some(Response::Status { .. } | Response::Missed { .. }) => {}
                None => {
                    return Err(Failure::no_runtime(format!("the runtime at {} ended before it answered", self.path.display())));
                }
            }
        }
    }

    /// Starts to follow the status changes of stubs.
    pub(crate) async fn follow(&mut self, target: Option<String>) -> anyhow::Result<Status> {
        self.ask(&Request::Follow { target }, |_| {}).await
    }

    /// Waits for the next status change, and returns its event. Returns `None` when the runtime has
    /// ended.
    pub(crate) async fn change(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            match self.receive().await? {
                Some(Response::Status { status: change }) => return Ok(Some(Event::Status(change))),
                Some(Response::Missed { missed: changes }) => return Ok(Some(Event::Missed { changes })),
                Some(Response::Error(failure)) => return Err(failure.into()),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    async fn receive(&mut self) -> anyhow::Result<Option<Response>> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) | Err(_) => Ok(None),
            // The runtime was killed during the write.
            Ok(_) if !line.ends_with(b"\n") => Ok(None),
            Ok(_) => Response::read(&line).map(Some).with_context(|| self.garbled()),
        }
    }

    fn garbled(&self) -> String {
        format!("failed to read an answer of the runtime at {} (is it another version of protostub?)", self.path.display())
    }
}
