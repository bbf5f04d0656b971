//! `dev-msg-node-vertx`. A runtime opens a session with the message node and gets a token. With
//! `<runtimeURL>/<token>` it resumes the session over another connection, with its addresses and
//! subscriptions.

use std::time::Duration;

use protostub_sdk::{
    DisconnectReason, Error, Message, MessageType, Result, Stub, log, session,
    time::timeout,
    websocket::{CloseReason, WebSocket},
};
use serde::{Deserialize, Serialize};

use crate::{config::Config, is_taken_up_again, open, traffic::Traffic};

/// Address of the message node's session messages.
const SESSION: &str = "mn:/session";
/// Time that the message node has to answer a session message.
const ANSWER: Duration = Duration::from_secs(3);
/// Time that the message node has to close the connection after the session was closed.
const CLOSE: Duration = Duration::from_secs(2);

/// The session that the next connection, or the next instance, resumes.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    runtime_url: String,
    token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reply {
    code: u16,
    runtime_token: Option<String>,
    desc: Option<String>,
    /// The same text under the name that later message nodes use; some send both.
    description: Option<String>,
}

pub(crate) async fn run(stub: &Stub, config: &Config) -> Result<()> {
    let socket = open(stub, &config.url).await?;
    let traffic = Traffic::new(stub, &socket);
    let session_url = begin(stub, &socket, &traffic).await?;
    stub.live();
    match traffic.flow().await {
        Error::Disconnect(reason) => {
            let how = end(reason, &socket, &traffic, &session_url).await;
            stub.disconnected(how.meaning());
            Ok(())
        }
        broke => Err(broke),
    }
}

/// Resumes the session, or opens one. Returns the session's URL.
async fn begin(stub: &Stub, socket: &WebSocket, traffic: &Traffic<'_>) -> Result<String> {
    let runtime_url = stub.runtime_url();
    if let Some(saved) = session::load_json::<Saved>().filter(|saved| saved.runtime_url == runtime_url) {
        let session_url = format!("{runtime_url}/{}", saved.token);
        let reply = ask(socket, traffic, "re-open", &session_url, 1).await?;
        if reply.code == 200 {
            return Ok(session_url);
        }
        log::info!("the session is lost ({}); opening a new one", reply.reason());
        session::forget();
    }
    let reply = ask(socket, traffic, "open", runtime_url, 2).await?;
    match reply.runtime_token {
        _ if reply.code != 200 => Err(Error::failed(reply.reason())),
        Some(token) => {
            let session_url = format!("{runtime_url}/{token}");
            session::save_json(&Saved { runtime_url: runtime_url.to_owned(), token })?;
            Ok(session_url)
        }
        // Older message nodes know no tokens: the session cannot be resumed.
        None => Ok(runtime_url.to_owned()),
    }
}

/// Sends a session message, and waits for its answer. Other messages that arrive meanwhile go to
/// the bus.
async fn ask(socket: &WebSocket, traffic: &Traffic<'_>, what: &str, from: &str, id: u64) -> Result<Reply> {
    let request = Message::new(MessageType::from(what), SESSION).with_from(from).with_id(id);
    socket.send_text(request.to_json()?).await?;
    let answer = async {
        loop {
            let frame = socket.next().await?;
            match frame.messages() {
                Ok(messages) if matches!(&messages[..], [answer] if answer.from == SESSION && answer.id == request.id) => {
                    return messages[0].parse();
                }
                _ => traffic.receive(&frame).await?,
            }
        }
    };
    match timeout(ANSWER, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::other(format!("Timeout from {SESSION}"))),
    }
}

/// Ends the connection, and the session too unless it will be resumed.
async fn end(reason: DisconnectReason, socket: &WebSocket, traffic: &Traffic<'_>, session_url: &str) -> CloseReason {
    let normal = CloseReason { code: Some(1000), reason: String::new() };
    if is_taken_up_again(reason) {
        return normal;
    }
    session::forget();
    let close = Message::new(MessageType::from("close"), SESSION).with_from(session_url).with_id(3);
    let closed = async {
        socket.send_text(close.to_json()?).await?;
        traffic.receive_all().await
    };
    match timeout(CLOSE, closed).await {
        Ok(Err(Error::WebSocketClosed(reason))) => reason,
        // The stub closes the connection in this case.
        _ => normal,
    }
}

impl Reply {
    fn reason(&self) -> String {
        self.desc
            .as_ref()
            .or(self.description.as_ref())
            .cloned()
            .unwrap_or_else(|| format!("the message node answered {}", self.code))
    }
}
