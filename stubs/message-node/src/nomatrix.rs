//! `dev-msg-node-nomatrix`. The runtime's URL is in the query, and messages flow as soon as the
//! connection is open.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protostub_sdk::{Error, Result, Stub, log, websocket::CloseReason};
use serde::Serialize;

use crate::{config::Config, is_taken_up_again, open, traffic::Traffic};

/// The command that releases the runtime's state at the message node.
#[derive(Serialize)]
struct Release<'a> {
    cmd: &'a str,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "runtimeURL")]
    runtime_url: &'a str,
}

pub(crate) async fn run(stub: &Stub, config: &Config) -> Result<()> {
    let socket = open(stub, &url(stub, config)).await?;
    stub.live();
    let traffic = Traffic::new(stub, &socket);
    match traffic.flow().await {
        Error::Disconnect(reason) => {
            if !is_taken_up_again(reason) {
                let release = Release { cmd: "disconnect", body: Body { runtime_url: stub.runtime_url() } };
                if let Err(error) = socket.send_json(&release).await {
                    log::warn!("the message node did not get the disconnect command: {error}");
                }
            }
            stub.disconnected(CloseReason { code: Some(1000), reason: String::new() }.meaning());
            Ok(())
        }
        broke => Err(broke),
    }
}

fn url(stub: &Stub, config: &Config) -> String {
    let separator = if config.url.contains('?') { '&' } else { '?' };
    format!("{}{separator}runtimeURL={}", config.url, utf8_percent_encode(stub.runtime_url(), NON_ALPHANUMERIC))
}
