use std::path::PathBuf;

use protostub_runtime::{Address, Body, Domain, Message};
use protostub_types::json_line;
use serde_json::{Value, json};

use crate::{
    control::protocol::{Change, Reloaded},
    printer::Entry,
    text::{OutputFormat, escaped, json_text},
};

/// An event in the output of `run` or `status --follow`.
#[derive(Debug)]
pub(crate) enum Event {
    /// The runtime has started.
    Started { runtime: Address, home: Domain, socket: Option<PathBuf> },
    /// A hyperty has its address on the bus.
    Listening { hyperty: Address },
    /// A message arrived for a hyperty.
    Message { hyperty: Address, message: Message },
    /// The status of a stub changed.
    Status(Change),
    /// Status changes were missed, because their reader was too slow.
    Missed { changes: u64 },
    /// A hyperty is registered at its domain.
    Registered { hyperty: Address },
    /// A requested stub is live.
    Deployed { target: String, stub: Option<Address> },
    /// The policies were reloaded, or the reload failed.
    Reloaded { policy: Option<PathBuf>, error: Option<String> },
    /// A task of the runtime failed.
    Problem { what: String, error: String },
    /// Lines of the output were dropped.
    Dropped { lines: u64 },
    /// The runtime has ended.
    Stopped { stopped: Vec<String>, abandoned: Vec<String> },
    /// First event of `status --follow`: the changes of this runtime follow.
    Following { runtime: Address, home: Domain },
    /// The followed runtime has ended.
    Ended,
}

/// An event and its output format.
#[derive(Debug)]
pub(crate) struct FormattedEvent {
    pub(crate) event: Event,
    pub(crate) format: OutputFormat,
}

impl Event {
    pub(crate) fn problem(what: String, error: impl Into<anyhow::Error>) -> Self {
        Self::Problem { what, error: format!("{:#}", error.into()) }
    }

    pub(crate) fn reloaded(outcome: anyhow::Result<Reloaded>) -> Self {
        match outcome {
            Ok(Reloaded { policy }) => Self::Reloaded { policy: Some(policy), error: None },
            Err(error) => Self::Reloaded { policy: None, error: Some(format!("{error:#}")) },
        }
    }

    /// Returns the line for programs.
    fn to_json(&self) -> String {
        let json = match self {
            Self::Message { hyperty, message } => {
                let hyperty = json_text(&json!(hyperty).to_string());
                return format!(r#"{{"event":"message","hyperty":{hyperty},"message":{}}}"#, message.to_json_line());
            }
            Self::Started { runtime, home, socket } => {
                let socket = socket.as_ref().map(|socket| socket.to_string_lossy());
                json!({ "event": "started", "runtime": runtime, "home": home, "socket": socket })
            }
            Self::Listening { hyperty } => json!({ "event": "listening", "hyperty": hyperty }),
            Self::Status(change) => change.event(),
            Self::Missed { changes } => json!({ "event": "missed", "changes": changes }),
            Self::Registered { hyperty } => json!({ "event": "registered", "hyperty": hyperty }),
            Self::Deployed { target, stub } => json!({ "event": "deployed", "target": target, "stub": stub }),
            Self::Reloaded { policy, error } => {
                let policy = policy.as_ref().map(|policy| policy.to_string_lossy());
                json!({ "event": "reloaded", "policy": policy, "error": error })
            }
            Self::Problem { what, error } => json!({ "event": "problem", "what": what, "error": error }),
            Self::Dropped { lines } => json!({ "event": "dropped", "lines": lines }),
            Self::Stopped { stopped, abandoned } => json!({ "event": "stopped", "stopped": stopped, "abandoned": abandoned }),
            Self::Following { runtime, home } => json!({ "event": "following", "runtime": runtime, "home": home }),
            Self::Ended => json!({ "event": "ended" }),
        };
        json_text(&json.to_string())
    }

    /// Returns the line for people.
    fn to_text(&self) -> String {
        let text = match self {
            Self::Started { runtime, socket, .. } => {
                let path = |path: &PathBuf| format!(" Its control socket is {}.", path.display());
                format!("The runtime is {runtime}. Ctrl-C stops it.{}", socket.as_ref().map_or_else(String::new, path))
            }
            Self::Listening { hyperty } => format!("Listening as {hyperty}."),
            Self::Message { hyperty, message } => {
                let Message { kind, id, from, body, .. } = message;
                format!("{hyperty} received {kind} {id} from {from}{}", body.as_ref().map_or_else(String::new, body_in_words))
            }
            Self::Status(change) => change.text(),
            Self::Missed { changes } => format!("{changes} status changes were missed: they were not read in time."),
            Self::Registered { hyperty } => format!("{hyperty} is registered."),
            Self::Deployed { target, .. } => format!("The stub of {target} is live."),
            Self::Reloaded { policy: Some(policy), .. } => format!("The policies in {} are in force.", policy.display()),
            Self::Reloaded { policy: None, error } => {
                format!("Problem: reloading the policies: {}", error.as_deref().unwrap_or_default())
            }
            Self::Problem { what, error } => format!("Problem: {what}: {error}"),
            Self::Dropped { lines } => format!("{lines} lines were dropped: the output was not read in time."),
            Self::Stopped { stopped, abandoned } => {
                let or_none = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                format!("Stopped. Stubs that ended: {}; stubs that did not: {}.", or_none(stopped), or_none(abandoned))
            }
            Self::Following { runtime, .. } => format!("Following the runtime {runtime}. Ctrl-C ends it."),
            Self::Ended => "The runtime has ended.".to_owned(),
        };
        escaped(&text).to_string()
    }
}

/// Returns a body for people, in one line: JSON as it is; other text and bytes in quotation marks.
fn body_in_words(body: &Body) -> String {
    match body {
        Body::Json(text) => match json_line(text) {
            Some(line) => format!(": {line}"),
            None => format!(": not JSON: {}", json_text(&Value::from(&**text).to_string())),
        },
        Body::Bytes(bytes) => format!(": {} bytes: \"{}\"", bytes.len(), bytes.escape_ascii()),
    }
}

impl Entry for FormattedEvent {
    fn size(&self) -> usize {
        size_of::<Self>()
            + match &self.event {
                Event::Message { hyperty, message } => hyperty.as_str().len() + message.size(),
                Event::Status(change) => change.reason.as_ref().map_or(0, |reason| reason.to_string().len()),
                Event::Problem { what, error } => what.len() + error.len(),
                Event::Reloaded { error, .. } => error.as_ref().map_or(0, String::len),
                _ => 0,
            }
    }

    fn into_text(self) -> String {
        let mut line = match self.format {
            OutputFormat::Text => self.event.to_text(),
            OutputFormat::Json => self.event.to_json(),
        };
        line.push('\n');
        line
    }
}
