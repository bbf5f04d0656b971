//! Records the steps of deployments, by domain.

use std::{
    collections::HashMap,
    fmt,
    sync::{LazyLock, Mutex, Once, PoisonError},
};

use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, filter::Targets, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{leaks, sayings};

/// One step, as recorded from its span.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub(crate) number: u64,
    pub(crate) call: String,
    pub(crate) domain: String,
    pub(crate) stub: String,
    pub(crate) detail: String,
}

static RECORDED: LazyLock<Mutex<HashMap<String, Vec<Step>>>> = LazyLock::new(Mutex::default);

/// Starts the recording, once for the whole test binary.
pub(crate) fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let steps = Recorder.with_filter(Targets::new().with_target("protostub", Level::INFO));
        tracing_subscriber::registry().with(steps).with(leaks::layer()).with(sayings::layer()).init();
    });
}

/// Returns the steps that a domain's deployments have taken so far.
pub(crate) fn of(domain: &str) -> Vec<Step> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner).get(domain).cloned().unwrap_or_default()
}

struct Recorder;

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target() != "protostub" || metadata.name() != "step" {
            return;
        }
        let mut step = Step::default();
        attributes.record(&mut step);
        RECORDED.lock().unwrap_or_else(PoisonError::into_inner).entry(step.domain.clone()).or_default().push(step);
    }
}

impl Visit for Step {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "step" {
            self.number = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "call" => self.call = value.to_owned(),
            "domain" => self.domain = value.to_owned(),
            "stub" => self.stub = value.to_owned(),
            "detail" => self.detail = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
