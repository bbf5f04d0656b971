//! A client of the message node that writes and reads JSON.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use protostub_domain::DomainServer;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, protocol::CloseFrame},
};

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The runtime's URL.
    pub(crate) runtime: String,
    pub(crate) domain: String,
}

pub(crate) async fn server() -> DomainServer {
    DomainServer::builder().start().await.unwrap()
}

/// Returns a connection without a session.
pub(crate) async fn connect(server: &DomainServer, runtime: &str) -> Client {
    let url = format!("ws://{}/ws", server.address());
    let (socket, _) = connect_async(url).await.unwrap();
    Client { socket, runtime: runtime.to_owned(), domain: server.domain().to_string() }
}

/// Returns a client with a session for `runtime://home.example/<name>`, and the session's token.
pub(crate) async fn open(server: &DomainServer, name: &str) -> (Client, String) {
    let mut client = connect(server, &format!("runtime://home.example/{name}")).await;
    let runtime = client.runtime.clone();
    let answer = client.ask(json!({ "id": 1, "type": "open", "from": runtime, "to": "mn:/session" })).await;
    assert_eq!(answer["body"]["code"], 200, "{answer}");
    let token = answer["body"]["runtimeToken"].as_str().unwrap().to_owned();
    (client, token)
}

pub(crate) async fn nomatrix(server: &DomainServer, name: &str) -> Client {
    let runtime = format!("runtime://home.example/{name}");
    let url = format!("ws://{}/stub/connect?runtimeURL=runtime%3A%2F%2Fhome.example%2F{name}", server.address());
    let (socket, _) = connect_async(url).await.unwrap();
    Client { socket, runtime, domain: server.domain().to_string() }
}

impl Client {
    pub(crate) async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Returns the next frame of the socket, unchanged.
    pub(crate) async fn raw(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(Duration::from_secs(10), self.socket.next())
            .await
            .expect("the socket should get a frame within 10 s")
    }

    pub(crate) async fn next(&mut self) -> Value {
        loop {
            match self.raw().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?} instead of a message"),
            }
        }
    }

    /// Returns the close frame. `None` if the connection ended without one.
    pub(crate) async fn closed(&mut self) -> Option<Option<CloseFrame>> {
        loop {
            match self.raw().await {
                Some(Ok(Message::Close(frame))) => return Some(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(crate) async fn ask(&mut self, message: Value) -> Value {
        let (id, from, to) = (message["id"].clone(), message["from"].clone(), message["to"].clone());
        self.send(message).await;
        let answer = self.next().await;
        assert_eq!((&answer["id"], &answer["type"]), (&id, &json!("response")), "{answer}");
        assert_eq!((&answer["from"], &answer["to"]), (&to, &from), "{answer}");
        answer
    }

    /// Returns the body of the answer to a message from the runtime itself.
    pub(crate) async fn ask_node(&mut self, kind: &str, function: &str, body: Value) -> Value {
        let to = format!("domain://msg-node.{}/{function}", self.domain);
        let from = self.runtime.clone();
        self.ask(json!({ "id": 7, "type": kind, "from": from, "to": to, "body": body })).await["body"].take()
    }

    pub(crate) async fn ask_registry(&mut self, kind: &str, body: Value) -> Value {
        let to = format!("domain://registry.{}", self.domain);
        let from = format!("{}/registry", self.runtime);
        self.ask(json!({ "id": 8, "type": kind, "from": from, "to": to, "body": body })).await["body"].take()
    }

    pub(crate) async fn allocate(&mut self) -> String {
        let body = self.ask_node("create", "address-allocation", json!({ "value": { "number": 1 } })).await;
        body["value"]["allocated"][0].as_str().unwrap().to_owned()
    }

    /// Asserts that this client has no further message: the node answers in order.
    pub(crate) async fn assert_no_message(&mut self) {
        self.send(json!({ "id": "fence", "type": "fence", "from": self.runtime, "to": "mn:/session" })).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], "fence", "{answer}");
    }
}
