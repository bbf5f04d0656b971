//! A protocol stub without a protocol: it answers every request with its body, and posts every other message back to its sender.

use protostub_sdk::{Error, Ignored, Message, Result, Stub, log};

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        match stub.post(echo(message)) {
            // Who sent more than it can take has itself to blame.
            Err(error @ Error::Busy) => log::warn!("no echo: {error}"),
            posted => posted?,
        }
    }
}

fn echo(message: Message) -> Message {
    if message.expects_response() {
        message.response(200, message.body.clone())
    } else {
        Message { from: message.to, to: message.from, via: Vec::new(), ..message }
    }
}

protostub_sdk::export!(run);

#[cfg(test)]
mod tests;
