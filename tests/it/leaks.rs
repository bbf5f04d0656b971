//! Looks for marked secrets in everything that is logged, down to `debug`, and by whomever.

use std::sync::{LazyLock, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::LevelFilter, registry::LookupSpan};

use crate::lines::Lines;

/// What every marked secret holds.
pub(crate) const MARK: &str = "mark6f1d9c";

static FOUND: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// The lines that hold a marked secret, or tell of one that was taken out.
pub(crate) fn found() -> Vec<String> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps them; [`steps::record`](crate::steps::record) begins it.
///
/// At `trace`, the compiler tells of every instruction, and protocols of every byte.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Lines(look).with_filter(LevelFilter::DEBUG)
}

fn look(line: String) {
    if line.contains(MARK) || line.contains("[secret]") {
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
