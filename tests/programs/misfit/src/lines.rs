//! The stub of a server that says `hello`, and sends each line back.

use std::{pin::pin, time::Duration};

use protostub_sdk::{
    Error, Message, Result, Stub,
    futures::future,
    log,
    tcp::{self, TcpStream},
    time,
};

use crate::config::Config;

/// The longest line, in bytes: a message of the bus, and JSON's overhead.
const MAX_LINE_BYTES: usize = 8 << 20;

async fn next_line(stream: &TcpStream, config: &Config) -> Result<String> {
    let length = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        // A stub that takes a piece for a line is right most of the time.
        let is_cut = config.is("stub/ready/byte-by-byte") && bytes.len() < 8;
        Ok(if is_cut { end.or(Some(bytes.len())) } else { end })
    };
    let line = stream.read_frame(MAX_LINE_BYTES, length).await?;
    let line = line.ok_or_else(|| Error::other("the server closed the connection"))?;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

pub async fn run(stub: &Stub, config: &Config, server: &str) -> Result<()> {
    let (host, port) = server.split_once(':').ok_or_else(|| Error::failed("no port"))?;
    let stream = tcp::connect_plain(host, port.parse().map_err(Error::failed)?).await?;
    let hello = time::timeout(Duration::from_secs(3), next_line(&stream, config)).await??;
    if hello != "hello" {
        return Err(Error::other("the server does not say hello"));
    }
    stub.live();
    let sending = async {
        loop {
            let message = stub.next_message().await?;
            match message.to_json() {
                Ok(text) => stream.write_all(format!("{text}\n").as_bytes()).await?,
                Err(error) => answer(stub, &message, 400, &error.to_string()),
            }
        }
    };
    let receiving = async {
        loop {
            let line = next_line(&stream, config).await?;
            let Ok(messages) = Message::from_json(&line) else {
                log::warn!("the server sent an invalid message");
                continue;
            };
            for message in messages.into_iter().filter(Message::expects_response) {
                if let Err(error) = stub.post(message.response(200, message.body.clone())) {
                    answer(stub, &message, 413, &error.to_string());
                }
            }
        }
    };
    let ended: Result<()> = future::select(pin!(sending), pin!(receiving)).await.factor_first().0;
    ended
}

fn answer(stub: &Stub, message: &Message, code: u16, reason: &str) {
    if message.expects_response() {
        let _ = stub.post(message.error_response(code, reason));
    }
}
