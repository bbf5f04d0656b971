//! Checks every log line of the project: its length, and the absence of characters that a terminal
//! obeys.

use std::sync::{LazyLock, Mutex, PoisonError};

use ::hostile::unsafe_character;
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::lines::Lines;

/// Maximum length of a log line, in bytes. A line of a stub has 8 KiB.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

static UNSAFE: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// Returns the lines that no log may have.
pub(crate) fn not_safe() -> Vec<String> {
    UNSAFE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Checks each line of the project. [`steps::record`](crate::steps::record) starts the layer.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Lines(check).with_filter(Targets::new().with_target("protostub", tracing::Level::DEBUG))
}

fn check(line: String) {
    let problem = match unsafe_character(&line) {
        Some(character) => format!("{character:?} is in a line: {line:?}"),
        None if line.len() > MAX_LINE_BYTES => format!("a line has {} bytes: {}", line.len(), &line[..200]),
        None => return,
    };
    UNSAFE.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
}
