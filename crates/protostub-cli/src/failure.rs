use std::{
    fmt::{self, Display},
    path::Path,
    process::ExitCode,
};

use protostub_runtime::RequestError;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::text::{OutputFormat, json_text};

/// Why a command ends without having done what it was to do. Any other error is a [`FailureKind::Failed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(rename = "error")]
    problem: String,
    kind: FailureKind,
    /// Of a request that has no reply: as in RFC 9110.
    code: Option<u16>,
}

/// What scripts may want to tell apart, by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// It could not be done, or was refused.
    Failed = 1,
    /// What was given to the command cannot be used.
    Usage = 2,
    /// There is no runtime to do it.
    NoRuntime = 3,
    /// There is no such stub in the runtime.
    NotDeployed = 4,
}

#[cfg_attr(not(unix), allow(dead_code, reason = "only a control socket needs all of them"))]
impl Failure {
    fn new(kind: FailureKind, problem: impl Display) -> Self {
        Self { problem: problem.to_string(), kind, code: None }
    }

    pub(crate) fn failed(problem: impl Display) -> Self {
        Self::new(FailureKind::Failed, problem)
    }

    pub(crate) fn wrong(problem: impl Display) -> Self {
        Self::new(FailureKind::Usage, problem)
    }

    /// What was given to the command cannot be used.
    pub(crate) fn usage(problem: impl Display) -> anyhow::Error {
        Self::wrong(problem).into()
    }

    /// A file that was named on the command line, and what is wrong with it.
    pub(crate) fn file(path: &Path, problem: impl Display) -> anyhow::Error {
        Self::usage(format_args!("{}: {problem}", path.display()))
    }

    pub(crate) fn no_runtime(problem: impl Display) -> anyhow::Error {
        Self::new(FailureKind::NoRuntime, problem).into()
    }

    pub(crate) fn not_deployed(problem: impl Display) -> anyhow::Error {
        Self::new(FailureKind::NotDeployed, problem).into()
    }

    /// What an error comes down to.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return failure.clone();
        }
        let code = error.downcast_ref::<RequestError>().map(|error| error.code);
        Self { problem: format!("{error:#}"), kind: FailureKind::Failed, code }
    }

    /// Returns the line for stderr, with a line feed at its end.
    pub(crate) fn line(&self, format: OutputFormat) -> String {
        format.line(|| format!("protostub: {self}"), || json_text(&json!(self).to_string()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Failure {}
