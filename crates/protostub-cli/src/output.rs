use std::{
    fmt::Display,
    io::{self, Write as _},
    path::Path,
};

use protostub_runtime::RequestError;
use serde_json::{Value, json};
use tokio::signal;

/// How a command talks: in text for people, or in JSON for programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

/// What was given to the command cannot be used: the exit code is 2.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl Usage {
    pub(crate) fn of(problem: impl Display) -> anyhow::Error {
        anyhow::Error::new(Self(problem.to_string()))
    }

    /// A file that was named on the command line, and what is wrong with it.
    pub(crate) fn file(path: &Path, problem: impl Display) -> anyhow::Error {
        Self::of(format_args!("{}: {problem}", path.display()))
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints the one or the other.
    pub(crate) fn print(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", json())?
        } else {
            writeln!(stdout, "{}", text())?
        }
        stdout.flush()
    }

    /// Says why the command failed, on stderr in any case.
    pub(crate) fn error(self, error: &anyhow::Error) {
        let mut stderr = io::stderr().lock();
        let line = if self.json {
            let code = error.downcast_ref::<RequestError>().map(|error| error.code);
            json!({ "error": format!("{error:#}"), "code": code }).to_string()
        } else {
            format!("protostub: {error:#}")
        };
        // There is nobody left to tell.
        let _ = writeln!(stderr, "{line}");
    }
}

/// Whether a command ended since nobody reads its output any more.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A table of names and values, the values in one column.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let value = value.replace('\n', &format!("\n  {:width$}  ", ""));
        format!("  {name:width$}  {value}").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Ctrl-C, and where there is one, SIGTERM; from when it is made, neither ends the process by itself.
pub(crate) struct Stop {
    #[cfg(unix)]
    signals: [signal::unix::Signal; 2],
}

impl Stop {
    pub(crate) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for one of them.
    pub(crate) async fn told(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        }
        #[cfg(not(unix))]
        signal::ctrl_c().await
    }
}
