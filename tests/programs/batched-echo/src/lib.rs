//! The stub that the benchmarks measure. It works like `stubs/echo`, but posts all
//! answers to a batch at once: one call of the host takes less time than many.

use std::mem;

use protostub_sdk::{Ignored, Message, Result, Stub, log};

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    let mut echoes = Echoes::default();
    loop {
        echoes.of(stub.next_message().await?);
        while let Some(message) = stub.try_message() {
            echoes.of(message);
        }
        echoes.post(&stub);
    }
}

/// The next batch of answers.
#[derive(Default)]
struct Echoes {
    messages: Vec<Message>,
    /// The requests that some of them answer, each with its answer's place among them.
    requests: Vec<(usize, Message)>,
}

impl Echoes {
    fn of(&mut self, mut message: Message) {
        if message.expects_response() {
            let body = message.body.take();
            let place = self.messages.len();
            self.messages.push(message.response(200, body));
            self.requests.push((place, message));
        } else {
            mem::swap(&mut message.from, &mut message.to);
            message.via.clear();
            self.messages.push(message);
        }
    }

    fn post(&mut self, stub: &Stub) {
        // A single answer needs no list of results.
        if self.messages.len() == 1
            && let Some(message) = self.messages.pop()
        {
            self.posted(stub, 0, stub.post(message));
        } else {
            for (place, posted) in stub.post_all(self.messages.drain(..)).into_iter().enumerate() {
                self.posted(stub, place, posted);
            }
        }
        self.requests.clear();
    }

    fn posted(&self, stub: &Stub, place: usize, posted: Result<()>) {
        let Err(error) = posted else { return };
        log::warn!("the echo was not posted: {error}");
        // The answer may be too large with its envelope. A receiver that refuses the echo may
        // refuse the error too.
        if let Ok(index) = self.requests.binary_search_by_key(&place, |(place, _)| *place) {
            let _ = stub.post(self.requests[index].1.error_response(413, &error.to_string()));
        }
    }
}

protostub_sdk::export!(run);
