//! Checks every log line of the project: its length, and that a terminal obeys nothing in it.

use std::{
    fmt,
    sync::{LazyLock, Mutex, PoisonError},
};

use ::hostile::unsafe_character;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, filter::Targets, layer::Context, registry::LookupSpan};

/// The longest line that may be logged, in bytes: a line of a stub has 8 KiB.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

static UNSAFE: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

/// Returns the lines that no log may have.
pub(crate) fn not_safe() -> Vec<String> {
    UNSAFE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Looks at each line of the project; [`steps::record`](crate::steps::record) begins it.
pub(crate) struct Sayings;

impl Sayings {
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
        Self.with_filter(Targets::new().with_target("protostub", tracing::Level::DEBUG))
    }

    fn look(Line(line): &Line) {
        let problem = match unsafe_character(line) {
            Some(character) => format!("{character:?} is in a line: {line:?}"),
            None if line.len() > MAX_LINE_BYTES => format!("a line has {} bytes: {}", line.len(), &line[..200]),
            None => return,
        };
        UNSAFE.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
    }
}

impl<S: Subscriber> Layer<S> for Sayings {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        let mut line = Line(attributes.metadata().target().to_owned());
        attributes.record(&mut line);
        Self::look(&line);
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        Self::look(&line);
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
