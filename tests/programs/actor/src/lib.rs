//! A stub that follows the test's orders.
//!
//! Its configuration may hold orders for `start`, `connect` and `timer`, and a credential that it
//! `refuses`. A message's body is an order too. An order is a JSON object `{"do": "<what>", …}`, or
//! a list of them. A request is answered with `{"code": 200, "value": <the result>}`; an order that
//! fails answers `{"code": 400, "value": "<error>"}`. Any other event (`timer`, `ready`,
//! `disconnect`) is posted as an `update` to the address `observer` of the configuration, if there
//! is one.

mod orders;

wit_bindgen::generate!({ world: "protostub", path: "../../../wit/0.1" });

use std::{cell::RefCell, collections::VecDeque};

use serde_json::{Value, json};

use self::{
    exports::rethink::protostub::stub::Guest,
    rethink::protostub::{
        bus, configuration, presence,
        types::{Body, Credential, DisconnectReason, Event, Message, MessageId, MessageType},
    },
};

struct Actor;

#[derive(Default)]
struct Memory {
    url: String,
    configuration: Value,
    /// The credential of the last `connect`.
    credential: Option<Credential>,
    /// The orders for the next `connect` events, one for each.
    connects: VecDeque<Value>,
    /// The events of each call of `handle`, one entry for each call.
    calls: Vec<Value>,
    /// Requests that were not answered yet.
    kept: Vec<Message>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

fn memory<R>(with: impl FnOnce(&mut Memory) -> R) -> R {
    MEMORY.with_borrow_mut(with)
}

impl Guest for Actor {
    fn start(url: String) -> Result<(), String> {
        let configuration: Value = serde_json::from_str(&configuration::get()).map_err(|error| error.to_string())?;
        let order = configuration["start"].clone();
        memory(|memory| *memory = Memory { url, configuration, ..Memory::default() });
        if !order.is_null() {
            orders::follow(&order)?;
        }
        Ok(())
    }

    fn handle(events: Vec<Event>) {
        memory(|memory| memory.calls.push(events.iter().map(describe).collect()));
        for event in events {
            match event {
                Event::Connect(credential) => connect(credential),
                Event::Disconnect(reason) => {
                    observe(json!({ "disconnect": reason_name(reason) }));
                    presence::publish(presence::Status::Disconnected, None).expect("disconnected follows everything");
                }
                Event::Message(message) => receive(message),
                Event::Timer(handle) => {
                    observe(json!({ "timer": handle }));
                    let order = memory(|memory| memory.configuration["timer"].clone());
                    if !order.is_null() {
                        orders::follow(&order).expect("the order for `timer`");
                    }
                }
                Event::Ready(handle) => observe(json!({ "ready": handle })),
            }
        }
    }
}

fn connect(credential: Option<Credential>) {
    memory(|memory| memory.credential.clone_from(&credential));
    let refuses = memory(|memory| memory.configuration["refuses"].clone());
    if let Some(credential) = credential.as_ref().filter(|credential| refuses == *credential.value) {
        presence::publish(presence::Status::InProgress, None).expect("in-progress");
        let reason = format!("the server does not know {}", credential.value);
        presence::publish(presence::Status::Failed, Some(&reason)).expect("failed");
        return;
    }
    let order = memory(|memory| memory.connects.pop_front().unwrap_or_else(|| memory.configuration["connect"].clone()));
    if !order.is_null() {
        orders::follow(&order).expect("the order for `connect`");
        return;
    }
    let reason = credential.map(|credential| credential.value);
    presence::publish(presence::Status::InProgress, None).expect("in-progress");
    presence::publish(presence::Status::Live, reason.as_deref()).expect("live");
}

fn receive(message: Message) {
    if matches!(message.type_, MessageType::Response) {
        observe(json!({ "response": body(&message) }));
        return;
    }
    let order = body(&message);
    if order["do"] == "keep" {
        memory(|memory| memory.kept.push(message));
        return;
    }
    let (code, value) = match orders::follow(&order) {
        Ok(value) => (200, value),
        Err(error) => (400, Value::from(error)),
    };
    if !is_update(&message) {
        answer(&message, code, value);
    }
}

fn is_update(message: &Message) -> bool {
    matches!(message.type_, MessageType::Update | MessageType::Forward | MessageType::Other(_))
        && !message.headers.iter().any(|(name, value)| name == "expects-response" && value == "true")
}

fn answer(request: &Message, code: u16, value: Value) {
    let response = Message {
        id: request.id.clone(),
        type_: MessageType::Response,
        from: request.to.clone(),
        to: request.from.clone(),
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(Body::Json(json!({ "code": code, "value": value }).to_string())),
    };
    if let Err(error) = &bus::post(&[response])[0] {
        observe(json!({ "unanswerable": format!("{error:?}") }));
    }
}

/// Reports an event to the test.
fn observe(what: Value) {
    let (from, to) = memory(|memory| (memory.url.clone(), memory.configuration["observer"].as_str().map(str::to_owned)));
    let Some(to) = to else { return };
    let message = Message {
        id: MessageId::Number(0),
        type_: MessageType::Update,
        from,
        to,
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(Body::Json(what.to_string())),
    };
    let _ = bus::post(&[message]);
}

fn body(message: &Message) -> Value {
    match &message.body {
        Some(Body::Json(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
        Some(Body::Bytes(bytes)) => Value::from(bytes.as_slice()),
        None => Value::Null,
    }
}

fn describe(event: &Event) -> Value {
    match event {
        Event::Connect(_) => json!("connect"),
        Event::Disconnect(reason) => json!(reason_name(*reason)),
        Event::Message(message) => match &body(message)["n"] {
            Value::Null => json!("message"),
            n => n.clone(),
        },
        Event::Timer(handle) => json!({ "timer": handle }),
        Event::Ready(handle) => json!({ "ready": handle }),
    }
}

fn reason_name(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::Request => "request",
        DisconnectReason::Update => "update",
        DisconnectReason::Idle => "idle",
        DisconnectReason::Shutdown => "shutdown",
    }
}

export!(Actor);
