//! The stub's log: the macros of the [`log`] crate. Their lines appear in the host's log with the
//! stub's URL and domain.

use log::{LevelFilter, Log, Metadata, Record};

use crate::host;

struct HostLog;

impl Log for HostLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.args().as_str() {
            Some(text) => host::log_write(record.level(), text),
            None => host::log_write(record.level(), &record.args().to_string()),
        }
    }

    fn flush(&self) {}
}

/// Has `log`'s macros write to the host's log. The host decides which levels are shown.
pub(crate) fn install() {
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}
