//! The same gateway twice: the message node's stub, and a native one with tokio-tungstenite. Both
//! connect the same bus to a real server on loopback, which answers each frame with a frame to the
//! listener.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use protostub_artifacts::component;
use protostub_runtime::{Address, Body, Hyperty, Message, Runtime};
use serde_json::{Map, Value, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_tungstenite::{accept_async, connect_async, tungstenite};

use crate::{
    live::{Everywhere, builder, inside, limits},
    workload::message,
};

/// Number of messages in flight.
const WINDOW: u32 = 256;

/// A server, and both gateways to it.
pub(crate) struct Gateways {
    runtime: Runtime,
    listener: Arc<Mutex<Hyperty>>,
    /// Address of the stub.
    stub: Address,
    /// Address of the native gateway.
    native: Address,
    bytes: usize,
}

impl Gateways {
    /// Sets up gateways for messages with bodies of `bytes` bytes.
    pub(crate) async fn new(bytes: usize) -> Result<Self> {
        let from = Address::parse("hyperty://home.example/gateway")?;
        let native = Address::parse("hyperty://home.example/native")?;
        // The server sends the body as the message node would forward it.
        let (stub, server) = serve(&from, bytes)?;
        let mut configuration = Map::new();
        configuration.insert("url".to_owned(), Value::from(format!("ws://{server}/ws")));
        configuration.insert("flavour".to_owned(), Value::from("nomatrix"));
        let source = Everywhere::new(component("message-node"), configuration)?;
        let mut limits = limits();
        limits.inbox_bytes = 64 << 20;
        let runtime = builder(source).limits(limits).build().await?;
        runtime.deploy_protostub(&server.to_string()).await?;
        let gateway = runtime.register_hyperty(native.clone()).await?;
        let (socket, _) = connect_async(format!("ws://{server}/ws")).await?;
        if let tokio_tungstenite::MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_nodelay(true)?;
        }
        runtime.spawn_inside(native_gateway(gateway, socket));
        let listener = Arc::new(Mutex::new(runtime.register_hyperty(from).await?));
        Ok(Self { runtime, listener, stub, native, bytes })
    }

    /// Measures the time of `count` messages through the stub to the server, and as many back.
    pub(crate) async fn stub(&self, count: u32) -> Result<Duration> {
        self.flow(self.stub.clone(), count).await
    }

    /// Measures the same through the native gateway.
    pub(crate) async fn native(&self, count: u32) -> Result<Duration> {
        self.flow(self.native.clone(), count).await
    }

    async fn flow(&self, to: Address, count: u32) -> Result<Duration> {
        let (listener, bytes) = (Arc::clone(&self.listener), self.bytes);
        inside(&self.runtime, async move {
            let mut listener = listener.lock().await;
            let message = message(listener.address(), &to, bytes);
            let begun = Instant::now();
            let (mut sent, mut received) = (0, 0);
            while received < count {
                while sent < count && sent - received < WINDOW {
                    listener.post(message.clone())?;
                    sent += 1;
                }
                let back = listener.recv().await.context("the runtime ended")?;
                ensure!(back.kind == message.kind, "the reply is not from the server: {back:?}");
                received += 1;
            }
            Ok(begun.elapsed())
        })
        .await
    }
}

/// Forwards between its inbox and a websocket: one JSON message per frame, with its mark in `via`.
/// Writes all waiting messages at once.
async fn native_gateway<S>(mut gateway: Hyperty, socket: tokio_tungstenite::WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let own = gateway.address().clone();
    let (mut frames_out, mut frames_in) = socket.split();
    loop {
        tokio::select! {
            message = gateway.recv() => {
                let Some(message) = message else { return };
                let mut next = Some(message);
                while let Some(mut message) = next {
                    message.via.push(own.clone());
                    mark(&mut message, &own);
                    let Ok(text) = message.to_json() else { return };
                    if frames_out.feed(tungstenite::Message::text(text)).await.is_err() {
                        return;
                    }
                    next = gateway.recv().now_or_never().flatten();
                }
                if frames_out.flush().await.is_err() {
                    return;
                }
            }
            frame = frames_in.next() => {
                let Some(Ok(tungstenite::Message::Text(text))) = frame else { return };
                let Ok(messages) = Message::from_json(&text) else { return };
                for mut message in messages {
                    mark(&mut message, &own);
                    if gateway.post(message).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Adds the mark against loops that the message nodes check and write: `body.via`.
fn mark(message: &mut Message, via: &Address) {
    let Some(Body::Json(text)) = &message.body else { return };
    let Ok(mut members) = serde_json::from_str::<BTreeMap<&str, &RawValue>>(text) else { return };
    let Ok(via) = serde_json::value::to_raw_value(via) else { return };
    members.insert("via", &via);
    if let Ok(text) = serde_json::to_string(&members) {
        message.body = Some(Body::Json(text.into()));
    }
}

/// Starts a server with its own thread. Returns the address of its messages' sender, and the
/// server's socket address.
fn serve(to: &Address, bytes: usize) -> Result<(Address, SocketAddr)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let server = listener.local_addr()?;
    let from = Address::parse(&format!("hyperty://{server}/alice"))?;
    let answer = message(&from, to, bytes).to_json()?;
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("server".to_owned()).spawn(move || {
        own.block_on(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_all(stream, answer.clone()));
            }
        });
    })?;
    Ok((from, server))
}

/// Answers each text with one. Writes the answers to all texts of one read at once.
async fn answer_all(stream: TcpStream, answer: String) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    let answer = tungstenite::Message::text(answer);
    while let Some(frame) = socket.next().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            if frame?.is_text() {
                socket.feed(answer.clone()).await?;
            }
            next = socket.next().now_or_never().flatten();
        }
        socket.flush().await?;
    }
    Ok(())
}
