//! Fixtures of the end-to-end tests.
//!
//! * [`TestRuntime`]: a runtime and one hyperty, with `tests/programs/actor` as stubs if wanted
//! * [`descriptor`], [`source`], [`publish`]: catalogues in memory
//! * [`serve`]: a server that answers with exactly the bytes that a test wants
//! * [`soon`]: a time limit for what a test waits for
//!
//! Fixtures panic instead of returning errors: what they cannot do fails the test.

#![expect(clippy::exhaustive_structs, reason = "only the tests of this repository use the crate")]

mod catalogue;
mod runtime;
mod servers;
mod wait;

pub use catalogue::{descriptor, domain, publish, source, version};
pub use protostub_artifacts::component;
pub use runtime::{TestRuntime, body, builder, code_dir, follow, order};
pub use servers::{answer, not_found, ok, serve};
pub use wait::soon;
