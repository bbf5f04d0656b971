//! A stranger's stub. It connects like any other. Once a message arrives, it attacks the host in
//! the way that `program` of its configuration names; each program is a module. A stub that
//! survives its attack answers with a text. The programs that no compiler would make are in `wat/`.

mod abandons_lookups;
mod asks_for_blank_scopes;
mod asks_for_credentials;
mod asks_for_random_bytes;
mod asks_many_names;
mod churns_connections;
mod fills_log;
mod floods_bus;
mod floods_http;
mod floods_log;
mod floods_statuses;
mod floods_timers;
mod floods_websocket;
mod follows_changing_names;
mod forges_senders;
mod hoards_handles;
mod meets_server;
mod opens_connections;
mod panics_at_length;
mod reaches_for_domains;
mod says_control_characters;
mod scans_local_ports;
mod sleeps;
mod spins;
mod spins_between_calls;
mod spins_in_start;
mod stays_below_limits;
mod takes_memory;
mod traps_after_posting;
mod traps_in_handle;
mod traps_in_start;

wit_bindgen::generate!({ world: "protostub", path: "../../../wit/0.1" });

use std::cell::RefCell;

use serde_json::{Value, json};

use self::{
    exports::rethink::protostub::stub::Guest,
    rethink::protostub::{
        bus, configuration, presence, timers,
        types::{Body, Error, Event, Message, MessageId, MessageType},
    },
};

/// The actions of a program when a message arrives, and when one of its handles is ready: the
/// answer to the message, once there is one.
struct Program {
    start: fn(),
    attack: fn(&Stub) -> Option<String>,
    ready: fn(&Stub, u32) -> Option<String>,
    timer: fn(&Stub) -> Option<String>,
}

impl Program {
    const NONE: Self = Self { start: || {}, attack: |_| Some("no attack".to_owned()), ready: |_, _| None, timer: |_| None };

    const fn attack(attack: fn(&Stub) -> Option<String>) -> Self {
        Self { attack, ..Self::NONE }
    }
}

fn program(name: &str) -> Option<Program> {
    Some(match name {
        "abandons-lookups" => Program {
            ready: abandons_lookups::ready,
            timer: abandons_lookups::timer,
            ..Program::attack(abandons_lookups::attack)
        },
        "asks-for-blank-scopes" => {
            Program { ready: asks_for_blank_scopes::ready, ..Program::attack(asks_for_blank_scopes::attack) }
        }
        "asks-for-credentials" => Program::attack(asks_for_credentials::attack),
        "asks-for-random-bytes" => Program::attack(asks_for_random_bytes::attack),
        "asks-many-names" => Program { ready: asks_many_names::ready, ..Program::attack(asks_many_names::attack) },
        "churns-connections" => Program { ready: churns_connections::ready, ..Program::attack(churns_connections::attack) },
        "fills-log" => Program::attack(fills_log::attack),
        "floods-bus" => Program::attack(floods_bus::attack),
        "floods-http" => Program::attack(floods_http::attack),
        "floods-log" => Program::attack(floods_log::attack),
        "floods-statuses" => Program::attack(floods_statuses::attack),
        "floods-timers" => Program::attack(floods_timers::attack),
        "floods-websocket" => Program { ready: floods_websocket::ready, ..Program::attack(floods_websocket::attack) },
        "follows-changing-names" => Program {
            ready: follows_changing_names::ready,
            timer: follows_changing_names::timer,
            ..Program::attack(follows_changing_names::attack)
        },
        "forges-senders" => Program::attack(forges_senders::attack),
        "hoards-handles" => Program::attack(hoards_handles::attack),
        "meets-server" => Program { ready: meets_server::ready, ..Program::attack(meets_server::attack) },
        "opens-connections" => Program::attack(opens_connections::attack),
        "panics-at-length" => Program::attack(panics_at_length::attack),
        "reaches-for-domains" => Program::attack(reaches_for_domains::attack),
        "says-control-characters" => Program::attack(says_control_characters::attack),
        "scans-local-ports" => Program { ready: scans_local_ports::ready, ..Program::attack(scans_local_ports::attack) },
        "sleeps" => Program::attack(sleeps::attack),
        "spins" => Program::attack(spins::attack),
        "spins-between-calls" => Program::attack(spins_between_calls::attack),
        "spins-in-start" => Program { start: spins_in_start::start, ..Program::NONE },
        "stays-below-limits" => Program::attack(stays_below_limits::attack),
        "takes-memory" => Program::attack(takes_memory::attack),
        "traps-after-posting" => Program::attack(traps_after_posting::attack),
        "traps-in-handle" => Program::attack(traps_in_handle::attack),
        "traps-in-start" => Program { start: traps_in_start::start, ..Program::NONE },
        _ => return None,
    })
}

/// The stub's own data, and the address that it has not answered yet.
struct Stub {
    url: String,
    configuration: Value,
    program: Program,
    waiting: Option<Message>,
    /// An answer that exceeded the limit of messages for a second.
    late: Option<String>,
}

impl Stub {
    fn text(&self, name: &str) -> &str {
        self.configuration[name].as_str().unwrap_or_default()
    }

    fn message(&self, from: &str, to: &str) -> Message {
        Message {
            id: MessageId::Number(1),
            type_: MessageType::Other("ping".to_owned()),
            from: from.to_owned(),
            to: to.to_owned(),
            via: Vec::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    fn answer(&mut self, text: String) {
        let Some(request) = &self.waiting else { return };
        let answered = bus::post(&[Message {
            id: request.id.clone(),
            type_: MessageType::Response,
            from: request.to.clone(),
            to: request.from.clone(),
            via: Vec::new(),
            headers: Vec::new(),
            body: Some(Body::Json(json!({ "code": 200, "value": text }).to_string())),
        }]);
        match answered.as_slice() {
            [Err(Error::Limit(_))] if timers::after(200).is_ok() => self.late = Some(text),
            _ => self.waiting = None,
        }
    }
}

thread_local! {
    static STUB: RefCell<Option<Stub>> = const { RefCell::new(None) };
}

struct Hostile;

impl Guest for Hostile {
    fn start(url: String) -> Result<(), String> {
        let configuration: Value = serde_json::from_str(&configuration::get()).map_err(|error| error.to_string())?;
        let name = configuration["program"].as_str().unwrap_or_default();
        let program = program(name).ok_or_else(|| format!("there is no program `{name}`"))?;
        (program.start)();
        STUB.set(Some(Stub { url, configuration, program, waiting: None, late: None }));
        Ok(())
    }

    fn handle(events: Vec<Event>) {
        STUB.with_borrow_mut(|stub| {
            let stub = stub.as_mut().expect("a started stub");
            for event in events {
                match event {
                    Event::Connect(_) => {
                        presence::publish(presence::Status::InProgress, None).expect("in-progress");
                        presence::publish(presence::Status::Live, None).expect("live");
                    }
                    Event::Disconnect(_) => {
                        let _ = presence::publish(presence::Status::Disconnected, None);
                    }
                    Event::Message(message) if matches!(message.type_, MessageType::Response) => {}
                    Event::Message(message) => {
                        stub.waiting = Some(message);
                        if let Some(text) = (stub.program.attack)(stub) {
                            stub.answer(text);
                        }
                    }
                    Event::Timer(_) => {
                        if let Some(text) = stub.late.take().or_else(|| (stub.program.timer)(stub)) {
                            stub.answer(text);
                        }
                    }
                    Event::Ready(handle) => {
                        if let Some(text) = (stub.program.ready)(stub, handle) {
                            stub.answer(text);
                        }
                    }
                }
            }
        });
    }
}

/// Writes an error as the harness compares it.
fn told(error: &Error) -> String {
    match error {
        Error::Denied(text) => format!("denied: {text}"),
        Error::Invalid(text) => format!("invalid: {text}"),
        Error::Busy => "busy".to_owned(),
        Error::Closed => "closed".to_owned(),
        Error::Limit(text) => format!("limit: {text}"),
        Error::Io(text) => format!("io: {text}"),
    }
}

export!(Hostile);
