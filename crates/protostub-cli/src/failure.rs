use std::{
    fmt::{self, Display},
    path::Path,
    process::ExitCode,
};

use protostub_runtime::RequestError;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::text::{OutputFormat, json_text};

/// The reason why a command failed. Any other error is a [`FailureKind::Failed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(rename = "error")]
    problem: String,
    kind: FailureKind,
    /// The code of a request without a reply, as in RFC 9110.
    code: Option<u16>,
}

/// Kinds of failures that scripts can tell apart by the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// The action failed or was refused.
    Failed = 1,
    /// The command line, or a file that it names, is unusable.
    Usage = 2,
    /// No runtime is running.
    NoRuntime = 3,
    /// The stub is not deployed in the runtime.
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

    /// The command line, or a file that it names, is unusable.
    pub(crate) fn usage(problem: impl Display) -> anyhow::Error {
        Self::wrong(problem).into()
    }

    /// Creates the error for a problem with a file that the command line names.
    pub(crate) fn file(path: &Path, problem: impl Display) -> anyhow::Error {
        Self::usage(format_args!("{}: {problem}", path.display()))
    }

    pub(crate) fn no_runtime(problem: impl Display) -> anyhow::Error {
        Self::new(FailureKind::NoRuntime, problem).into()
    }

    pub(crate) fn not_deployed(problem: impl Display) -> anyhow::Error {
        Self::new(FailureKind::NotDeployed, problem).into()
    }

    /// Returns the failure behind an error, or wraps the error as [`FailureKind::Failed`].
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
