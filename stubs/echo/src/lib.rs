//! A protocol stub without a protocol: it answers every request with its body, and posts every other message back to its sender.

use protostub_sdk::{Ignored, Message, Result, Stub, log};

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        if let Err(error) = stub.post(echo(&message)) {
            log::warn!("no echo: {error}");
            // It is too large with what stands around it, say. Who takes no echo may take no error either, and has itself to blame.
            if message.expects_response() {
                let _ = stub.post(message.error_response(413, &error.to_string()));
            }
        }
    }
}

fn echo(message: &Message) -> Message {
    if message.expects_response() {
        message.response(200, message.body.clone())
    } else {
        let mut echo = message.clone();
        std::mem::swap(&mut echo.from, &mut echo.to);
        echo.via.clear();
        echo
    }
}

protostub_sdk::export!(run);

#[cfg(test)]
mod tests;
