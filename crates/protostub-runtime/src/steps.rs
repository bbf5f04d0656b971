//! The 22 steps of the specification "Deploy Protocol Stub", as `tracing` spans.
//!
//! Every step of a deployment is a span of its own with the target `protostub`, the name `step` and
//! these fields: `step` (1 to 22), `call` (the step's text in the specification), `domain`, `stub`
//! (the stub's URL, from step 9 on) and `detail`. The span of a call is open until the answer has
//! come. The span of an answer is opened and closed at once.
//!
//! The sandbox opens the span of step 17, the runtime all others. They happen in the order of
//! [`Step::ORDER`]. Only calls that find no stub have steps 1 and 2.

use std::sync::OnceLock;

pub use protostub_types::Step;
use protostub_types::{Address, SafeText, StubKey};
use tracing::{Span, info_span};

/// Opens the steps of one deployment.
#[derive(Debug)]
pub(crate) struct Steps {
    domain: String,
    stub: OnceLock<Address>,
}

impl Steps {
    pub(crate) fn of(key: &StubKey) -> Self {
        Self { domain: key.to_string(), stub: OnceLock::new() }
    }

    /// Sets the stub's URL for all further spans.
    pub(crate) fn stub_is(&self, stub: &Address) {
        let _ = self.stub.set(stub.clone());
    }

    /// Opens a step that lasts until the span is dropped.
    pub(crate) fn open(&self, step: Step, detail: &str) -> Span {
        let stub = self.stub.get().map_or("", Address::as_str);
        let (number, detail) = (step.number(), SafeText::new(detail));
        info_span!(target: "protostub", "step", step = number, call = step.call(), domain = %self.domain, stub, detail = detail.as_str())
    }

    /// Marks a step that is an answer, or done at once.
    pub(crate) fn mark(&self, step: Step, detail: &str) {
        drop(self.open(step, detail).entered());
    }
}
