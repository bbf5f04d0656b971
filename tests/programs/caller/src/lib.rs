//! A stub that makes the calls of its host that a message's bytes stand for. Any bytes are a
//! program.
//!
//! The first calls are made when the message arrives, before the stub answers it with 200. The
//! others follow one after the other, at each other event: a timer has expired, or a connection has
//! news.

mod calls;

wit_bindgen::generate!({ world: "protostub", path: "../../../wit/0.1" });

use std::cell::RefCell;

use arbitrary::{Arbitrary as _, Unstructured};

use self::{
    calls::Call,
    exports::rethink::protostub::stub::Guest,
    rethink::protostub::{
        bus, presence,
        types::{Body, Event, Message, MessageType},
    },
};

/// Number of calls to make at once when a message has arrived.
const CALLS_OF_A_MESSAGE: usize = 24;
/// Number of calls to make at each other event.
const CALLS_OF_AN_EVENT: usize = 2;

struct Caller;

#[derive(Default)]
struct Memory {
    url: String,
    /// The rest of the program.
    program: Vec<u8>,
    /// The address that sent the message.
    asker: String,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Guest for Caller {
    fn start(url: String) -> Result<(), String> {
        MEMORY.set(Memory { url, ..Memory::default() });
        Ok(())
    }

    fn handle(events: Vec<Event>) {
        for event in events {
            match event {
                Event::Connect(_) => {
                    presence::publish(presence::Status::InProgress, None).expect("in-progress");
                    presence::publish(presence::Status::Live, None).expect("live");
                }
                Event::Disconnect(_) => {
                    // The program may have published the status before.
                    let _ = presence::publish(presence::Status::Disconnected, None);
                }
                Event::Message(Message { type_: MessageType::Response, .. }) | Event::Timer(_) | Event::Ready(_) => {
                    proceed(CALLS_OF_AN_EVENT);
                }
                Event::Message(message) => receive(message),
            }
        }
    }
}

fn receive(request: Message) {
    let program = match request.body {
        Some(Body::Bytes(bytes)) => bytes,
        _ => Vec::new(),
    };
    MEMORY.with_borrow_mut(|memory| {
        memory.program = program;
        memory.asker.clone_from(&request.from);
    });
    proceed(CALLS_OF_A_MESSAGE);
    let answer = Message {
        id: request.id,
        type_: MessageType::Response,
        from: request.to,
        to: request.from,
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(Body::Json(r#"{"code":200}"#.to_owned())),
    };
    // The program may have answered before.
    let _ = bus::post(&[answer]);
}

/// Makes the next calls of the program.
fn proceed(calls: usize) {
    let (program, names) = MEMORY.with_borrow_mut(|memory| {
        let names = calls::Names { own: memory.url.clone(), asker: memory.asker.clone() };
        (std::mem::take(&mut memory.program), names)
    });
    let mut rest = Unstructured::new(&program);
    for _ in 0..calls {
        if rest.is_empty() {
            break;
        }
        match Call::arbitrary(&mut rest) {
            Ok(call) => call.make(&names),
            Err(_) => break,
        }
    }
    let rest = rest.take_rest().to_vec();
    MEMORY.with_borrow_mut(|memory| memory.program = rest);
}

export!(Caller);
