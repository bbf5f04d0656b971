//! A client of the control socket.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

/// Time limit for an answer: longer than the timeout of any request.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to the control socket.
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

/// The connection ended before the answer.
#[derive(Debug)]
pub(crate) struct Closed;

impl Control {
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Closed> {
        let stream = UnixStream::connect(socket).await.map_err(|_| Closed)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request, and returns the answer, or `None` if the runtime does not answer in time.
    pub(crate) async fn ask(&mut self, request: &Value) -> Option<Result<Value, Closed>> {
        let line = format!("{request}\n");
        if self.stream.get_mut().write_all(line.as_bytes()).await.is_err() {
            return Some(Err(Closed));
        }
        let mut answer = String::new();
        let read = timeout(ANSWER, self.stream.read_line(&mut answer)).await.ok()?;
        Some(match read {
            Ok(_) if answer.ends_with('\n') => serde_json::from_str(&answer).map_err(|_| Closed),
            _ => Err(Closed),
        })
    }

    /// Closes the client's direction, and checks that no further answer follows.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stream.get_mut().shutdown().await?;
        let mut rest = String::new();
        timeout(ANSWER, self.stream.read_line(&mut rest)).await.context("the control socket does not close")??;
        ensure!(rest.is_empty(), "a client got one more answer than it sent requests: {rest}");
        Ok(())
    }
}
