//! Looks for marked secrets in all log lines down to `debug`, from every crate.

use std::sync::{LazyLock, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::LevelFilter, registry::LookupSpan};

use crate::lines::Lines;

/// A text that every marked secret contains.
pub(crate) const MARK: &str = "mark6f1d9c";

static FOUND: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// Returns the lines that contain a marked secret, or a redaction of one.
pub(crate) fn found() -> Vec<String> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Records these lines. [`steps::record`](crate::steps::record) starts the layer.
///
/// `trace` is left out: the compiler logs every instruction there, and protocols every byte.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Lines(look).with_filter(LevelFilter::DEBUG)
}

fn look(line: String) {
    if line.contains(MARK) || line.contains("[secret]") {
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
