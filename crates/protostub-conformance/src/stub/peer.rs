//! A client of the message node that receives the stub's messages, and answers them.

use futures_util::{SinkExt as _, StreamExt as _};
use protostub_domain::DomainServer;
use protostub_types::MessageType;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use tokio_util::task::AbortOnDropHandle;

const RUNTIME: &str = "runtime://peer.example/1";
/// Number of messages that may wait to be sent.
const QUEUE: usize = 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client of the message node with one address. It answers each request with its body.
pub(crate) struct Peer {
    pub(crate) address: String,
    heard: watch::Receiver<Vec<Value>>,
    outbox: mpsc::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl Peer {
    pub(crate) async fn new(server: &DomainServer) -> Result<Self, String> {
        let (mut socket, _) = connect_async(format!("ws://{}/ws", server.address())).await.map_err(|error| error.to_string())?;
        ask(&mut socket, json!({ "id": 1, "type": "open", "from": RUNTIME, "to": "mn:/session" })).await?;
        let allocation = format!("domain://msg-node.{}/address-allocation", server.domain());
        let wish = json!({ "id": 2, "type": "create", "from": RUNTIME, "to": allocation, "body": { "value": { "number": 1 } } });
        let answer = ask(&mut socket, wish).await?;
        let address = answer["body"]["value"]["allocated"][0].as_str().ok_or_else(|| answer.to_string())?.to_owned();
        let (told, heard) = watch::channel(Vec::new());
        let (outbox, queue) = mpsc::channel(QUEUE);
        let task = AbortOnDropHandle::new(tokio::spawn(live(socket, told, queue)));
        Ok(Self { address, heard, outbox, _task: task })
    }

    /// Sends a message in the peer's name.
    pub(crate) async fn send(&self, id: u64, kind: &str, to: &str, body: Value) {
        // If the task has ended, the expected answer never arrives, and the case reports that.
        let message = json!({ "id": id, "type": kind, "from": self.address, "to": to, "body": body });
        let _ = self.outbox.send(message.to_string()).await;
    }

    /// Waits until `count` messages have arrived. Returns all messages, in order.
    pub(crate) async fn heard(&self, count: usize) -> Vec<Value> {
        let mut heard = self.heard.clone();
        heard.wait_for(|all| all.len() >= count).await.map(|all| all.clone()).unwrap_or_default()
    }

    /// Returns the messages that have arrived until now.
    pub(crate) fn heard_so_far(&self) -> Vec<Value> {
        self.heard.borrow().clone()
    }
}

/// The parts of a message that an answer needs. The body may be nested to any depth.
#[derive(Deserialize)]
struct Heard<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(rename = "type")]
    kind: String,
    from: String,
    to: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

async fn live(mut socket: Socket, told: watch::Sender<Vec<Value>>, mut queue: mpsc::Receiver<String>) {
    loop {
        let out = tokio::select! {
            Some(message) = queue.recv() => Some(message),
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    let answer = serde_json::from_str::<Heard<'_>>(&text).ok().and_then(|heard| heard.answer());
                    // A message that is nested too deep counts as `null`.
                    told.send_modify(|all| all.push(serde_json::from_str(&text).unwrap_or_default()));
                    answer
                }
                Some(Ok(_)) => None,
                Some(Err(_)) | None => return,
            },
        };
        if let Some(out) = out
            && socket.send(Message::text(out)).await.is_err()
        {
            return;
        }
    }
}

impl Heard<'_> {
    /// Returns the response with the request's body, or `None` if the message is not a request.
    fn answer(&self) -> Option<String> {
        use MessageType::{Create, Delete, Execute, Read, Subscribe, Unsubscribe};
        let kind: MessageType = self.kind.parse().ok()?;
        if !matches!(kind, Create | Delete | Execute | Read | Subscribe | Unsubscribe) {
            return None;
        }
        let (from, to) = (Value::from(self.to.as_str()), Value::from(self.from.as_str()));
        let body = self.body.map_or("null", RawValue::get);
        Some(format!(r#"{{"id":{},"type":"response","from":{from},"to":{to},"body":{{"code":200,"value":{body}}}}}"#, self.id))
    }
}

async fn ask(socket: &mut Socket, message: Value) -> Result<Value, String> {
    socket.send(Message::text(message.to_string())).await.map_err(|error| error.to_string())?;
    while let Some(frame) = socket.next().await {
        if let Message::Text(text) = frame.map_err(|error| error.to_string())? {
            return serde_json::from_str(&text).map_err(|error| error.to_string());
        }
    }
    Err("the message node closed the connection".to_owned())
}
