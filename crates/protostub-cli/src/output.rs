use std::{
    fmt::Display,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use protostub_runtime::RequestError;
use protostub_types::{SafeText, json_line};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::signal;

use crate::{
    bars::Bars,
    event::{Event, Printed},
    printer::{Entry, Printer, Stream},
};

/// How a command talks: in text for people, or in JSON for programs.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    pub(crate) bars: Bars,
    /// Standard error.
    pub(crate) log: Printer<LogLine>,
}

/// Why a command ends without having done what it was to do. Any other error is a [`Kind::Failed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(rename = "error")]
    problem: String,
    kind: Kind,
    /// Of a request that has no reply: as in RFC 9110.
    code: Option<u16>,
}

/// What scripts may want to tell apart, by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
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
    fn new(kind: Kind, problem: impl Display) -> Self {
        Self { problem: problem.to_string(), kind, code: None }
    }

    pub(crate) fn failed(problem: impl Display) -> Self {
        Self::new(Kind::Failed, problem)
    }

    pub(crate) fn wrong(problem: impl Display) -> Self {
        Self::new(Kind::Usage, problem)
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
        Self::new(Kind::NoRuntime, problem).into()
    }

    pub(crate) fn not_deployed(problem: impl Display) -> anyhow::Error {
        Self::new(Kind::NotDeployed, problem).into()
    }

    /// What an error comes down to.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return failure.clone();
        }
        let code = error.downcast_ref::<RequestError>().map(|error| error.code);
        Self { problem: format!("{error:#}"), kind: Kind::Failed, code }
    }

    /// Returns the line for stderr, with a line feed at its end.
    pub(crate) fn line(&self, json: bool) -> String {
        let line = if json { json_text(&json!(self).to_string()) } else { escaped_lines(&format!("protostub: {self}")) };
        line + "\n"
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Failure {}

impl Output {
    /// # Errors
    /// If the system has no thread for the log.
    pub(crate) fn new(json: bool, bars: Bars) -> io::Result<Self> {
        let of_dropped = |lines| LogLine(format!("{lines} lines of the log were dropped: standard error was not read in time\n"));
        let log = Printer::start(Stream::Stderr, bars.clone(), of_dropped)?;
        Ok(Self { json, bars, log })
    }

    /// The same, in JSON in any case.
    #[cfg(feature = "conformance")]
    pub(crate) fn in_json(&self) -> Self {
        Self { json: true, ..self.clone() }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the one or the other.
    pub(crate) fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> io::Result<()> {
        self.print_json(text, || json_text(&json().to_string()))
    }

    /// Prints the one or the other, where the JSON is text already.
    pub(crate) fn print_json(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> String) -> io::Result<()> {
        let line = Self::form(self.json, text, json);
        self.bars.aside(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(line.as_bytes())?;
            stdout.flush()
        })
    }

    /// Returns the one or the other, with a line feed at its end.
    pub(crate) fn form(is_json: bool, text: impl FnOnce() -> String, json: impl FnOnce() -> String) -> String {
        let line = if is_json { json() } else { escaped_lines(&text()) };
        line + "\n"
    }

    /// Prints one text for all of them, or the JSON of each in a line of its own.
    pub(crate) fn print_each<T: Serialize>(&self, all: &[T], text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if !self.json {
            return Ok(self.print(text, || Value::Null)?);
        }
        for one in all {
            let json = serde_json::to_value(one)?;
            self.print(String::new, || json)?;
        }
        Ok(())
    }

    /// Starts a thread that prints events, for commands that must not wait for a reader.
    pub(crate) fn printer(&self) -> io::Result<Printer<Printed>> {
        let json = self.json;
        let of_dropped = move |lines| Printed { event: Event::Dropped { lines }, json };
        Printer::start(Stream::Stdout, self.bars.clone(), of_dropped)
    }

    /// Logs why the command failed, on stderr in any case.
    pub(crate) fn error(&self, failure: &Failure) {
        self.log.print(LogLine(failure.line(self.json)));
    }
}

/// A line of the log.
#[derive(Debug)]
pub(crate) struct LogLine(pub(crate) String);

impl Entry for LogLine {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn into_text(self) -> String {
        self.0
    }
}

/// Returns JSON text in one line, without characters that act on a terminal.
pub(crate) fn json_text(json: &str) -> String {
    // Text that serde wrote is JSON.
    json_line(json).unwrap_or_else(|| "null".to_owned())
}

/// Returns a text as one line, with characters that are not shown escaped, but without a cut.
pub(crate) fn escaped(text: &str) -> SafeText {
    SafeText::cut(text, usize::MAX)
}

/// Returns a text whose lines are escaped, each for itself.
fn escaped_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escaped).collect();
    lines.iter().map(SafeText::as_str).collect::<Vec<_>>().join("\n")
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

/// SIGHUP, where there is one; from when it is made, that does not end the process by itself.
pub(crate) struct Hangup {
    #[cfg(unix)]
    signal: Option<signal::unix::Signal>,
}

impl Hangup {
    /// `wanted`: else it is never told, and ends the process as before.
    pub(crate) fn listen(wanted: bool) -> io::Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            Ok(Self { signal: wanted.then(|| signal(SignalKind::hangup())).transpose()? })
        }
        #[cfg(not(unix))]
        {
            let _ = wanted;
            Ok(Self {})
        }
    }

    /// Waits for it.
    pub(crate) async fn told(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
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
