//! A stub without a protocol: answers requests with their body, and sends other messages back.

use protostub_sdk::{Ignored, Message, Result, Stub, log};

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        if let Err(error) = stub.post(echo(&message)) {
            log::warn!("the echo was not posted: {error}");
            if message.expects_response() {
                stub.post(message.error_response(413, &error.to_string())).ok();
            }
        }
    }
}

fn echo(message: &Message) -> Message {
    if message.expects_response() {
        return message.response(200, message.body.clone());
    }
    Message { from: message.to.clone(), to: message.from.clone(), via: Vec::new(), ..message.clone() }
}

protostub_sdk::export!(run);

#[cfg(test)]
mod tests;
