use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use protostub_runtime::{Address, BusCounts, Domain, Protostub, Runtime, StubStatus};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::output::Failure;

/// What a client asks for: a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Answered with a [`Stub`] when it is live.
    Deploy {
        target: String,
        /// Whether to be told how the download and the compilation go on.
        #[serde(default)]
        progress: bool,
    },
    /// Answered with the last that is known of the [`Stub`] when it is gone.
    Undeploy { target: String },
    /// Answered with an [`Update`] when the new version is live, or there is none.
    Update {
        target: String,
        /// Whether to tell only what there is.
        #[serde(default)]
        check: bool,
        /// As for `deploy`.
        #[serde(default)]
        progress: bool,
    },
    /// Answered with [`Stubs`].
    List {},
    /// Answered with [`Reloaded`].
    Reload {},
    /// Answered with [`Sent`] when there is a reply.
    Send(Letter),
    /// Answered with a [`Status`], or if there is a target, with its [`Stub`].
    Status {
        #[serde(default)]
        target: Option<String>,
    },
    /// Answered with a [`Status`]; then each [`Change`] is told, until the client sends something or goes.
    Follow {
        #[serde(default)]
        target: Option<String>,
    },
}

/// What a client is told: a line. A request has exactly one `result` or `error`. `progress` comes before it, `status` after that of `follow`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Response {
    Result { result: Value },
    Error(Failure),
    Progress { progress: Doing },
    Status { status: Change },
}

/// A message that is to be sent, from somewhere in the runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Letter {
    pub(crate) to: Address,
    #[serde(default = "read")]
    pub(crate) r#type: String,
    #[serde(default)]
    pub(crate) from: Option<Address>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Value>,
    /// In seconds.
    #[serde(default = "half_a_minute")]
    pub(crate) timeout: f64,
    /// As for `deploy`.
    #[serde(default)]
    pub(crate) progress: bool,
}

fn read() -> String {
    "read".to_owned()
}

fn half_a_minute() -> f64 {
    30.0
}

/// A `null` that is there is a body too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A stub, as it is at the moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// Its key: its domain, or what tells it from the domain's other stubs.
    pub(crate) key: String,
    pub(crate) domain: Domain,
    /// Its address. It has none before step 9.
    pub(crate) stub: Option<Address>,
    pub(crate) status: StubStatus,
    pub(crate) reason: Option<String>,
    /// Since when it has the status.
    pub(crate) since: String,
    /// What its descriptor says.
    pub(crate) version: Option<String>,
    /// Where its descriptor was found.
    pub(crate) descriptor: Option<String>,
    /// The SHA-256 of its component, in hexadecimal digits.
    pub(crate) digest: Option<String>,
    /// The address of its sandbox.
    pub(crate) sandbox: Option<Address>,
    /// How many instances followed its first one.
    pub(crate) restarts: u64,
    /// How often it ran into each limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<String, u64>,
    /// The report of its last crash.
    pub(crate) crash: Option<Value>,
}

/// What came of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Update {
    /// Of which stub.
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
    /// What runs is what is published.
    UpToDate,
    /// Something else is published. It may be older.
    Available,
    /// What is published runs now.
    Updated,
}

/// All stubs, in the order of their keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stubs {
    pub(crate) stubs: Vec<Stub>,
}

/// The policies that are in force now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Their file.
    pub(crate) policy: PathBuf,
}

/// A reply, and how long it took.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) reply: Value,
    pub(crate) milliseconds: u64,
}

/// A runtime.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) runtime: Address,
    pub(crate) home: Domain,
    /// Of the `protostub` that runs it.
    pub(crate) version: String,
    /// Of the process.
    pub(crate) pid: u32,
    /// Since when it runs.
    pub(crate) since: String,
    pub(crate) stubs: Vec<Stub>,
    /// What the bus has counted.
    pub(crate) messages: BTreeMap<String, u64>,
}

/// A stub's new status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) domain: Domain,
    pub(crate) stub: Option<Address>,
    pub(crate) status: StubStatus,
    pub(crate) reason: Option<String>,
    /// When it was heard of.
    pub(crate) at: String,
}

/// How a deployment goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doing {
    /// Of which stub.
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What a deployment is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doing", rename_all = "lowercase")]
pub(crate) enum What {
    Downloading {
        bytes: u64,
        total: Option<u64>,
    },
    Compiling,
    /// Neither of the two, for now.
    Ready,
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

    /// Those of a runtime, in the order of their keys.
    pub(crate) fn all(runtime: &Runtime) -> Vec<Self> {
        let mut stubs: Vec<_> = runtime.protostubs().iter().map(Self::of).collect();
        stubs.sort_by(|one, other| one.key.cmp(&other.key));
        stubs
    }
}

impl From<Stub> for Change {
    fn from(stub: Stub) -> Self {
        Self { domain: stub.domain, stub: stub.stub, status: stub.status, reason: stub.reason, at: stub.since }
    }
}

impl Status {
    pub(crate) fn of(runtime: &Runtime, since: SystemTime) -> Self {
        Self {
            runtime: runtime.url().clone(),
            home: runtime.home_domain().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: utc(since),
            stubs: Stub::all(runtime),
            messages: counted(runtime.counts()),
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

/// A time as in RFC 3339, in UTC, with three digits of the second's fraction.
///
/// RFC 3339 ends with the year 9999, and a stranger's signature may state any time. A later time,
/// or one before the year 0, becomes the seconds after or before 1970.
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
