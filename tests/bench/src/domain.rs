//! A domain on loopback that publishes the echo in its catalogue. Also measures its parts of a
//! deployment alone.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use protostub_artifacts::component;
use protostub_domain::DomainServer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime::Handle,
};

/// A catalogue server with its own threads.
pub(crate) struct Domain {
    pub(crate) server: DomainServer,
    _folder: TempDir,
}

impl Domain {
    pub(crate) async fn serve(threads: &Handle) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for the catalogue")?;
        let stub = folder.path().join("echo");
        std::fs::create_dir(&stub)?;
        std::fs::write(stub.join("descriptor.json"), r#"{"version":"1.0"}"#)?;
        std::fs::write(stub.join("component.wasm"), component("batched-echo"))?;
        let starting = DomainServer::builder().folder(folder.path()).default_stub("echo").start();
        Ok(Self { server: threads.spawn(starting).await??, _folder: folder })
    }

    /// Connects a client that does as little as possible.
    pub(crate) fn connect(&self) -> impl Future<Output = Result<Connection>> + Send + use<> {
        let (address, authority) = (self.server.address(), self.server.authority());
        let request = format!("GET /.well-known/protostub/default HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Connection { stream: BufReader::new(stream), request })
        }
    }
}

/// A persistent HTTP connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    request: String,
}

impl Connection {
    /// Measures a request for the descriptor.
    pub(crate) async fn descriptor(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.stream.write_all(self.request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        ensure!(line.starts_with("HTTP/1.1 200"), "the catalogue answers {line:?}");
        let mut length = None;
        while line != "\r\n" {
            line.clear();
            ensure!(self.stream.read_line(&mut line).await? > 0, "the catalogue's answer ends in its head");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut body = vec![0; length.context("the catalogue's answer has no length")?];
        self.stream.read_exact(&mut body).await?;
        Ok(begun.elapsed())
    }
}
