//! A conformance kit: it tells the author of a stub whether the stub is right, and everybody whether a message node and this runtime are.
//!
//! * [`Case`]: what has to hold, with a stable id, the sentence of the contract or the specification that says so, and where that stands
//! * [`Verdict`]: what became of a case: it passed, it failed (what was expected, what was seen), or it does not apply (why)
//! * [`Report`]: the verdicts of a suite about one subject, as text, JSON or JUnit's XML
//! * [`stub`]: the suite for a component. It has a sandbox and a bus of its own, and stands between the stub and its server
//! * [`node`]: the suite for a message node, at any URL
//! * [`runtime`]: the suite for a runtime: the one of this project, or another one behind an adapter
//!
//! A case never waits for longer than a fixed time, and one that cannot be decided since another one failed does not apply, so that a report names what
//! is wrong once.

mod case;
pub mod node;
mod report;
pub mod runtime;
pub mod stub;

pub use case::{Case, Outcome, Verdict};
pub use report::{Report, Tally};
