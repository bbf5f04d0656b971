//! The 22 steps of the specification "Deploy Protocol Stub", as `tracing` spans.
//!
//! Every step of a deployment is a span of its own with the target `protostub` and the name `step`, and these fields: `step` (1 to 22),
//! `call` (the step's text in the specification), `domain`, `stub` (the stub's URL, from step 9 on) and `detail`. A step that calls somebody is
//! open until the answer is there; a step that is an answer is opened and closed at once.
//!
//! The sandbox opens the span of step 17, the runtime all others. They happen in the order of [`ORDER`]: as in the specification, but that the bus listener of step 19 is attached before the stub's code
//! runs for the first time (16 to 18), since a stub may post a message from its first call, and the answer must find somebody.

use std::sync::OnceLock;

use protostub_types::{Address, SafeText, StubKey};
use tracing::{Span, info_span};

/// The steps in the order in which they happen.
pub const ORDER: [u8; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 16, 17, 18, 20, 21, 22];

/// A step's text in the specification. Empty if there is no such step.
#[must_use]
pub fn call(step: u8) -> &'static str {
    match step {
        1 => "any component → Runtime UA: loadStub( sp-domain )",
        2 => "Runtime UA → Registry: discoverStub( sp-domain )",
        3 => "Registry → Runtime UA: none available",
        4 => "Runtime UA → Catalogue: get <sp-domain>/.well-known/protostub/<name>",
        5 => "Catalogue → Runtime UA: protostub descriptor",
        6 => "Runtime UA → back-end service: get the stub's source package",
        7 => "back-end service → Runtime UA: the stub's component",
        8 => "Runtime UA → Registry: registerStub( sp-domain )",
        9 => "Registry → Registry: generateStubURL( sp-domain )",
        10 => "Registry → bus: addListener( registry, <stub>/status )",
        11 => "Registry → Runtime UA: RuntimeProtoStubURL",
        12 => "Runtime UA → Sandbox: new( bus )",
        13 => "Sandbox → Runtime UA: sandbox",
        14 => "Runtime UA → Registry: registerSandbox( sandbox, sp-domain )",
        15 => "Registry → Runtime UA: RuntimeSandboxURL",
        16 => "Runtime UA → Sandbox: deployComponent( component, RuntimeProtoStubURL, configuration )",
        17 => "Sandbox → protostub: new",
        18 => "Sandbox → Runtime UA: component is deployed",
        19 => "Runtime UA → bus: addListener( sandbox, RuntimeProtoStubURL )",
        20 => "Runtime UA → caller: successful",
        21 => "protostub → bus: postMessage( protostubStatusUpdate )",
        22 => "bus → Registry: onEvent( protostubStatusUpdate )",
        _ => "",
    }
}

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

    /// From here on the spans tell the stub's URL.
    pub(crate) fn stub_is(&self, stub: &Address) {
        let _ = self.stub.set(stub.clone());
    }

    /// A step that lasts until the span is dropped.
    pub(crate) fn open(&self, step: u8, detail: &str) -> Span {
        let stub = self.stub.get().map_or("", Address::as_str);
        info_span!(target: "protostub", "step", step, call = call(step), domain = %self.domain, stub, detail = SafeText::new(detail).as_str())
    }

    /// A step that is an answer, or done at once.
    pub(crate) fn mark(&self, step: u8, detail: &str) {
        drop(self.open(step, detail).entered());
    }
}
