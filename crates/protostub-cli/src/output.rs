use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::{
    bars::Bars,
    event::{Event, FormattedEvent},
    failure::Failure,
    printer::{Entry, Printer, Stream},
    text::{OutputFormat, json_text},
};

/// The output of a command: text for people, or JSON for programs.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: OutputFormat,
    pub(crate) bars: Bars,
    /// Standard error.
    pub(crate) log: Printer<LogLine>,
}

impl Output {
    /// # Errors
    /// Fails if the system cannot start a thread for the log.
    pub(crate) fn new(format: OutputFormat, bars: Bars) -> io::Result<Self> {
        let of_dropped = |lines| LogLine(format!("{lines} lines of the log were dropped: standard error was not read in time\n"));
        let log = Printer::start(Stream::Stderr, bars.clone(), of_dropped)?;
        Ok(Self { format, bars, log })
    }

    /// Returns the same output with the JSON format.
    #[cfg(feature = "conformance")]
    pub(crate) fn in_json(&self) -> Self {
        Self { format: OutputFormat::Json, ..self.clone() }
    }

    /// Returns the form of the output.
    pub(crate) const fn format(&self) -> OutputFormat {
        self.format
    }

    /// Prints the text or the JSON, as the format requires.
    pub(crate) fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> io::Result<()> {
        self.print_json(text, || json_text(&json().to_string()))
    }

    /// Prints the text or the JSON, as the format requires. The JSON is serialized already.
    pub(crate) fn print_json(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> String) -> io::Result<()> {
        let line = self.format.line(text, json);
        self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(line.as_bytes())?;
            stdout.flush()
        })
    }

    /// Prints one text for all values, or the JSON of each value on its own line.
    pub(crate) fn print_each<T: Serialize>(&self, all: &[T], text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.format == OutputFormat::Text {
            return Ok(self.print(text, || Value::Null)?);
        }
        for one in all {
            let json = serde_json::to_value(one)?;
            self.print(String::new, || json)?;
        }
        Ok(())
    }

    /// Starts a thread that prints events, for commands that must not wait for a reader.
    pub(crate) fn printer(&self) -> io::Result<Printer<FormattedEvent>> {
        let format = self.format;
        let of_dropped = move |lines| FormattedEvent { event: Event::Dropped { lines }, format };
        Printer::start(Stream::Stdout, self.bars.clone(), of_dropped)
    }

    /// Logs the failure of the command, always on stderr.
    pub(crate) fn error(&self, failure: &Failure) {
        self.log.print(LogLine(failure.line(self.format)));
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

/// Returns `true` if the command ended because the reader closed its output.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
