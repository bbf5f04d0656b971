use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::SafeText;

/// What a protocol stub goes through, from the first message for its domain to its end.
///
/// ```text
/// deploying ──► deployed ──► created ──► in-progress ──► live ◄──► disconnected ──► in-progress …
///     │                         ▲             │            │             │
///     └──► deployment-failed    │             └────────────┴──► failed   │
///                               │                                 │      │ the instance broke, or is replaced:
///                               └─────────────────────────────────┴──────┘ the next one takes over
///
/// every status but `dead` ──► dead (undeployed)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StubStatus {
    /// The runtime is at it.
    Deploying,
    /// Its code is in a sandbox, connected to the bus.
    Deployed,
    /// It could not be deployed.
    DeploymentFailed,
    /// It has started: its first instance, or one that takes over from another.
    Created,
    /// It is connecting to its domain.
    InProgress,
    /// Messages flow.
    Live,
    /// It has lost, or ended, its connection; or its instance, and another one takes over: at once, or, if it was idle, with the next message.
    Disconnected,
    /// It cannot connect, or it crashed too often.
    Failed,
    /// It was undeployed.
    Dead,
}

impl StubStatus {
    /// The name on the wire, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::DeploymentFailed => "deployment-failed",
            Self::Created => "created",
            Self::InProgress => "in-progress",
            Self::Live => "live",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }

    /// Whether a stub in this status is there to be used, now or soon: nobody needs to deploy another one.
    #[must_use]
    pub const fn is_available(self) -> bool {
        !matches!(self, Self::DeploymentFailed | Self::Failed | Self::Dead)
    }

    /// Whether this status may be followed by `next`. A status may not follow itself, `dead` may follow any other.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use StubStatus::{Created, Dead, Deployed, Deploying, DeploymentFailed, Disconnected, Failed, InProgress, Live};
        match self {
            Dead => false,
            // Some stubs are live, or out of luck, without a word in between, or with one from their first call already.
            Deploying => matches!(next, Deployed | Created | InProgress | Live | DeploymentFailed | Failed | Dead),
            Deployed => matches!(next, Created | InProgress | Live | Disconnected | Failed | Dead),
            Created => matches!(next, InProgress | Live | Disconnected | Failed | Dead),
            InProgress => matches!(next, Live | Disconnected | Failed | Dead),
            Live => matches!(next, InProgress | Disconnected | Failed | Dead),
            // `created`: the next instance, of which only the runtime speaks.
            Disconnected => matches!(next, Created | InProgress | Live | Failed | Dead),
            Failed => matches!(next, Deploying | Created | Disconnected | Dead),
            // A new deployment.
            DeploymentFailed => matches!(next, Deploying | Dead),
        }
    }
}

impl fmt::Display for StubStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StubStatus {
    type Err = ();

    /// Reads the names in any case, and the aliases that stubs in the wild send: `connected` is live, `create` is created.
    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "deploying" => Self::Deploying,
            "deployed" => Self::Deployed,
            "deployment-failed" => Self::DeploymentFailed,
            "created" | "create" => Self::Created,
            "in-progress" => Self::InProgress,
            "live" | "connected" => Self::Live,
            "disconnected" => Self::Disconnected,
            "failed" => Self::Failed,
            "dead" => Self::Dead,
            _ => return Err(()),
        })
    }
}

/// A status, as it is told to those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusReport {
    /// What holds.
    pub status: StubStatus,
    /// Why, for people.
    pub reason: Option<SafeText>,
    /// How many statuses there were before, over the whole life of the stub's URL.
    pub sequence: u64,
    /// Since when.
    pub since: SystemTime,
}

impl StatusReport {
    /// The first report of a stub.
    #[must_use]
    pub fn first(status: StubStatus) -> Self {
        Self { status, reason: None, sequence: 0, since: SystemTime::now() }
    }

    /// The report that follows this one.
    #[must_use]
    pub fn then(&self, status: StubStatus, reason: Option<SafeText>) -> Self {
        Self { status, reason, sequence: self.sequence + 1, since: SystemTime::now() }
    }
}
