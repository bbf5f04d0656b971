//! The protocol stub of the reTHINK message nodes: one JSON message per WebSocket frame, in the
//! flavours of Vert.x and NoMatrix.
//!
//! ```text
//! bus ──► via filter, body.via ──► text frames ──► message node
//! bus ◄── body.via, `to` arrays ◄── text frames ◄── message node
//! ```
//!
//! * `vertx`, `nomatrix`: the begin and the end of a session
//! * `traffic`: the messages in between
//! * `via`: the mark against loops in a message's body

mod config;
mod nomatrix;
mod traffic;
mod vertx;
mod via;

use protostub_sdk::{DisconnectReason, Error, Result, Stub, websocket};

use config::{Config, Flavour};

async fn run(stub: Stub, config: Config) -> Result<()> {
    match config.flavour {
        Flavour::Vertx => vertx::run(&stub, &config).await,
        Flavour::NoMatrix => nomatrix::run(&stub, &config).await,
    }
}

protostub_sdk::export!(run);

/// Opens the WebSocket, with the domain's credential if there is one. The message nodes of the
/// reTHINK project ask for no credential; a node behind a gateway does.
async fn open(stub: &Stub, url: &str) -> Result<websocket::WebSocket> {
    let mut connect = websocket::Connect::new(url);
    if let Some(credential) = stub.credential() {
        connect = connect.credential(credential);
    }
    match connect.open().await {
        Err(Error::Refused(status @ (401 | 403))) => {
            Err(Error::failed(format!("the message node at {url} answered {status}; log the runtime in at its domain")))
        }
        opened => opened,
    }
}

/// Returns `true` if the runtime's session at the message node will be resumed: by the stub's
/// successor, or by the next message.
fn is_taken_up_again(reason: DisconnectReason) -> bool {
    matches!(reason, DisconnectReason::Update | DisconnectReason::Idle)
}

#[cfg(test)]
mod tests;
