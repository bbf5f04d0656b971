use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protostub_types::{Address, Domain, SafeText, Sha256Digest};
use serde::{Serialize, Serializer};

use crate::contract::types;

/// What is known of an instance that crashed or ran into a limit: for the stub's author.
///
/// It holds no body of a message, no frame, no credential, and of a URL only the server. [`Self::message`], though, is what the stub itself
/// wrote to standard error, without the [`Secrets`](crate::Secrets) that it was handed.
///
/// # As JSON
///
/// Times end with `_ms` or `_us`: milliseconds since the Unix epoch, and microseconds. What is not there is left out.
///
/// ```json
/// {
///   "stub": "hyperty-runtime://sp1.example/protostub/9f0c…",
///   "domain": "sp1.example",
///   "component": "2c26b46b…",
///   "time_ms": 1795424400000,
///   "during": "handle",
///   "kind": "trap",
///   "reason": "wasm `unreachable` instruction executed",
///   "message": "thread 'main' panicked at src/lib.rs:42:17:\\nno such room",
///   "backtrace": [{ "function": "rooms::join", "module": "rooms.wasm", "offset": 4711 }],
///   "uptime_us": 5100200,
///   "call_us": 240,
///   "activities": [
///     { "before_us": 240, "kind": "event", "name": "message", "detail": "create",
///       "from": "hyperty://home.example/me", "to": "hyperty://sp1.example/rooms", "bytes": 120 },
///     { "before_us": 190, "kind": "call", "name": "websocket.send", "handle": 3, "bytes": 98, "error": "closed" }
///   ],
///   "lost_events": 0,
///   "lost_calls": 12
/// }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CrashReport {
    /// Which stub it was.
    pub stub: Address,
    /// Whose stub it was.
    pub domain: Domain,
    /// The digest of the component: which code it was.
    pub component: Sha256Digest,
    /// When it ended.
    #[serde(rename = "time_ms", serialize_with = "unix_milliseconds")]
    pub time: SystemTime,
    /// What it was doing.
    pub during: GuestCall,
    /// Whose doing its end was.
    pub kind: CrashKind,
    /// The setting of [`Limits`](crate::Limits) that it ran into; `stack` for the engine's. Only if the kind is [`CrashKind::Limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    /// What happened, in wasmtime's words or the limit's: `wasm unreachable instruction executed`.
    pub reason: SafeText,
    /// What it wrote to standard error last; in Rust, the panic's message and place. At most 24
    /// lines, each as long as a log line may be; `\n` is between two lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<SafeText>,
    /// What was being executed, innermost first, at most 20 frames. Nothing for a call that waited until its time was over.
    pub backtrace: Vec<StackFrame>,
    /// How long the instance had been there.
    #[serde(rename = "uptime_us", serialize_with = "microseconds")]
    pub uptime: Duration,
    /// How long the call that ended it had been going on.
    #[serde(rename = "call_us", serialize_with = "microseconds")]
    pub call: Duration,
    /// The flight recorder: what it was handed last and what it called last, at most 64 of each, oldest first. The events of the call that
    /// ended it are as old as the call.
    pub activities: Vec<Activity>,
    /// How many earlier events are not remembered.
    pub lost_events: u64,
    /// How many earlier calls are not remembered.
    pub lost_calls: u64,
}

/// What of a stub was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GuestCall {
    /// Its code's own start functions, when the component was instantiated.
    Instantiate,
    /// `start`.
    Start,
    /// `handle`.
    Handle,
}

/// Why an instance did not live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CrashKind {
    /// The stub's code trapped: it panicked, say.
    Trap,
    /// It used more than it may.
    Limit,
}

/// A function in a backtrace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StackFrame {
    /// Its name, or `function 42` if the component was stripped of names.
    pub function: SafeText,
    /// The core module that it is of, if that has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<SafeText>,
    /// Where in the module's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
}

impl fmt::Display for StackFrame {
    /// `rooms.wasm!rooms::join`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{module}!{}", self.function),
            None => f.write_str(&self.function),
        }
    }
}

/// Something that happened between the host and a stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Activity {
    /// How long before the end of the instance. Of calls to a [tick](crate::EngineConfig::tick): all between two of them have the time of the first.
    #[serde(rename = "before_us", serialize_with = "microseconds")]
    pub before: Duration,
    /// Who acted.
    pub kind: ActivityKind,
    /// The event (`message`), or the function (`bus.post`), as the contract calls it.
    pub name: &'static str,
    /// The type of a message (`other` for all that the specification has no name of), the reason of a `disconnect`, the status that was
    /// published, the level of a log line, whether a `connect` came with a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
    /// Who sent the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
    /// To whom the message was sent, or which server a connection leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Arc<str>>,
    /// The timer, connection or request that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u32>,
    /// How many bytes it carried: of a body, of frames, of text.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u32,
    /// How often the same call was made, or a message of the same type came from and to the same addresses, with nothing else in between; the bytes are
    /// those of all, the time is the last one's. What the instance had when it ended stands alone.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u32,
    /// The error that the host answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
}

/// Who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ActivityKind {
    /// The host handed an event to the stub.
    Event,
    /// The stub called the host.
    Call,
}

/// The contract's `error`, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CallError {
    /// It may not.
    Denied,
    /// It asked for something that makes no sense.
    Invalid,
    /// Not now.
    Busy,
    /// There is no such handle any more.
    Closed,
    /// More than it may have.
    Limit,
    /// The network or the other side failed.
    Io,
}

impl From<&types::Error> for CallError {
    fn from(error: &types::Error) -> Self {
        match error {
            types::Error::Denied(_) => Self::Denied,
            types::Error::Invalid(_) => Self::Invalid,
            types::Error::Busy => Self::Busy,
            types::Error::Closed => Self::Closed,
            types::Error::Limit(_) => Self::Limit,
            types::Error::Io(_) => Self::Io,
        }
    }
}

fn unix_milliseconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_one(count: &u32) -> bool {
    *count == 1
}
