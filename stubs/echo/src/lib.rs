//! A protocol stub without a protocol: it answers every request with its body, and posts every other message back to its sender.

use protostub_sdk::{Ignored, Message, Result, Stub, log};

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        if message.expects_response() {
            answer(&stub, &message);
        } else if let Err(error) = stub.post(sent_back(message)) {
            log::warn!("no echo: {error}");
        }
    }
}

fn answer(stub: &Stub, request: &Message) {
    if let Err(error) = stub.post(request.response(200, request.body.clone())) {
        log::warn!("no echo: {error}");
        // It is too large with what stands around it, say. Who takes no echo may take no error either, and has itself to blame.
        let _ = stub.post(request.error_response(413, &error.to_string()));
    }
}

fn sent_back(message: Message) -> Message {
    Message { from: message.to, to: message.from, via: Vec::new(), ..message }
}

protostub_sdk::export!(run);

#[cfg(test)]
mod tests;
