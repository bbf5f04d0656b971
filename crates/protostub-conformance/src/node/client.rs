//! A client of the message node, in the place of a runtime's stub.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};
use uuid::Uuid;

use super::Node;
use crate::{
    Verdict,
    case::{CaseResult, expect},
};

/// Time limit for an answer of the message node.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) const SESSION: &str = "mn:/session";

pub(super) struct Client<'a> {
    node: &'a Node,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The runtime's URL.
    pub(super) runtime: String,
    pub(super) token: String,
    next_id: u64,
}

impl<'a> Client<'a> {
    /// Connects without a session.
    pub(super) async fn connect(node: &'a Node, runtime: &str) -> CaseResult<Self> {
        let connected = timeout(ANSWER, connect_async(&node.url)).await;
        let connected = connected.map_err(|elapsed| elapsed.to_string()).and_then(|done| done.map_err(|error| error.to_string()));
        let (socket, _) = connected.map_err(|problem| Verdict::fail(format!("a WebSocket at {}", node.url), problem))?;
        Ok(Self { node, socket, runtime: runtime.to_owned(), token: String::new(), next_id: 1 })
    }

    /// Connects and opens a session for a new runtime. If that fails, the case does not apply,
    /// because `node/connect/open` checks it.
    pub(super) async fn open(node: &'a Node) -> CaseResult<Self> {
        let mut client = Self::connect(node, &format!("runtime://home.example/{}", Uuid::new_v4())).await?;
        let answer = client.session("open", &client.runtime.clone()).await?;
        match answer["body"]["runtimeToken"].as_str() {
            Some(token) if answer["body"]["code"] == 200 => token.clone_into(&mut client.token),
            _ => return Err(Verdict::not_applicable(format!("no session is opened ({answer}): see node/connect/open"))),
        }
        Ok(client)
    }

    /// Sends a session message, and returns its answer.
    pub(super) async fn session(&mut self, what: &str, from: &str) -> CaseResult<Value> {
        self.ask(what, from, SESSION, None).await
    }

    /// Allocates an address. If that fails, the case does not apply, because `node/allocation`
    /// checks it.
    pub(super) async fn allocate(&mut self) -> CaseResult<String> {
        let answer = self.ask_node("create", "address-allocation", json!({ "value": { "number": 1 } })).await?;
        let address = answer["value"]["allocated"][0].as_str().map(str::to_owned);
        address.ok_or_else(|| Verdict::not_applicable(format!("no address is allocated ({answer}): see node/allocation")))
    }

    /// Sends a request to a function of the node, and returns the body of the answer.
    pub(super) async fn ask_node(&mut self, kind: &str, function: &str, body: Value) -> CaseResult<Value> {
        let from = self.runtime.clone();
        Ok(self.ask(kind, &from, &self.node.function(function), Some(body)).await?["body"].take())
    }

    /// Sends a request to the domain's registry, and returns the body of the answer.
    pub(super) async fn ask_registry(&mut self, kind: &str, body: Value) -> CaseResult<Value> {
        let (from, to) = (format!("{}/registry", self.runtime), format!("domain://registry.{}", self.node.domain));
        Ok(self.ask(kind, &from, &to, Some(body)).await?["body"].take())
    }

    /// Sends a request, and waits for its response. Drops other messages.
    pub(super) async fn ask(&mut self, kind: &str, from: &str, to: &str, body: Option<Value>) -> CaseResult<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "id": id, "type": kind, "from": from, "to": to });
        if let Some(body) = body {
            message["body"] = body;
        }
        self.send(message.clone()).await?;
        let expected = format!("a response to {message}");
        loop {
            let answer = self.next(&expected).await?;
            if answer["type"] == "response" && answer["id"] == id {
                expect(answer["to"] == from, &expected, || answer.to_string())?;
                return Ok(answer);
            }
        }
    }

    pub(super) async fn send(&mut self, message: Value) -> CaseResult<()> {
        let text = message.to_string();
        let sent = self.socket.send(Message::text(text)).await;
        sent.map_err(|error| Verdict::fail(format!("a connection that takes {message}"), error.to_string()))
    }

    /// Waits for the next message.
    pub(super) async fn next(&mut self, expected: &str) -> CaseResult<Value> {
        let fail = |observed: String| Verdict::fail(expected, observed);
        loop {
            let frame =
                timeout(ANSWER, self.socket.next()).await.map_err(|_| fail(format!("no message in {} s", ANSWER.as_secs())))?;
            match frame {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|error| fail(format!("{error}: {text}")));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => return Err(fail(format!("{other:?}"))),
                Some(Err(error)) => return Err(fail(error.to_string())),
                None => return Err(fail("the connection was closed".to_owned())),
            }
        }
    }

    /// Waits until the node closes the connection.
    pub(super) async fn closed(&mut self, expected: &str) -> CaseResult<Option<CloseFrame>> {
        loop {
            let frame = timeout(ANSWER, self.socket.next()).await;
            match frame.map_err(|_| Verdict::fail(expected, format!("no end in {} s", ANSWER.as_secs())))? {
                Some(Ok(Message::Close(frame))) => return Ok(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// Fails if a message has arrived. Sends a message to itself, which must be the next one to
    /// arrive.
    pub(super) async fn expect_silence(&mut self, expected: &str) -> CaseResult<()> {
        let fence = format!("fence-{}", Uuid::new_v4());
        let to = format!("{}/fence", self.runtime);
        self.send(json!({ "id": fence, "type": "ping", "from": self.runtime, "to": to })).await?;
        let next = self.next(expected).await?;
        expect(next["id"] == fence.as_str(), expected, || next.to_string())
    }
}

/// Fails unless the answer has code 200.
pub(super) fn is_ok(answer: &Value, expected: &str) -> CaseResult<()> {
    expect(answer["code"] == 200, expected, || answer.to_string())
}
