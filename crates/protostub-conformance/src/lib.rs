//! Conformance kit: checks stubs, message nodes and runtimes against the contract and the
//! specification.
//!
//! * [`Case`]: a requirement with a stable id, its sentence, and the document of the sentence
//! * [`Verdict`]: the result of a case: passed, failed (expected, observed) or not applicable
//!   (reason)
//! * [`Report`]: the verdicts of a suite about one subject, as text, JSON or JUnit XML
//! * [`stub`]: the suite for a component. It has a sandbox and a bus of its own, and sits between
//!   the stub and its server
//! * [`node`]: the suite for a message node, at any URL
//! * [`runtime`]: the suite for a runtime: the one of this project, or another one behind an
//!   adapter
//!
//! A case never waits for longer than a fixed time. A case that another failure makes undecidable
//! does not apply, so a report names each fault once.
//!
//! `tests/CASES.md` in the repository has the cases of the reTHINK project that sources cite.

mod case;
pub mod node;
mod report;
pub mod runtime;
pub mod stub;

pub use case::{Case, Outcome, Verdict};
pub use report::{Report, Tally};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Case, node::NodeSuite, runtime::RuntimeSuite, stub::StubSuite};

    /// The catalogue of cases, which sources cite as `tests/CASES.md: C7, C15`.
    const CATALOGUE: &str = include_str!("../../../tests/CASES.md");

    /// Returns the rows of the catalogue that a source cites.
    fn cited(source: &str) -> impl Iterator<Item = &str> {
        source.split("; ").filter_map(|part| part.strip_prefix("tests/CASES.md: ")).flat_map(|rows| rows.split(", "))
    }

    #[test]
    fn catalogue_has_every_cited_case() {
        let mut rows = BTreeSet::new();
        for row in CATALOGUE.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
            let (id, rest) = row.split_once("` | ").expect("an id in the first column");
            assert_eq!(rest.split(" | ").filter(|cell| !cell.trim().is_empty()).count(), 2, "{id} has no sentence or no source");
            assert!(rows.insert(id), "{id} has two rows");
        }
        let cases: Vec<Case> = StubSuite::cases().chain(NodeSuite::cases()).chain(RuntimeSuite::cases()).collect();
        let missing: Vec<_> = cases.iter().flat_map(|case| cited(case.source)).filter(|id| !rows.contains(*id)).collect();
        assert!(missing.is_empty(), "tests/CASES.md has no rows for {missing:?}");
        assert!(cases.iter().filter(|case| cited(case.source).next().is_some()).count() > 80, "too few cases cite the catalogue");
    }
}
