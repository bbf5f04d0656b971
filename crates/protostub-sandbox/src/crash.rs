use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protostub_types::{Address, Domain, SafeText, Sha256Digest};
use serde::{Serialize, Serializer};

use crate::contract::types;

/// Report about an instance that crashed or exceeded a limit, for the stub's author.
///
/// The report holds no body of a message, no frame and no credential. Of a URL it holds only the
/// server. [`Self::message`], though, is text that the stub itself wrote to standard error, without
/// the [`Secrets`](crate::Secrets) that the stub was handed.
///
/// # As JSON
///
/// Times end with `_ms` or `_us`: milliseconds since the Unix epoch, and microseconds. Absent
/// values are left out.
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
///     { "before_us": 190, "kind": "call", "name": "websocket.send", "handle": 3, "bytes": 98,
///       "error": "closed" }
///   ],
///   "lost_events": 0,
///   "lost_calls": 12
/// }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CrashReport {
    /// The stub's URL.
    pub stub: Address,
    /// The stub's domain.
    pub domain: Domain,
    /// Digest of the component: the code that ran.
    pub component: Sha256Digest,
    /// Time of the end.
    #[serde(rename = "time_ms", serialize_with = "unix_milliseconds")]
    pub time: SystemTime,
    /// The call that ended the instance.
    pub during: GuestCall,
    /// The stub's fault, or a limit.
    pub kind: CrashKind,
    /// The setting of [`Limits`](crate::Limits) that the stub exceeded; `stack` for the engine's
    /// limit. Only if the kind is [`CrashKind::Limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    /// The reason in wasmtime's words or the limit's, for example `wasm unreachable instruction
    /// executed`.
    pub reason: SafeText,
    /// The last lines that the stub wrote to standard error. In Rust, the panic's message and
    /// place. At most 24 lines, each as long as a log line may be; `\n` is between two lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<SafeText>,
    /// The functions that were being executed, innermost first, at most 20 frames. Empty for a call
    /// that waited until its time was over.
    pub backtrace: Vec<StackFrame>,
    /// Age of the instance.
    #[serde(rename = "uptime_us", serialize_with = "microseconds")]
    pub uptime: Duration,
    /// Duration of the call that ended the instance.
    #[serde(rename = "call_us", serialize_with = "microseconds")]
    pub call: Duration,
    /// The flight recorder: the last events and the last calls, at most 64 of each, oldest first.
    /// The events of the call that ended the instance are as old as the call.
    pub activities: Vec<Activity>,
    /// Number of earlier events that are not remembered.
    pub lost_events: u64,
    /// Number of earlier calls that are not remembered.
    pub lost_calls: u64,
}

/// The function of a stub that the host called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GuestCall {
    /// The start functions of the stub's code, when the host instantiated the component.
    Instantiate,
    /// `start`.
    Start,
    /// `handle`.
    Handle,
}

/// Reason for an instance's crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CrashKind {
    /// The stub's code trapped, for example by a panic.
    Trap,
    /// The stub exceeded a limit.
    Limit,
}

/// A function in a backtrace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StackFrame {
    /// Its name, or `function 42` if the component was stripped of names.
    pub function: SafeText,
    /// The core module of the function, if that has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<SafeText>,
    /// Offset in the module's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
}

impl fmt::Display for StackFrame {
    /// Writes it like `rooms.wasm!rooms::join`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{module}!{}", self.function),
            None => f.write_str(&self.function),
        }
    }
}

/// An exchange between the host and a stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Activity {
    /// Time before the end of the instance. For calls it is exact to a
    /// [tick](crate::EngineConfig::tick): all calls between two ticks have the time of the first.
    #[serde(rename = "before_us", serialize_with = "microseconds")]
    pub before: Duration,
    /// The side that acted.
    pub kind: ActivityKind,
    /// The event (`message`), or the function (`bus.post`), in the contract's words.
    pub name: &'static str,
    /// A detail that depends on the name:
    ///
    /// * the type of a message (`other` for all types without a name in the specification)
    /// * the reason of a `disconnect`
    /// * the status that was published
    /// * the level of a log line
    /// * the note that a `connect` came with a credential
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
    /// The message's sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
    /// The message's receiver, or the server of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Arc<str>>,
    /// The timer, connection or request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u32>,
    /// Number of bytes of the body, the frames or the text.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u32,
    /// Number of times in a row: of the same call, or of a message of the same type between the
    /// same addresses. The bytes are the sum of all; the time is the last one's. An event that the
    /// instance had when it ended has its own entry.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u32,
    /// The error that the host answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
}

/// The side that acted.
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
    /// The stub may not do that.
    Denied,
    /// The request makes no sense.
    Invalid,
    /// Not possible now.
    Busy,
    /// The handle does not exist any more.
    Closed,
    /// A limit is reached.
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
