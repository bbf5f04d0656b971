use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protostub_types::{Address, Allowance, Domain, Overdrawn, SafeText};

use super::rate::RateLimit;
use crate::{
    Limits, Secrets,
    contract::log::{self, Level},
    recorder::Entry,
    state::StubState,
};

/// Number of lines of standard error that are kept, for the report of a crash.
const STDERR_TAIL_LINES: usize = 24;
/// Number of bytes that a line takes in a log apart from its text and the stub's names: time, level
/// and target.
const LINE_OVERHEAD_BYTES: usize = 64;

/// The log lines of one instance, from `log.write`, standard output and standard error.
pub(crate) struct LogLines {
    stub: Address,
    domain: Domain,
    line_bytes: usize,
    secrets: Arc<Secrets>,
    /// Bytes of all lines of a day, of all instances of the stub.
    allowance: Allowance,
    lines: Mutex<Lines>,
}

struct Lines {
    rate: RateLimit,
    dropped: u64,
    /// Lines that were dropped since the last [`LogLines::take_dropped`].
    dropped_untold: DroppedLines,
    /// Output without a line's end yet.
    standard: Vec<u8>,
    error: Vec<u8>,
    stderr_tail: VecDeque<SafeText>,
}

/// Number of lines that were dropped, by the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DroppedLines {
    pub(crate) over_rate: u64,
    /// Lines over the stub's own bytes of a day.
    pub(crate) over_day: u64,
    /// Lines over the bytes of a day of all stubs together.
    pub(crate) over_total: u64,
}

/// The stream to which a program writes lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Standard,
    Error,
}

impl Output {
    fn level(self) -> Level {
        match self {
            Self::Standard => Level::Info,
            Self::Error => Level::Warn,
        }
    }
}

impl LogLines {
    pub(crate) fn new(stub: Address, domain: Domain, limits: &Limits, secrets: Arc<Secrets>, allowance: Allowance) -> Self {
        Self {
            stub,
            domain,
            line_bytes: limits.log_line_bytes,
            secrets,
            allowance,
            lines: Mutex::new(Lines {
                rate: RateLimit::new(limits.log_lines_per_second),
                dropped: 0,
                dropped_untold: DroppedLines::default(),
                standard: Vec::new(),
                error: Vec::new(),
                stderr_tail: VecDeque::new(),
            }),
        }
    }

    /// Writes one line.
    pub(crate) fn write(&self, level: Level, text: &str) {
        self.line(&mut self.lines(), level, text);
    }

    /// Takes bytes that the guest wrote to standard output or error, and writes the lines that
    /// ended.
    pub(crate) fn output(&self, output: Output, bytes: &[u8]) {
        let mut lines = self.lines();
        // Bytes over the length of a line are not kept, except for a secret that begins within it.
        let most = self.line_bytes.saturating_add(1).saturating_add(self.secrets.longest());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ended) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            let line = lines.of(output);
            let room = most.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if ended {
                let line = mem::take(line);
                self.output_line(&mut lines, output, &line);
            }
        }
    }

    /// Writes the unfinished lines, and the number of dropped lines, after the guest has ended.
    pub(crate) fn finish(&self) {
        let mut lines = self.lines();
        for output in [Output::Standard, Output::Error] {
            let line = mem::take(lines.of(output));
            if !line.is_empty() {
                self.output_line(&mut lines, output, &line);
            }
        }
        self.tell_dropped(&mut lines);
    }

    /// Returns the lines that were dropped since the last call of this function.
    pub(crate) fn take_dropped(&self) -> DroppedLines {
        mem::take(&mut self.lines().dropped_untold)
    }

    /// Forgets the standard error of a call that returned.
    pub(crate) fn clear_stderr_tail(&self) {
        self.lines().stderr_tail.clear();
    }

    /// Takes the lines that the guest wrote to standard error during this call. In Rust, they begin
    /// with the panic's message and place.
    pub(crate) fn take_stderr_tail(&self) -> Option<SafeText> {
        let words = mem::take(&mut self.lines().stderr_tail);
        let panic = words.iter().position(|line| line.contains("panicked at")).unwrap_or(0);
        let text = words
            .range(panic..)
            .filter(|line| !line.trim().is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"))
            .map(SafeText::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        // Each line is cut already.
        (!text.is_empty()).then(|| SafeText::cut(&text, usize::MAX))
    }

    fn output_line(&self, lines: &mut Lines, output: Output, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if output == Output::Error {
            if lines.stderr_tail.len() == STDERR_TAIL_LINES {
                lines.stderr_tail.pop_front();
            }
            lines.stderr_tail.push_back(self.shown(&text));
        }
        self.line(lines, output.level(), &text);
    }

    fn line(&self, lines: &mut Lines, level: Level, text: &str) {
        if !lines.rate.admit() {
            lines.dropped += 1;
            lines.dropped_untold.over_rate += 1;
            return;
        }
        let text = self.shown(text);
        if let Err(overdrawn) = self.charge(text.len()) {
            lines.dropped += 1;
            let dropped = &mut lines.dropped_untold;
            *(if overdrawn.is_total { &mut dropped.over_total } else { &mut dropped.over_day }) += 1;
            return;
        }
        self.tell_dropped(lines);
        let (stub, domain) = (self.stub.as_str(), self.domain.as_str());
        match level {
            Level::Trace => tracing::trace!(target: "protostub::stub", stub, domain, "{text}"),
            Level::Debug => tracing::debug!(target: "protostub::stub", stub, domain, "{text}"),
            Level::Info => tracing::info!(target: "protostub::stub", stub, domain, "{text}"),
            Level::Warn => tracing::warn!(target: "protostub::stub", stub, domain, "{text}"),
            Level::Error => tracing::error!(target: "protostub::stub", stub, domain, "{text}"),
        }
    }

    /// Returns the text of one log line: without secrets, cut and escaped.
    fn shown(&self, text: &str) -> SafeText {
        self.secrets.shown_cut(text, self.line_bytes)
    }

    /// Charges a line with a text of this length, and reports a refusal.
    fn charge(&self, bytes: usize) -> Result<(), Overdrawn> {
        let bytes = bytes + self.stub.as_str().len() + self.domain.as_str().len() + LINE_OVERHEAD_BYTES;
        self.allowance.charge(u64::try_from(bytes).unwrap_or(u64::MAX)).inspect_err(|overdrawn| self.tell_overdrawn(*overdrawn))
    }

    /// Reports that no line is left for today: once a day, and not for each line.
    fn tell_overdrawn(&self, overdrawn: Overdrawn) {
        if overdrawn.is_first {
            let (stub, domain, limit) = (self.stub.as_str(), self.domain.as_str(), overdrawn.limit);
            let problem = match overdrawn.is_total {
                true => "all stubs have logged their bytes of a day, or this stub its share of them (`max-log-bytes-per-day`)",
                false => "the stub has logged its bytes of a day (`log-bytes-per-day`)",
            };
            tracing::warn!(
                target: "protostub::limits",
                stub,
                domain,
                limit,
                "{problem}; further lines are dropped and counted until the day of the log is over"
            );
        }
    }

    /// Reports dropped lines, in a line that the stub pays for, too.
    fn tell_dropped(&self, lines: &mut Lines) {
        if lines.dropped == 0 || self.charge(0).is_err() {
            return;
        }
        let dropped = mem::take(&mut lines.dropped);
        let (stub, domain) = (self.stub.as_str(), self.domain.as_str());
        tracing::warn!(
            target: "protostub::stub",
            stub,
            domain,
            dropped,
            "log lines of the stub were dropped: {}, or more bytes than `log-bytes-per-day`",
            lines.rate.exceeded("lines")
        );
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn of(&mut self, output: Output) -> &mut Vec<u8> {
        match output {
            Output::Standard => &mut self.standard,
            Output::Error => &mut self.error,
        }
    }
}

impl log::Host for StubState {
    fn write(&mut self, level: Level, text: String) {
        let name = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.record(&Entry::call("log.write").detail(name).bytes(text.len()));
        self.log.write(level, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protostub_types::Allowances;

    use super::*;

    fn allowance(bytes: u64, of_all: u64) -> Allowance {
        Allowances::new(of_all, Duration::from_secs(3600)).of("a.example", bytes)
    }

    fn lines(per_second: u32, line_bytes: usize) -> LogLines {
        lines_within(per_second, line_bytes, allowance(u64::MAX, u64::MAX))
    }

    fn lines_within(per_second: u32, line_bytes: usize, allowance: Allowance) -> LogLines {
        let limits = Limits { log_lines_per_second: per_second, log_line_bytes: line_bytes, ..Limits::default() };
        LogLines::new(
            Address::parse("hyperty-runtime://a.example/protostub/1").unwrap(),
            Domain::parse("a.example").unwrap(),
            &limits,
            Arc::new(Secrets::new()),
            allowance,
        )
    }

    #[test]
    fn log_bytes_of_a_day_outlive_the_instance() {
        let allowance = allowance(1_000, u64::MAX);
        let log = || lines_within(100, 64, allowance.clone());
        let first = log();
        for _ in 0..10 {
            first.write(Level::Info, "ten bytes.");
        }
        assert_eq!(first.take_dropped(), DroppedLines { over_day: 2, ..DroppedLines::default() });
        // Neither an empty line nor the count of dropped ones is free.
        let second = log();
        second.write(Level::Info, "");
        assert_eq!(second.take_dropped().over_day, 1);
        second.finish();
        assert_eq!(second.lines().dropped, 1);
    }

    #[test]
    fn log_bytes_of_all_stubs_are_bounded() {
        let log = lines_within(100, 64, allowance(u64::MAX, 1_000));
        for _ in 0..10 {
            log.write(Level::Info, "ten bytes.");
        }
        assert_eq!(log.take_dropped(), DroppedLines { over_total: 6, ..DroppedLines::default() });
    }

    #[test]
    fn stderr_tail_begins_at_the_panic() {
        let log = lines(100, 64);
        log.output(Output::Error, b"warming up\nthread 'main' panick");
        log.output(Output::Error, b"ed at src/lib.rs:3:5:\nno way\nnote: run with `RUST_BACKTRACE=1` environment variable\n");
        assert_eq!(log.take_stderr_tail().as_deref(), Some(r"thread 'main' panicked at src/lib.rs:3:5:\nno way"));
        assert_eq!(log.take_stderr_tail(), None);
    }

    #[test]
    fn long_log_line_is_cut() {
        let shown = lines(100, 8).shown(&"x".repeat(1 << 20));
        assert_eq!(shown, "xxxxx…");
    }

    #[test]
    fn log_text_is_cut_and_escaped() {
        let log = lines(100, 64);
        assert_eq!(log.shown("a\u{1b}[2J\r\nb\u{202e}c\u{2028}"), r"a\u{1b}[2J\r\nb\u{202e}c\u{2028}");
        assert_eq!(lines(100, 5).shown("äöü"), "ä…");
    }

    #[test]
    fn log_buffers_are_bounded() {
        let log = lines(2, 8);
        log.output(Output::Standard, &[b'x'; 1 << 16]);
        assert_eq!(log.lines().standard.len(), 9);
        for _ in 0..100 {
            log.output(Output::Error, b"again\n");
        }
        assert_eq!(log.lines().stderr_tail.len(), STDERR_TAIL_LINES);
        assert_eq!(log.lines().dropped, 98);
        log.finish();
    }
}
