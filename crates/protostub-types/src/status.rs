use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::SafeText;

/// The status of a protocol stub, from the first message for its domain to its end.
///
/// ```text
/// deploying ──► deployed ──► created ──► in-progress ──► live ◄──► disconnected ──► in-progress …
///     │                         ▲             │            │             │
///     └──► deployment-failed    │             └────────────┴──► failed   │
///                               │                                 │      │ crash or replacement:
///                               └─────────────────────────────────┴──────┘ next instance starts
///
/// every status but `dead` ──► dead (undeployed)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StubStatus {
    /// The runtime is deploying the stub.
    Deploying,
    /// The stub's code is in a sandbox, connected to the bus.
    Deployed,
    /// The stub could not be deployed.
    DeploymentFailed,
    /// The stub has started: its first instance, or a later one that takes over.
    Created,
    /// The stub is connecting to its domain.
    InProgress,
    /// The stub is connected, and messages flow.
    Live,
    /// The stub lost or ended its connection, or its instance ended. In the second case another
    /// instance takes over: at once, or with the next message if the stub was idle.
    Disconnected,
    /// The stub cannot connect, or crashed too often.
    Failed,
    /// The stub was undeployed.
    Dead,
}

impl StubStatus {
    /// Returns the name on the wire, in lower case.
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

    /// Returns `true` if a stub in this status is usable now or soon, so that no other one needs to
    /// be deployed.
    #[must_use]
    pub const fn is_available(self) -> bool {
        !matches!(self, Self::DeploymentFailed | Self::Failed | Self::Dead)
    }

    /// Returns `true` if `next` may follow this status. A status never follows itself. `dead` may
    /// follow any other status.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use StubStatus::{Created, Dead, Deployed, Deploying, DeploymentFailed, Disconnected, Failed, InProgress, Live};
        match self {
            Dead => false,
            // Some stubs become live, or fail, without a status in between. Some publish a status
            // from their first call already.
            Deploying => matches!(next, Deployed | Created | InProgress | Live | DeploymentFailed | Failed | Dead),
            Deployed => matches!(next, Created | InProgress | Live | Disconnected | Failed | Dead),
            Created => matches!(next, InProgress | Live | Disconnected | Failed | Dead),
            InProgress => matches!(next, Live | Disconnected | Failed | Dead),
            Live => matches!(next, InProgress | Disconnected | Failed | Dead),
            // `created` is the next instance; only the runtime publishes it here.
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

    /// Reads the names in any case, and the aliases that existing stubs send: `connected` is live,
    /// `create` is created.
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

/// A status as the stub's observers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusReport {
    /// The current status.
    pub status: StubStatus,
    /// Reason for the status, as text for people.
    pub reason: Option<SafeText>,
    /// Number of earlier statuses, over the whole life of the stub's URL.
    pub sequence: u64,
    /// Start of this status.
    pub since: SystemTime,
}

impl StatusReport {
    /// Creates the first report of a stub.
    #[must_use]
    pub fn first(status: StubStatus) -> Self {
        Self { status, reason: None, sequence: 0, since: SystemTime::now() }
    }

    /// Creates the report that follows this one.
    #[must_use]
    pub fn then(&self, status: StubStatus, reason: Option<SafeText>) -> Self {
        Self { status, reason, sequence: self.sequence + 1, since: SystemTime::now() }
    }
}
