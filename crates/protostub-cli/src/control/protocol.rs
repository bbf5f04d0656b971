use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    time::SystemTime,
};

use protostub_runtime::{AcceptedRelease, Address, BusCounts, Domain, Message, Protostub, Runtime, StatusChange, StubStatus};
use protostub_types::SafeText;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{failure::Failure, text::json_text};

/// A request of a client: one line.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Answered with a [`Stub`] when it is live. With `progress`, the client receives the progress
    /// of the deployment.
    Deploy { target: String, progress: bool },
    /// Answered with the last known [`Stub`] when it is gone.
    Undeploy { target: String },
    /// Answered with an [`Update`] when the published version is live. With `check`, the stub keeps
    /// its version.
    Update { target: String, check: bool, progress: bool },
    /// Answered with the [`Accepted`] version. With `reset`, the runtime forgets the version.
    Accepted { target: String, reset: bool },
    /// Answered with [`Stubs`].
    List {},
    /// Answered with [`Reloaded`].
    Reload {},
    /// Answered with [`Sent`] when there is a reply.
    Send(SendRequest),
    /// Answered with a [`Status`], or with the [`Stub`] of the target if there is one.
    Status { target: Option<String> },
    /// Answered with a [`Status`]. Each [`Change`] follows, until the client sends something or
    /// disconnects. A client that closes only its own direction stays.
    Follow { target: Option<String> },
}

/// The members of a request's line.
///
/// The whole line is one structure. For a tagged enumeration, serde keeps the members in a tree
/// until it knows the tag. That would change the numbers of a body, and refuse a deep body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    command: CommandName,
    #[serde(default, deserialize_with = "present")]
    target: Option<Option<String>>,
    progress: Option<bool>,
    check: Option<bool>,
    reset: Option<bool>,
    to: Option<Address>,
    r#type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    from: Option<Option<Address>>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    timeout: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CommandName {
    Deploy,
    Undeploy,
    Update,
    Accepted,
    List,
    Reload,
    Send,
    Status,
    Follow,
}

impl Line {
    /// Rejects members that the command does not have.
    fn check(&self) -> Result<(), Failure> {
        use CommandName::{Accepted, Deploy, Follow, Send, Status, Undeploy, Update};
        let is_one_of = |commands: &[CommandName]| commands.contains(&self.command);
        let members: [(&str, bool, &[CommandName]); 9] = [
            ("target", self.target.is_some(), &[Deploy, Undeploy, Update, Accepted, Status, Follow]),
            ("progress", self.progress.is_some(), &[Deploy, Update, Send]),
            ("check", self.check.is_some(), &[Update]),
            ("reset", self.reset.is_some(), &[Accepted]),
            ("to", self.to.is_some(), &[Send]),
            ("type", self.r#type.is_some(), &[Send]),
            ("from", self.from.is_some(), &[Send]),
            ("body", self.body.is_some(), &[Send]),
            ("timeout", self.timeout.is_some(), &[Send]),
        ];
        match members.iter().find(|(_, is_there, commands)| *is_there && !is_one_of(commands)) {
            Some((member, ..)) => Err(no_request(format_args!("unknown field `{member}`"))),
            None => Ok(()),
        }
    }
}

fn no_request(problem: impl Display) -> Failure {
    Failure::wrong(SafeText::display(format_args!("the line is not a request: {problem}")))
}

impl Request {
    /// Reads a line. Bodies stay as the client wrote them.
    pub(crate) fn read(line: &[u8]) -> Result<Self, Failure> {
        // serde would accept an array for a structure too.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(no_request("not a JSON object"));
        }
        let line: Line = serde_json::from_slice(line).map_err(no_request)?;
        line.check()?;
        let missing = |member: &str| no_request(format_args!("missing field `{member}`"));
        let progress = line.progress.unwrap_or_default();
        let target = line.target.flatten();
        let required = |target: Option<String>| target.ok_or_else(|| missing("target"));
        Ok(match line.command {
            CommandName::Deploy => Self::Deploy { target: required(target)?, progress },
            CommandName::Undeploy => Self::Undeploy { target: required(target)? },
            CommandName::Update => Self::Update { target: required(target)?, check: line.check.unwrap_or_default(), progress },
            CommandName::Accepted => Self::Accepted { target: required(target)?, reset: line.reset.unwrap_or_default() },
            CommandName::List => Self::List {},
            CommandName::Reload => Self::Reload {},
            CommandName::Status => Self::Status { target },
            CommandName::Follow => Self::Follow { target },
            CommandName::Send => Self::Send(SendRequest {
                to: line.to.ok_or_else(|| missing("to"))?,
                r#type: line.r#type.unwrap_or_else(|| "read".to_owned()),
                from: line.from.flatten(),
                body: line.body,
                timeout: line.timeout.unwrap_or(DEFAULT_SEND_TIMEOUT),
                progress,
            }),
        })
    }
}

/// A response to a client: one line. A request has exactly one `result` or `error`. `progress`
/// precedes it; `status` and `missed` follow the result of `follow`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Response {
    Result {
        result: Box<RawValue>,
    },
    Error(Failure),
    Progress {
        progress: DeploymentProgress,
    },
    Status {
        status: Change,
    },
    /// Number of status changes that the client missed. The current statuses follow.
    Missed {
        missed: u64,
    },
}

/// The members of a response's line: see [`Line`].
#[derive(Debug, Deserialize)]
struct ResponseLine {
    #[serde(default, deserialize_with = "present")]
    result: Option<Box<RawValue>>,
    error: Option<Value>,
    kind: Option<Value>,
    code: Option<Value>,
    progress: Option<DeploymentProgress>,
    status: Option<Change>,
    missed: Option<u64>,
}

impl Response {
    /// Reads a line. Returns `None` if the line is not a response.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let line: ResponseLine = serde_json::from_slice(line).ok()?;
        if let Some(result) = line.result {
            return Some(Self::Result { result });
        }
        if let Some(error) = line.error {
            let failure = json!({ "error": error, "kind": line.kind, "code": line.code });
            return serde_json::from_value(failure).ok().map(Self::Error);
        }
        let progress = line.progress.map(|progress| Self::Progress { progress });
        let status = || line.status.map(|status| Self::Status { status });
        progress.or_else(status).or_else(|| line.missed.map(|missed| Self::Missed { missed }))
    }

    /// Returns the line, with a line feed at its end, without characters that act on a terminal.
    pub(crate) fn to_line(&self) -> String {
        let mut line = json_text(&serde_json::to_string(self).unwrap_or_default());
        line.push('\n');
        line
    }
}

/// A request to send a message from an address of the runtime.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SendRequest {
    pub(crate) to: Address,
    pub(crate) r#type: String,
    pub(crate) from: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Box<RawValue>>,
    /// The timeout, in seconds.
    pub(crate) timeout: f64,
    /// As in [`Request::Deploy`].
    pub(crate) progress: bool,
}

/// Default timeout for a reply, in seconds.
const DEFAULT_SEND_TIMEOUT: f64 = 30.0;

/// Reads a member that is present. A `null` that is present counts as a value.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A stub at this moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// The key: the domain, or the text that distinguishes the stub from the domain's other stubs.
    pub(crate) key: String,
    pub(crate) domain: Domain,
    /// The address. `None` before step 9.
    pub(crate) stub: Option<Address>,
    pub(crate) status: StubStatus,
    pub(crate) reason: Option<String>,
    /// The time since which the stub has this status.
    pub(crate) since: String,
    /// The version in the descriptor.
    pub(crate) version: Option<String>,
    /// The URL of the descriptor.
    pub(crate) descriptor: Option<String>,
    /// The SHA-256 of the component, in hexadecimal digits.
    pub(crate) digest: Option<String>,
    /// The address of the sandbox.
    pub(crate) sandbox: Option<Address>,
    /// Number of instances after the first one.
    pub(crate) restarts: u64,
    /// Number of times that the stub hit each limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<String, u64>,
    /// The report of the last crash.
    pub(crate) crash: Option<Value>,
}

/// The outcome of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Update {
    /// The key of the stub.
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    /// The version that ran before.
    pub(crate) from: String,
    /// The version that the domain publishes.
    pub(crate) to: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The running version is the published one.
    UpToDate,
    /// The domain publishes another version or build, which may be older.
    Available,
    /// The published version runs now.
    Updated,
}

/// The accepted version of a stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// The key of the stub.
    pub(crate) key: String,
    /// The version. With `reset`, the forgotten one. `None` if no version was accepted.
    pub(crate) accepted: Option<Release>,
    /// The runtime has forgotten the version.
    pub(crate) reset: bool,
}

/// A version of a stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) version: String,
    /// The SHA-256 of the component, in hexadecimal digits.
    pub(crate) digest: String,
    /// The version had a valid signature, so its successors need one.
    pub(crate) signed: bool,
}

/// All stubs, in the order of their keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stubs {
    pub(crate) stubs: Vec<Stub>,
}

/// The policies that are in force now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The file of the policies.
    #[serde(serialize_with = "path_as_text")]
    pub(crate) policy: PathBuf,
}

/// Writes a path of any bytes. JSON has no bytes that are not UTF-8.
fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// A reply, and the time until it arrived.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The reply as [`Message::to_json_line`] writes it.
    pub(crate) reply: Box<RawValue>,
    pub(crate) milliseconds: u64,
}

/// The status of a runtime.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) runtime: Address,
    pub(crate) home: Domain,
    /// The version of the `protostub` that runs it.
    pub(crate) version: String,
    /// The id of the process.
    pub(crate) pid: u32,
    /// The start of the runtime.
    pub(crate) since: String,
    pub(crate) stubs: Vec<Stub>,
    /// The counts of the bus.
    pub(crate) messages: BTreeMap<String, u64>,
    /// Zero for runtimes that do not count dropped lines.
    #[serde(default)]
    pub(crate) dropped: Dropped,
}

/// Counts of the lines that a runtime could not print: the reader was too slow, or the output
/// failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// Lines of standard output.
    pub(crate) output: u64,
    /// Lines of the log, on standard error.
    pub(crate) log: u64,
}

/// A stub's new status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) domain: Domain,
    pub(crate) stub: Option<Address>,
    pub(crate) status: StubStatus,
    pub(crate) reason: Option<String>,
    /// The time of the change.
    pub(crate) at: String,
}

/// The progress of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeploymentProgress {
    /// The key of the stub.
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) activity: Activity,
}

/// The activity of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doing", rename_all = "lowercase")]
pub(crate) enum Activity {
    Downloading {
        bytes: u64,
        total: Option<u64>,
    },
    Compiling,
    /// Neither of the two, for now.
    Ready,
}

impl Sent {
    pub(crate) fn of(reply: &Message, milliseconds: u64) -> anyhow::Result<Self> {
        Ok(Self { reply: RawValue::from_string(reply.to_json_line())?, milliseconds })
    }
}

impl Stub {
    pub(crate) fn of(stub: &Protostub) -> Self {
        let report = stub.status();
        Self {
            key: stub.key().to_string(),
            domain: stub.domain().clone(),
            stub: stub.url().cloned(),
            status: report.status,
            reason: report.reason.map(|reason| reason.to_string()),
            since: utc(report.since),
            version: stub.version().map(|version| version.to_string()),
            descriptor: stub.descriptor_url().map(String::from),
            digest: stub.digest().map(|digest| digest.to_string()),
            sandbox: stub.sandbox_url().cloned(),
            restarts: stub.restarts(),
            limits: stub.limits_hit().into_iter().map(|(setting, times)| (setting.to_owned(), times)).collect(),
            crash: stub.last_crash().and_then(|crash| serde_json::to_value(&*crash).ok()),
        }
    }

    /// Returns the stubs of a runtime, in the order of their keys.
    pub(crate) fn all(runtime: &Runtime) -> Vec<Self> {
        let mut stubs: Vec<_> = runtime.protostubs().iter().map(Self::of).collect();
        stubs.sort_by(|one, other| one.key.cmp(&other.key));
        stubs
    }
}

impl From<AcceptedRelease> for Release {
    fn from(release: AcceptedRelease) -> Self {
        let AcceptedRelease { version, digest, signed } = release;
        Self { version: version.to_string(), digest: digest.to_string(), signed }
    }
}

impl From<Stub> for Change {
    fn from(stub: Stub) -> Self {
        Self { domain: stub.domain, stub: stub.stub, status: stub.status, reason: stub.reason, at: stub.since }
    }
}

impl From<StatusChange> for Change {
    fn from(change: StatusChange) -> Self {
        let report = change.report;
        Self {
            domain: change.key.domain().clone(),
            stub: change.stub,
            status: report.status,
            reason: report.reason.map(|reason| reason.to_string()),
            at: utc(report.since),
        }
    }
}

impl Status {
    pub(crate) fn of(runtime: &Runtime, since: SystemTime, dropped: Dropped) -> Self {
        Self {
            runtime: runtime.url().clone(),
            home: runtime.home_domain().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: utc(since),
            stubs: Stub::all(runtime),
            messages: counted(runtime.counts()),
            dropped,
        }
    }
}

fn counted(counts: BusCounts) -> BTreeMap<String, u64> {
    let counts = [
        ("accepted", counts.accepted),
        ("refused", counts.refused),
        ("denied", counts.denied),
        ("delivered", counts.delivered),
        ("published", counts.published),
        ("answered", counts.answered),
        ("failed", counts.failed),
        ("abandoned", counts.abandoned),
        ("open", counts.open),
    ];
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Returns a time as in RFC 3339, in UTC, with milliseconds.
///
/// RFC 3339 ends with the year 9999, but the signature of a stranger can state any time. A later
/// time, or one before the year 0, becomes the number of seconds after or before 1970.
pub(crate) fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = match &since {
        Ok(after) => i128::try_from(after.as_nanos()).ok(),
        Err(before) => i128::try_from(before.duration().as_nanos()).ok().map(i128::wrapping_neg),
    };
    let in_years = |nanoseconds| {
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
        let second = time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()?;
        Some(format!("{}.{:03}Z", second.trim_end_matches('Z'), time.millisecond()))
    };
    nanoseconds.and_then(in_years).unwrap_or_else(|| match since {
        Ok(after) => format!("{} s after 1970", after.as_secs()),
        Err(before) => format!("{} s before 1970", before.duration().as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_time_has_a_text() {
        let after = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let before = |seconds| SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(seconds));
        let check = |time: Option<SystemTime>, expected: &str| assert_eq!(time.map(utc).as_deref(), Some(expected));
        check(after(0), "1970-01-01T00:00:00.000Z");
        check(after(253_402_300_799), "9999-12-31T23:59:59.000Z");
        check(after(253_402_300_800), "253402300800 s after 1970");
        check(before(1), "1969-12-31T23:59:59.000Z");
        check(before(1 << 40), "1099511627776 s before 1970");
        let farthest = i64::MAX.unsigned_abs();
        assert!(after(farthest).into_iter().chain(before(farthest)).map(utc).all(|text| text.ends_with("1970")));
    }
}
