//! Looks for marked secrets in everything that is logged, down to `debug`, and by whomever.

use std::{
    fmt,
    sync::{LazyLock, Mutex, PoisonError},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::Context, registry::LookupSpan};

/// What every marked secret holds.
pub(crate) const MARK: &str = "mark6f1d9c";

static FOUND: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// The lines that hold a marked secret, or tell of one that was taken out.
pub(crate) fn found() -> Vec<String> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps them; [`steps::record`](crate::steps::record) begins it.
pub(crate) struct Leaks;

impl Leaks {
    /// At `trace`, the compiler tells of every instruction, and protocols of every byte.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
        Self.with_filter(LevelFilter::DEBUG)
    }

    fn look(line: Line) {
        let Line(line) = line;
        if line.contains(MARK) || line.contains("[secret]") {
            FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }
}

impl<S: Subscriber> Layer<S> for Leaks {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        let mut line = Line(attributes.metadata().target().to_owned());
        attributes.record(&mut line);
        Self::look(line);
    }

    fn on_record(&self, _id: &span::Id, values: &span::Record<'_>, _context: Context<'_, S>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        Self::look(line);
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        Self::look(line);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push_str(&format!(" {}={value}", field.name()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
